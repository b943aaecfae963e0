use std::io::Read;
use std::net::TcpListener;

use super::*;
use crate::oplog::{Mark, Record, RecordKind};

fn flags(line: &str) -> Flags {
    let words = std::iter::once("recovery").chain(line.split(' ')).map(Into::into);
    diskstore_flags::parse(words).unwrap()
}

fn record(index: u64, mark: Mark, key: &str, value: &str) -> Vec<u8> {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    let mut bytes = Vec::new();
    let kind = if value.is_empty() { RecordKind::Delete } else { RecordKind::Set };
    Record { index, mark, kind, key, value }.encode(&mut bytes);
    bytes
}

fn store_in(folder: &Path, line: &str) -> Store {
    let wanted = Wanted::new(&flags(line)).unwrap();
    Store::create(wanted.content, folder).unwrap()
}

fn installed_from(bytes: &[u8]) -> (Result<Installed, InstallError>, Vec<(u64, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.log");
    fs::write(&file, bytes).unwrap();
    let store = store_in(folder.path(), "-file x -slots 64 -value-size 16");
    let parts = Parts::beginning_with(Arc::new(RealDisk::new()), &file);
    let installed = install(&parts, 1, &store, &AtomicBool::new(false), &mut |_| {});
    let Store::Slots(slots) = store else { unreachable!("slots were asked for") };
    let held = (0..64).filter_map(|key| {
        let value = slots.read(key).unwrap().value?;
        Some((key, String::from_utf8(value.to_vec()).unwrap()))
    });
    (installed, held.collect())
}

#[test]
fn of_several_records_of_one_entry_on_one_slot_the_last_counts() {
    let log = [
        record(1, Mark::None, "3", "old"),
        record(2, Mark::More, "3", "first"),
        record(2, Mark::More, "4", "x"),
        record(2, Mark::More, "4", ""),
        record(2, Mark::None, "3", "second"),
        record(9, Mark::Image, "5", "image"),
        record(8, Mark::None, "5", "older than the image"),
    ];
    let log: Vec<u8> = log.concat();
    let (installed, held) = installed_from(&log[..log.len() - 1]);
    let installed = installed.unwrap();
    assert_eq!((installed.commands, installed.last_index), (6, 9));
    assert!(installed.torn_bytes > 0);
    assert_eq!(held, [(3, "second".to_owned()), (5, "image".to_owned())]);
}

#[test]
fn what_no_slot_can_take_and_what_is_missing_is_named() {
    let complaint = |bytes: &[u8]| installed_from(bytes).0.unwrap_err().to_string();
    let text = complaint(&record(7, Mark::None, "64", "x"));
    assert_eq!(
        text,
        "entry 7 is on key `64`, and there are slots 0 to 63; see -slots, or -program"
    );
    assert!(complaint(&record(7, Mark::None, "k", "x")).contains("key `k`"));
    assert!(complaint(&record(7, Mark::None, "1", &"x".repeat(17))).contains("see -value-size"));
    let text = complaint(&record(7, Mark::Gap, "0", "x"));
    assert!(text.contains("lacks entries up to 7"), "{text}");
    assert!(complaint(b"no log at all").contains("cannot be read at byte 0"));
}

/// Answers one request with bytes, and gives what was asked.
fn answering(listener: &TcpListener, bytes: &[u8]) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut line = vec![0; 512];
    let count = stream.read(&mut line).unwrap();
    stream.write_all(bytes).unwrap();
    String::from_utf8_lossy(&line[..count]).into_owned()
}

fn fetched_from(answers: Vec<Vec<u8>>) -> (Result<Fetched, FetchError>, Vec<u8>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        answers.iter().map(|answer| answering(&listener, answer)).collect::<Vec<_>>()
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = File::create_new(&path).unwrap();
    let outcome = fetch(
        Sources { addresses: &[source], tls: None },
        1,
        &mut spool,
        &AtomicBool::new(false),
        &mut |_| {},
    );
    (outcome, fs::read(&path).unwrap(), asked.join().unwrap())
}

