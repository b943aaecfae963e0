//! Nodes as processes: each on loopback addresses of its own, its words in a file, killed when
//! dropped. Whatever a test waits for is a condition with a deadline.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use diskstore::status::Status;
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::host;
use crate::resp::{Client, Failure, Value};

/// How long anything may take before a test fails: far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);
/// Clusters that run at once: more of them only wait for each other's syncs.
const CLUSTERS_MAX: usize = 2;
/// Small enough to be made at once and to be read back as a whole.
const GEOMETRY: [&str; 4] = ["-slots", "4096", "-value-size", "256"];
/// The programs that a node may be.
pub(crate) const DISKSTORE: &str = env!("CARGO_BIN_EXE_diskstore");
pub(crate) const KVSTORE: &str = env!("CARGO_BIN_EXE_kvstore");
/// What is shown of the words of each node when a test fails.
const SHOWN_LINES: usize = 25;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a cluster.
struct Permit;

impl Permit {
    fn wait() -> Permit {
        let (running, ended) = &RUNNING;
        let mut running = running.lock();
        ended.wait_while(&mut running, |running| *running >= CLUSTERS_MAX);
        *running += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.0.lock() -= 1;
        RUNNING.1.notify_one();
    }
}

/// Waits until `condition` gives something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// A node, running or not.
pub(crate) struct Node {
    pub(crate) program: &'static str,
    pub(crate) name: String,
    host: String,
    pub(crate) directory: PathBuf,
    /// What is typed behind `-id`, `-port`, `-raft` and `-data`.
    pub(crate) arguments: Vec<String>,
    words: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node with its files in a folder.
    pub(crate) fn new(name: &str, folder: &Path, arguments: &[&str]) -> Node {
        Node {
            program: DISKSTORE,
            name: name.to_owned(),
            host: host(),
            directory: folder.join(name),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            words: folder.join(format!("{name}-{}.words", host())),
            child: None,
        }
    }

    /// The address that all its ports share.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn client_address(&self) -> String {
        format!("{}:11000", self.host)
    }

    pub(crate) fn raft_address(&self) -> String {
        format!("{}:12000", self.host)
    }

    pub(crate) fn join_address(&self) -> String {
        format!("{}:13000", self.host)
    }

    /// From its next start on it listens at other addresses.
    pub(crate) fn move_away(&mut self) {
        self.host = host();
    }

    /// From their next start on each listens where the other did.
    pub(crate) fn swap_places(&mut self, other: &mut Node) {
        std::mem::swap(&mut self.host, &mut other.host);
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn start(&mut self) {
        self.start_by(Command::new(self.program));
    }

    /// As [`Node::start`], by this command.
    pub(crate) fn start_by(&mut self, mut command: Command) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let words = File::options().create(true).append(true).open(&self.words).unwrap();
        command
            .args(["-id", &self.name, "-port", &self.client_address()])
            .args(["-raft", &self.raft_address(), "-data"])
            .arg(&self.directory)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(words.try_clone().unwrap())
            .stderr(words);
        self.child = Some(command.spawn().unwrap());
    }

    /// Everything it has printed in all its lives.
    pub(crate) fn words(&self) -> String {
        std::fs::read(&self.words)
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let what = format!("the end of {}", self.name);
        let status = wait_for(&what, || child.try_wait().unwrap());
        assert!(!self.words().contains("panicked"), "{}", self.words());
        status
    }

    /// SIGKILL: it gets no chance to do anything.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// SIGTERM, and a clean end.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let before = self.words().len();
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        let words = self.words().split_off(before);
        assert_eq!(status.code(), Some(0), "{words}");
        assert!(!words.contains(" ERROR "), "{words}");
    }

    /// Starts it; it must end by itself with this exit code. Gives what it printed.
    #[track_caller]
    pub(crate) fn must_refuse(&mut self, exit_code: i32) -> String {
        let before = self.words().len();
        self.start();
        let status = self.wait_exit();
        let words = self.words().split_off(before);
        assert_eq!(status.code(), Some(exit_code), "{words}");
        words
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.client_address())
    }

    /// Asks it one thing over a connection of its own.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<Value, Failure> {
        self.client()?.ask(words)
    }

    /// Asks until it is answered with a reply: for reads, and for writes that may happen twice.
    #[track_caller]
    pub(crate) fn asked(&self, words: &[&str]) -> Value {
        wait_for(&format!("{words:?} at {}", self.name), || self.ask(words).ok())
    }

    /// A value as this node alone has it.
    pub(crate) fn local(&self, key: &str) -> Result<Option<String>, Failure> {
        let mut client = self.client()?;
        client.ask(&["READONLY"])?;
        Ok(client.ask(&["GET", key])?.text())
    }

    /// What it says about itself; `None` if it does not answer.
    pub(crate) fn status(&self) -> Option<Status> {
        self.child.as_ref()?;
        self.client().ok()?.status().ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let words = self.words();
            let lines: Vec<&str> = words.lines().collect();
            let shown = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("-- {} said last:\n{}", self.name, lines[shown..].join("\n"));
        }
    }
}

