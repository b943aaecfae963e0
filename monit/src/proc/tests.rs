//! Texts as Linux 6.18 writes them, shortened where a comment says so, and texts as it never does.

use super::*;

const STAT: &str = "4711 (a) b) S 1 4711 4711 0 -1 4194560 520 0 3 0 125 37 0 0 20 0 9 0 8812345 \
                    3133440 547 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0\n";

const STATUS: &str = "Name:\t(a) b)\nUmask:\t0022\nState:\tS (sleeping)\nVmRSS:\t    1724 kB\n\
                      RssAnon:\t     112 kB\nRssFile:\t    1612 kB\nRssShmem:\t       0 kB\n\
                      Threads:\t1\nvoluntary_ctxt_switches:\t150\n\
                      nonvoluntary_ctxt_switches:\t7\n";

const IO: &str = "rchar: 6976\nwchar: 12\nsyscr: 10\nsyscw: 1\nread_bytes: 4096\n\
                  write_bytes: 8192\ncancelled_write_bytes: 0\n";

const NET: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 221862153339 121267563    0   12    0     0          0         0 221862153339 121267563    0    0    0     0       0          0
eth0:1:207153279   10841    0    0    0     0          0         0   662068    6736    0    0    0     0       0          0
";

const DISKS: &str = "\
   7       0 loop0 9 0 72 1 0 0 0 0 0 2 1 0 0 0 0 0 0
 252       0 dm-0 9 0 72 1 8 0 64 0 0 2 1 0 0 0 0 0 0
   8       0 sda 100 0 800 10 50 5 400 20 0 30 30 0 0 0 0 17 9
   8       1 sda1 90 0 700 10 50 5 400 20 0 30 30 0 0 0 0 0 0
 259       0 nvme0n1 7 0 56 1 3 0 24 2 0 3 3 0 0 0 0 4 1
 259       1 nvme0n1p12 7 0 56 1 3 0 24 2 0 3 3 0 0 0 0 0 0
 254       0 vda 1 0 8 1 1 0 8 2 0 3 3 0 0 0 0 2 1
";

/// Without the columns of single interrupts.
const MACHINE: &str = "cpu  1017971 638489 402374 1428620 52686 10 53831 1215 0 0\n\
                       cpu0 484012 311214 189135 768498 24465 0 19112 614 0 0\n\
                       intr 43327241 0 0\nctxt 95532147\nbtime 1795251725\nprocesses 632074\n";

const MEMORY: &str = "MemTotal:       24684096 kB\nCached:         21693300 kB\n\
                      Active(anon):     900000 kB\nActive(file):     100 kB\n\
                      Inactive(file):   20 kB\nAnonPages:        3 kB\nHugePages_Total:       0\n";

fn file() -> &'static Path {
    Path::new("/proc/x")
}

/// What a parser says of a text.
fn refused<T: std::fmt::Debug>(
    parser: impl Fn(&Path, &str) -> Result<T, Malformed>,
    text: &str,
) -> String {
    parser(file(), text).expect_err("is to be refused").to_string()
}

#[test]
fn a_name_with_brackets_spaces_and_newlines_moves_no_column() {
    for name in ["a) b", "((", "", "x) S 1 2 3", "two\nlines", ") Z 1 (", "\u{fffd}"] {
        let stat = process_stat(file(), &STAT.replace("a) b", name)).unwrap();
        let expected = ProcessStat {
            name: name.to_owned(),
            ended: false,
            user_ms: 1250,
            system_ms: 370,
            start_ticks: 8_812_345,
        };
        assert_eq!(stat, expected);
    }
}

#[test]
fn a_process_whose_first_thread_ended_has_not_ended() {
    let ended = |text: &str| process_stat(file(), text).unwrap().ended;
    let zombie = STAT.replace(" S ", " Z ");
    assert!(!ended(&zombie));
    assert!(ended(&zombie.replace(" 20 0 9 ", " 20 0 1 ")));
    assert!(ended(&STAT.replace(" S ", " X ")));
}

