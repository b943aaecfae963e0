//! What strace does to one running process, and sees of it: disks that fail or stall, calls counted.

use std::collections::BTreeMap;
use std::env::var;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::nodes::{Node, wait_until};
use crate::skipped::note_skipped;

/// `.ci/run` says so where strace may trace.
const REQUIRED: &str = "DISKSTORE_TEST_STRACE";
/// What writes to a disk or waits for one.
const DISK_CALLS: &str = "pwrite64,pwritev,pwritev2,fdatasync,fsync";
/// Longer than any stall lasts: it ends with its [`Injector`].
const STALL: &str = "delay_enter=120000000";

/// A tracer that meddles with system calls of a process until it is dropped.
pub(crate) struct Injector(Child);

impl Injector {
    /// Makes these system calls fail. `None`, loudly, where there is no strace.
    pub(crate) fn fail(node: &Node, calls: &str) -> Option<Injector> {
        Injector::attach(node, calls, "error=EIO")
    }

    /// Holds up every write and sync, each as it begins. `None`, loudly, where there is no strace.
    pub(crate) fn stall(node: &Node) -> Option<Injector> {
        let injector = Injector::attach(node, DISK_CALLS, STALL)?;
        wait_until("all threads to be traced", || is_traced(node));
        Some(injector)
    }

    fn attach(node: &Node, calls: &str, what: &str) -> Option<Injector> {
        let inject = format!("inject={calls}:{what}");
        trace(node, calls, &["-e", &inject, "-o", "/dev/null"]).map(Injector)
    }
}

/// Starts a tracer of these calls. `None`, loudly, where there is no strace.
fn trace(node: &Node, calls: &str, more: &[&str]) -> Option<Child> {
    let pid = node.pid().as_raw_nonzero().to_string();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-p", &pid, "-e", &format!("trace={calls}")]).args(more);
    if !can_trace() {
        assert!(var(REQUIRED).as_deref() != Ok("required"), "no strace, and {REQUIRED}");
        note_skipped("nothing may be traced");
        return None;
    }
    Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Counts system calls of a process until it is asked for them.
pub(crate) struct Counter {
    tracer: Child,
    lines: NamedTempFile,
}

impl Counter {
    /// Begins to count these calls. `None`, loudly, where there is no strace.
    pub(crate) fn of(node: &Node, calls: &str) -> Option<Counter> {
        let lines = NamedTempFile::new().unwrap();
        let mut tracer = trace(node, calls, &["-o", lines.path().to_str().unwrap()])?;
        wait_until("all threads to be traced", || {
            assert!(tracer.try_wait().unwrap().is_none(), "strace may not trace the node");
            is_traced(node)
        });
        Some(Counter { tracer, lines })
    }

    /// How many of each there were.
    pub(crate) fn finish(mut self) -> BTreeMap<String, u64> {
        kill_process(Pid::from_child(&self.tracer), Signal::INT).unwrap(); // it writes all it has
        wait_until("strace to have written all", || self.tracer.try_wait().unwrap().is_some());
        let mut counts = BTreeMap::new();
        for line in std::fs::read_to_string(self.lines.path()).unwrap().lines() {
            let call = line.split_once(' ').map(|(_thread, call)| call.trim_start());
            // A call that others interrupt has a second line, which begins with `<`.
            let name = call.and_then(|call| Some(call.split_once('(')?.0));
            if let Some(name) = name.filter(|name| name.bytes().all(|byte| byte != b'<')) {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether strace is here and the system lets it trace.
fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    traced.is_ok_and(|status| status.success())
}

fn is_traced(node: &Node) -> bool {
    let tasks = format!("/proc/{}/task", node.pid().as_raw_nonzero());
    std::fs::read_dir(tasks).unwrap().map_while(Result::ok).all(|task| {
        std::fs::read_to_string(task.path().join("status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}