/// Some nodes that know each other, and their files.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) folder: tempfile::TempDir,
    _permit: Permit,
}

impl Drop for Cluster {
    /// What failed can be looked at: directories of the nodes, and all that they said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!(
                "-- files and words of the nodes are kept in {}",
                self.folder.path().display()
            );
        }
    }
}

impl Cluster {
    /// Three nodes, started as the README has it, all of them voters.
    #[track_caller]
    pub(crate) fn of_three(more: &[&str]) -> Cluster {
        let geometry: Vec<&str> = GEOMETRY.iter().chain(more).copied().collect();
        Cluster::with_geometry(&geometry, more)
    }

    /// As [`Cluster::of_three`], with arguments of the first node and of those that join it.
    #[track_caller]
    pub(crate) fn with_geometry(first: &[&str], others: &[&str]) -> Cluster {
        Cluster::started(DISKSTORE, first, others)
    }

    /// As [`Cluster::of_three`], of this program.
    #[track_caller]
    pub(crate) fn of_program(program: &'static str) -> Cluster {
        Cluster::started(program, &GEOMETRY, &[])
    }

    /// Three nodes whose keys are in memory.
    #[track_caller]
    pub(crate) fn of_kvstores(more: &[&str]) -> Cluster {
        Cluster::started(KVSTORE, more, more)
    }

    #[track_caller]
    fn started(program: &'static str, first: &[&str], others: &[&str]) -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.add("node0", first);
        let join = cluster.nodes[0].join_address();
        cluster.nodes[0].arguments.extend(["-hjoin".to_owned(), join.clone()]);
        for name in ["node1", "node2"] {
            cluster.add(name, &[others, &["-join", &join]].concat());
        }
        for node in &mut cluster.nodes {
            node.program = program;
            node.start();
        }
        cluster.wait_voters(3);
        cluster
    }

    /// No node yet.
    pub(crate) fn empty() -> Cluster {
        let permit = Permit::wait();
        Cluster { nodes: Vec::new(), folder: tempfile::tempdir().unwrap(), _permit: permit }
    }

    /// One more node, not started.
    pub(crate) fn add(&mut self, name: &str, arguments: &[&str]) -> &mut Node {
        let folder = self.folder.path().join(self.nodes.len().to_string());
        std::fs::create_dir(&folder).unwrap();
        self.nodes.push(Node::new(name, &folder, arguments));
        self.nodes.last_mut().unwrap()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::client_address).collect()
    }

    /// The node that leads, as soon as one does; nothing is said about how long.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        wait_for("a leader", || self.leader_now())
    }

    fn leader_now(&self) -> Option<usize> {
        let statuses = self.nodes.iter().map(Node::status).enumerate();
        let leaders = statuses.filter_map(|(index, status)| {
            let status = status.filter(|status| status.role == "leader")?;
            Some((status.term, index))
        });
        leaders.max().map(|(_, index)| index)
    }

    /// The leader and two that follow.
    #[track_caller]
    pub(crate) fn roles(&self) -> (usize, usize, usize) {
        let leader = self.leader();
        (leader, (leader + 1) % 3, (leader + 2) % 3)
    }

    /// Waits until every running node says that the cluster has these voters and nobody else, and that
    /// no change of them is half way: a leader that is stopped there complains.
    #[track_caller]
    pub(crate) fn wait_voters(&self, count: usize) {
        let running = || self.nodes.iter().filter(|node| node.child.is_some());
        wait_until(&format!("{count} voters"), || {
            running().all(|node| {
                node.status().is_some_and(|status| {
                    let votes = |role: &str| role == "leader" || role == "follower";
                    status.members.len() == count
                        && status.leader.is_some()
                        && !status.voters_changing
                        && status.members.iter().all(|member| votes(&member.role))
                })
            })
        });
    }

    /// Waits until every running node has applied what the leader has committed by now.
    #[track_caller]
    pub(crate) fn wait_level(&self) {
        let leader = &self.nodes[self.leader()];
        let committed = wait_for("status of the leader", || leader.status()).committed;
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            wait_until(&format!("{} to apply {committed}", node.name), || {
                node.status().is_some_and(|status| status.applied >= committed)
            });
        }
    }

    /// Removes all that a node has.
    pub(crate) fn wipe(&mut self, index: usize) {
        std::fs::remove_dir_all(&self.nodes[index].directory).unwrap();
    }
}