#[test]
fn memory_and_switches_come_from_status() {
    let expected =
        ProcessStatus { anonymous_bytes: 112 << 10, file_bytes: 1612 << 10, switch_count: 157 };
    assert_eq!(process_status(file(), STATUS), Ok(expected));
    // A thread of the kernel has no memory of its own.
    let kernel = STATUS.replace("Rss", "None");
    assert_eq!(process_status(file(), &kernel).unwrap().anonymous_bytes, 0);
}

#[test]
fn bytes_of_a_process_are_those_of_the_disk() {
    let expected = ProcessIo { read_bytes: 4096, written_bytes: 8192 };
    assert_eq!(process_io(file(), IO), Ok(expected));
}

#[test]
fn interfaces_are_counted_each_with_or_without_a_space() {
    let interfaces = network(file(), NET).unwrap();
    assert_eq!(interfaces["lo"], [221_862_153_339, 221_862_153_339]);
    assert_eq!(interfaces["eth0:1"], [207_153_279, 662_068]);
    assert_eq!(interfaces.len(), 2);
}

#[test]
fn whole_disks_are_counted_once() {
    let disks = disks(file(), DISKS).unwrap();
    assert_eq!(disks.keys().collect::<Vec<_>>(), ["nvme0n1", "sda", "vda"]);
    let expected = Disk { read_bytes: 800 * 512, written_bytes: 400 * 512, flush_count: 17 };
    assert_eq!(disks["sda"], expected);
}

#[test]
fn nice_time_is_of_users_and_interrupts_are_of_the_system() {
    let expected = MachineStat {
        user_ms: (1_017_971 + 638_489) * 10,
        system_ms: (402_374 + 10 + 53_831) * 10,
        switch_count: 95_532_147,
    };
    assert_eq!(machine_stat(file(), MACHINE), Ok(expected));
}

#[test]
fn memory_of_files_is_mapped_or_cached() {
    let expected = MachineMemory { anonymous_bytes: 3 << 10, file_bytes: 120 << 10 };
    assert_eq!(machine_memory(file(), MEMORY), Ok(expected));
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    let said = refused(process_io, &IO.replace("4096", "many"));
    assert_eq!(said, "/proc/x, line 5: expected read_bytes and a number");
    let said = refused(process_status, &STATUS.replace("112 kB", "112 MB"));
    assert_eq!(said, "/proc/x, line 5: expected RssAnon in kB");
    let said = refused(network, &NET.replace("662068", "-1"));
    assert_eq!(said, "/proc/x, line 4: expected sent bytes in column 9");
    let said = refused(disks, "8 0 sda 100 0 800 10 50 5 400 20 0 30 30\n");
    assert_eq!(said, "/proc/x, line 1: expected flush requests in column 19 (Linux 5.5)");
    let said = refused(machine_stat, &MACHINE.replace("ctxt", "text"));
    assert_eq!(said, "/proc/x, line 7: expected a line ctxt");
    let said = refused(machine_memory, &MEMORY.replace("AnonPages", "Pages"));
    assert_eq!(said, "/proc/x, line 8: expected AnonPages in kB");
    let said = refused(process_stat, "12 (sh S 1 2");
    assert_eq!(said, "/proc/x, line 1: expected a name in brackets");
}

#[test]
fn no_text_panics_wherever_it_is_cut_or_garbled() {
    for text in [STAT, STATUS, IO, NET, DISKS, MACHINE, MEMORY, "", "\n\n\n", ":", "(", ")("] {
        for end in 0..=text.len() {
            for text in [text[..end].to_owned(), text[end..].to_owned()] {
                let huge = text.replace('1', "99999999999999999999");
                for text in [text, huge] {
                    let outcomes = [
                        process_stat(file(), &text).is_ok(),
                        process_status(file(), &text).is_ok(),
                        process_io(file(), &text).is_ok(),
                        network(file(), &text).is_ok(),
                        disks(file(), &text).is_ok(),
                        machine_stat(file(), &text).is_ok(),
                        machine_memory(file(), &text).is_ok(),
                    ];
                    assert!(outcomes.iter().filter(|ok| **ok).count() < outcomes.len());
                }
            }
        }
    }
}