#[test]
fn a_source_that_breaks_off_is_asked_for_the_rest() {
    let one = record(1, Mark::None, "3", "a");
    let two = [record(2, Mark::More, "3", "b"), record(2, Mark::None, "4", "b")].concat();
    let three = record(3, Mark::None, "3", "c");
    let end = record(3, Mark::End, "0", "");
    let whole = [one.clone(), two.clone(), three.clone()].concat();
    for cut in 0..whole.len() {
        let rest = match cut {
            cut if cut < one.len() => (1, whole.clone()),
            cut if cut < one.len() + two.len() => (2, [two.clone(), three.clone()].concat()),
            _ => (3, three.clone()),
        };
        let answers = vec![whole[..cut].to_vec(), [rest.1, end.clone()].concat()];
        let (fetched, spool, asked) = fetched_from(answers);
        let fetched = fetched.unwrap();
        assert_eq!((fetched.resumed, fetched.last_index), (1, 3), "cut at {cut}");
        assert_eq!(spool, whole, "cut at {cut}");
        assert!(asked[1].ends_with(&format!("-{}\n", rest.0)), "cut at {cut}: {asked:?}");
    }
}

#[test]
fn images_are_asked_for_again_until_an_entry_follows_them() {
    let image = record(9, Mark::Image, "3", "a");
    let entry = record(8, Mark::None, "4", "b");
    let end = record(9, Mark::End, "0", "");
    let first = [image.clone(), record(9, Mark::Image, "5", &"long".repeat(99))].concat();
    let answers = vec![first, [image.clone(), entry.clone(), end].concat()];
    let (fetched, spool, asked) = fetched_from(answers);
    assert_eq!(fetched.unwrap().last_index, 8);
    assert_eq!(spool, [image, entry].concat());
    assert!(asked.iter().all(|line| line.ends_with("-1\n")), "{asked:?}");
}

#[test]
fn a_refusal_and_a_source_of_something_else_are_named() {
    let refusing = vec![b"ERR busy\n".to_vec(); 9];
    let text = fetched_from(refusing).0.unwrap_err().to_string();
    assert!(text.contains("refuses: busy; entries up to 0"), "{text}");
    let foreign = vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec(); 9];
    let text = fetched_from(foreign).0.unwrap_err().to_string();
    assert!(text.contains("sends something else"), "{text}");
}

#[test]
fn a_directory_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.log");
    let run_on = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let data = folder.path().join("data");
        let words = format!("-file {} -data {} -slots 64 -json", file.display(), data.display());
        let mut out = Vec::new();
        let outcome = run(&flags(&words), &AtomicBool::new(false), &mut out);
        (outcome, String::from_utf8(out).unwrap())
    };
    let names = || fs::read_dir(folder.path()).unwrap().count();
    run_on(b"garbage").0.unwrap_err();
    assert_eq!(names(), 1);
    let (outcome, out) = run_on(&record(3, Mark::None, "5", "v"));
    outcome.unwrap();
    assert!(out.starts_with("Transfer Time (ns): 0\nInstall Time (ns): "), "{out}");
    assert!(out.contains("\nNum of Commands: 1\n{\"transfer_ns\":0,"), "{out}");
    let data = folder.path().join("data");
    let options = diskstore_storage::slots::Options::new(1 << 20);
    let (slots, _) =
        diskstore_storage::slots::Slots::open(&RealDisk::new(), &data, options).unwrap();
    assert_eq!(slots.read(5).unwrap().value.as_deref(), Some(&b"v"[..]));
    drop(slots);
    assert!(matches!(run_on(b"").0.unwrap_err(), RecoveryError::Taken(_)));
    assert_eq!(names(), 2);
}

#[test]
fn keys_of_kvstore_are_installed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.log");
    let log = [
        record(1, Mark::None, "user:1", "old"),
        record(2, Mark::More, "user:1", "first"),
        record(2, Mark::None, "user:1", "second"),
        record(3, Mark::None, "42", "gone"),
        record(4, Mark::None, "42", ""),
    ];
    fs::write(&file, log.concat()).unwrap();
    let directory = folder.path().join("keys");
    fs::create_dir(&directory).unwrap();
    let store = store_in(&directory, "-file x -program kvstore");
    let parts = Parts::beginning_with(Arc::new(RealDisk::new()), &file);
    let installed = install(&parts, 1, &store, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!((installed.commands, installed.last_index, store.live_count()), (5, 4, 1));
    store.keep(installed.last_index).unwrap();
    drop(store);
    let options = diskstore_storage::keys::Options::new(1 << 20);
    let disk = Arc::new(RealDisk::new());
    let keys = diskstore_storage::keys::Keys::open(disk, &directory, options).unwrap();
    assert_eq!(keys.read(b"user:1").value.as_deref(), Some(&b"second"[..]));
    assert_eq!(keys.read(b"42").value, None);
}
