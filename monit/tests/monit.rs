//! The sampler and the program beside real processes.
#![allow(clippy::unwrap_used, reason = "a broken machine may stop the test anyhow")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use diskstore_monit::sample::{Row, Sampler};
use tempfile::TempDir;

const PROC: &str = "/proc";
const POLL: Duration = Duration::from_millis(10);
/// A minute: longer than any machine takes that works at all.
const POLLS_MAX: u32 = 6_000;

/// A child that is killed and waited for whatever becomes of the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let killed = self.0.kill();
        let waited = self.0.wait();
        if !thread::panicking() {
            assert!(killed.is_ok() && waited.is_ok(), "{killed:?} {waited:?}");
        }
    }
}

impl Guard {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn exit(&mut self) -> ExitStatus {
        poll(|| self.0.try_wait().unwrap())
    }
}

/// Asks until there is an answer, for a bounded time.
fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..POLLS_MAX {
        if let Some(answer) = ask() {
            return answer;
        }
        thread::sleep(POLL);
    }
    unreachable!("nothing happened for {POLLS_MAX} polls")
}

/// A shell that runs a script of builtins, under a name of its own, with a pipe as its input.
fn shell(program: &Path, script: &str) -> Guard {
    let mut command = Command::new(program);
    let command = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
    let shell = Guard(command.spawn().unwrap());
    // The kernel lets the parent go on before the child has its new command line.
    let file = format!("{PROC}/{}/cmdline", shell.pid());
    let started = format!("{}\0-c\0", program.display());
    poll(|| std::fs::read_to_string(&file).unwrap().starts_with(&started).then_some(()));
    shell
}

/// Burns processor time and writes to a file, for ever.
fn busy(folder: &TempDir) -> Guard {
    let path = folder.path().join("written");
    let script = format!("while :; do echo 0123456789abcdef >> {}; done", path.display());
    shell(Path::new("/bin/sh"), &script)
}

fn idle() -> Guard {
    shell(Path::new("/bin/sh"), "read line")
}

