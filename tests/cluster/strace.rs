//! Disks that fail or stall under one running process, by way of strace.

use std::env::var;
use std::process::{Child, Command, Stdio};

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
        let pid = node.pid().as_raw_nonzero().to_string();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-p", &pid, "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:{what}"), "-o", "/dev/null"]);
        if !can_trace() {
            assert!(var(REQUIRED).as_deref() != Ok("required"), "no strace, and {REQUIRED}");
            note_skipped("nothing may be traced, so no disk fails or stalls");
            return None;
        }
        Some(Injector(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()))
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