fn monit(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monit"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = monit(arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Processor time in ticks, bytes written and context switches, read by other means than ours.
fn counters(pid: u32) -> [u64; 3] {
    let text = |name: &str| std::fs::read_to_string(format!("{PROC}/{pid}/{name}")).unwrap();
    let after = |text: &str, key: &str| -> u64 {
        let rest = &text[text.find(key).unwrap() + key.len()..];
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (stat, status) = (text("stat"), text("status"));
    let times: Vec<&str> = stat.split(' ').collect();
    let ticks = times[13].parse::<u64>().unwrap() + times[14].parse::<u64>().unwrap();
    let switches = after(&status, "\nvoluntary_ctxt_switches:")
        + after(&status, "nonvoluntary_ctxt_switches:");
    [ticks * 10, after(&text("io"), "\nwrite_bytes:"), switches]
}

#[test]
fn sums_over_intervals_are_what_proc_says() {
    let folder = TempDir::new().unwrap();
    let child = busy(&folder);
    let outer = counters(child.pid());
    let mut sampler = Sampler::new(Path::new(PROC), child.pid()).unwrap();
    let inner = counters(child.pid());
    let mut sums = [0; 3];
    let mut rows: Vec<Row> = Vec::new();
    let (least, most) = poll(|| {
        let before = counters(child.pid());
        let row = sampler.next_row().unwrap().expect("the child runs");
        let after = counters(child.pid());
        sums[0] += row.process_user_ms + row.process_system_ms;
        sums[1] += row.process_written_bytes;
        sums[2] += row.process_switch_count;
        rows.push(row);
        let enough = rows.len() >= 5 && sums[0] >= 100 && sums[1] > 0 && sums[2] > 0;
        enough.then_some((before, after))
    });
    for index in 0..3 {
        let least = least[index].saturating_sub(inner[index]);
        let most = most[index] - outer[index];
        assert!((least..=most).contains(&sums[index]), "{index}: {least} {sums:?} {most}");
    }
    assert!(rows.windows(2).all(|pair| pair[0].unix_ms < pair[1].unix_ms));
    let row = rows.last().unwrap();
    assert!(row.process_anonymous_bytes > 0 && row.process_file_bytes > 0);
    assert!(row.process_anonymous_bytes < row.machine_anonymous_bytes);
    assert!(row.machine_file_bytes > 0);
    let machine: u64 = rows.iter().map(|row| row.machine_switch_count).sum();
    assert!(machine >= 1, "{machine}");
    assert_eq!(sampler.totals().written_bytes % 4096, 0);
}

#[test]
fn a_process_that_ends_ends_the_rows_before_its_parent_knows() {
    let mut child = idle();
    let mut sampler = Sampler::new(Path::new(PROC), child.pid()).unwrap();
    assert!(sampler.next_row().unwrap().is_some());
    assert!(!sampler.has_ended().unwrap());
    drop(child.0.stdin.take());
    poll(|| sampler.has_ended().unwrap().then_some(()));
    assert_eq!(sampler.next_row().unwrap(), None);
    child.exit();
    assert_eq!(sampler.next_row().unwrap(), None);
    let refusal = Sampler::new(Path::new(PROC), child.pid()).unwrap_err().to_string();
    assert_eq!(refusal, format!("no process has the id {}", child.pid()));
}

/// Whole lines, as many values as names everywhere, time that rises.
fn assert_csv(text: &str) {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    let mut lines = text.lines();
    let names = lines.next().unwrap_or_default().split(',').count();
    let mut last = 0;
    for line in lines {
        let values: Vec<u64> = line.split(',').map(|value| value.parse().unwrap()).collect();
        assert_eq!(values.len(), names, "{line}");
        assert!(values[0] > last, "{text}");
        last = values[0];
    }
}

/// Runs the program beside a process until its file has rows, which are whole at any time.
fn watched(child: &Guard, path: &Path, flags: &[&str]) -> Guard {
    let pid = child.pid().to_string();
    let arguments = ["-pid", &pid, "--interval=20ms", "-csv", path.to_str().unwrap()];
    let program = Guard(monit(&arguments).args(flags).stdout(Stdio::null()).spawn().unwrap());
    poll(|| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        assert_csv(&text);
        (text.lines().count() >= 5).then_some(())
    });
    program
}

#[test]
fn the_file_is_whole_while_it_grows_and_when_the_process_ends() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("use.csv");
    let mut child = idle();
    let mut program = watched(&child, &path, &[]);
    drop(child.0.stdin.take());
    assert_eq!(program.exit().code(), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_csv(&text);
    // Nobody's measurement is overwritten.
    let (code, said) =
        output(&["-pid", &std::process::id().to_string(), "-csv", path.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("holds"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_signal_ends_it_cleanly_with_a_whole_file() {
    for signal in ["-INT", "-TERM"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("use.csv");
        let child = idle();
        let mut program = watched(&child, &path, &[]);
        let sent = Command::new("kill").args([signal, &program.pid().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(program.exit().code(), Some(0), "{signal}");
        assert_csv(&std::fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn profiles_are_written_when_it_ends() {
    let folder = TempDir::new().unwrap();
    let [rows, cpu, heap] = ["use.csv", "cpu.pb", "heap.pb"].map(|name| folder.path().join(name));
    let flags = ["-cpuprofile", cpu.to_str().unwrap(), "-memprofile", heap.to_str().unwrap()];
    let mut child = idle();
    let mut program = watched(&child, &rows, &flags);
    assert!(!cpu.exists() && !heap.exists());
    drop(child.0.stdin.take());
    assert_eq!(program.exit().code(), Some(0));
    // What is in them is tested with the code that all programs share.
    assert!(!std::fs::read(&cpu).unwrap().is_empty());
    assert!(std::fs::read(&heap).unwrap().starts_with(b"\x1f\x8b"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    let (code, said) = output(&["-pid", "1", "-cpuprofile", "/nowhere/cpu.pb"]);
    assert!(code == Some(1) && said.contains("/nowhere/cpu.pb"), "{said}");
}

#[test]
fn io_out_holds_totals_from_its_first_line_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("io.out");
    let mut child = idle();
    let pid = child.pid().to_string();
    let file = path.to_str().unwrap();
    let arguments = ["-pid", &pid, "-interval", "20ms", "-csv", file, "-format", "io.out"];
    let mut program = Guard(monit(&arguments).stdout(Stdio::null()).spawn().unwrap());
    poll(|| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        (text.lines().count() >= 15).then_some(())
    });
    drop(child.0.stdin.take());
    assert_eq!(program.exit().code(), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    let groups: Vec<Vec<u64>> = text
        .split_terminator("\n\n")
        .map(|group| group.lines().map(|line| line.parse().unwrap()).collect())
        .collect();
    assert!(text.ends_with("\n\n") && groups.iter().all(|group| group.len() == 4), "{text}");
    let rise = |pair: &[Vec<u64>]| (0..4).all(|index| pair[0][index] <= pair[1][index]);
    assert!(groups.windows(2).all(rise), "{text}");
}

#[test]
fn a_name_must_be_that_of_one_process() {
    let folder = TempDir::new().unwrap();
    // Longer than the 15 bytes that the kernel keeps.
    let name = format!("monit-twin-of-{}", std::process::id());
    let program = folder.path().join(&name);
    symlink("/bin/sh", &program).unwrap();
    let (code, said) = output(&[&name]);
    assert_eq!((code, said), (Some(1), format!("monit: no process is called {name}\n")));

    let mut one = shell(&program, "read line");
    let mut other = Guard(
        monit(&[&name, "-format=csv", "-interval=20ms"]).stdout(Stdio::piped()).spawn().unwrap(),
    );
    // Only once it watches, or it would find two.
    let mut header = [0];
    std::io::Read::read_exact(other.0.stdout.as_mut().unwrap(), &mut header).unwrap();
    let two = shell(&program, "read line");
    poll(|| {
        let (code, said) = output(&[&name]);
        let listed = [one.pid(), two.pid()].iter().all(|pid| said.contains(&format!("  {pid}  ")));
        (listed && code == Some(1) && said.contains("-pid")).then_some(())
    });
    drop(one.0.stdin.take());
    assert_eq!(other.exit().code(), Some(0));
}

#[test]
fn wrong_usage_is_refused_with_code_2() {
    for arguments in [
        &[] as &[&str],
        &["sh", "-pid", "1"],
        &["-pid", "x"],
        &["sh", "-interval", "1ms"],
        &["sh", "-format", "xml"],
        &["sh", "-inteval", "1s"],
    ] {
        let (code, said) = output(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
    assert!(output(&["sh", "-inteval", "1s"]).1.contains("'-interval'"));
    assert_eq!(output(&["-pid", "4294967295"]).0, Some(1));
    assert_eq!(output(&["-help"]).0, Some(0));
}
