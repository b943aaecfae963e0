//! `diskstore demo`: three real nodes on this machine, until Ctrl-C.
//!
//! - I1: The nodes are processes of this same executable, in process groups of their own: a Ctrl-C
//!   in the terminal reaches the demonstration alone, which then stops each node by its process id.
//! - I2: A node outlives the demonstration by no more than its own clean stop ([`follow_parent`]).
//! - I3: A temporary directory is removed however the demonstration ends, short of SIGKILL.

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::answer::Answer;
use super::connection::NodeConnection;
use super::dialling::Dialling;
use super::{ClientError, certs, print};
use crate::cli::{CertsFlags, Form, Number, Settings};
use crate::config::{Config, ConfigError, MachineKind};
use crate::program::{Signals, as_started};
use crate::status::Status;
use crate::tls::AUTHORITY_FILE;

/// Nodes of the demonstration.
const NODE_COUNT: u16 = 3;
/// What the slots are like unless told otherwise.
const SLOTS_DEFAULT: &str = "65536";
const VALUE_SIZE_DEFAULT: &str = "1024";
/// Ports that are used when all are free: clients, raft, join.
const CLIENT_PORT: u16 = 11000;
const RAFT_PORT: u16 = 12000;
const JOIN_PORT: u16 = 13000;
/// How often nodes are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Looks at a node before it counts as not started: one minute.
const START_POLLS_MAX: u32 = 600;
/// Looks at the nodes before those that do not stop are killed: fifteen seconds.
const STOP_POLLS_MAX: u32 = 150;
/// Lines of a node's log that are shown when it stops by itself, and bytes that are read for them.
const WORDS_LINES_MAX: usize = 8;
const WORDS_BYTES_MAX: usize = 8 << 10;
/// Where the certificates are, below the directory of the demonstration.
const CERTIFICATES: &str = "certs";
/// The client whose certificate is made beside those of the nodes, and its folder.
const CLIENT: &str = "demo";
const CLIENT_FOLDER: &str = "client-demo";
const CERTIFICATE_DAYS: &str = "30";
/// The variable that names the demonstration's process id to its nodes.
const PARENT_VARIABLE: &str = "DISKSTORE_DEMO";

/// What the slots are like.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    slots: Option<Number>,
    value_size: Option<Number>,
}

impl Geometry {
    /// What was typed, refused here in the words of a node.
    pub(super) fn new(
        slots: Option<Number>,
        value_size: Option<Number>,
    ) -> Result<Geometry, ConfigError> {
        let (typed, rest) = (Geometry { slots, value_size }, Settings::default());
        let (slots, value_size) = (typed.slots.clone(), typed.value_size.clone());
        Config::new(MachineKind::Slots, Settings { slots, value_size, ..rest })?;
        Ok(typed)
    }

    /// The flags of a node: what was typed, and for the founder of a cluster the defaults; whoever
    /// joins or restarts keeps to what is there.
    fn flags(&self, is_founder: bool) -> Vec<String> {
        let flag = |name: &str, typed: &Option<Number>, default: &str| {
            let typed = typed.as_ref().map(|Number(text)| text.as_str());
            let value = typed.or(is_founder.then_some(default))?;
            Some([name.to_owned(), value.to_owned()])
        };
        let slots = flag("-slots", &self.slots, SLOTS_DEFAULT);
        let value_size = flag("-value-size", &self.value_size, VALUE_SIZE_DEFAULT);
        slots.into_iter().chain(value_size).flatten().collect()
    }
}

/// Whether the nodes speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secured {
    No,
    ByTls,
}

/// The certificates of a demonstration that speaks TLS.
#[derive(Debug, Clone)]
struct Certified {
    /// Where `certs` has put them.
    directory: PathBuf,
    /// How the demonstration itself asks its nodes.
    dialling: Dialling,
}

impl Certified {
    /// Makes them in a directory, anew at each start, by the authority that an earlier demonstration has left.
    fn make(directory: &Path) -> Result<Certified, ClientError> {
        let directory = directory.join(CERTIFICATES);
        let flags = CertsFlags {
            members: (0..NODE_COUNT).map(|index| format!("node{index}")).collect(),
            client: Some(CLIENT.to_owned()),
            out: directory.clone(),
            days: Number(CERTIFICATE_DAYS.to_owned()),
            renew: true,
            new_ca: false,
            drop_old_ca: false,
            form: Form { json: false },
        };
        certs::run(&flags, &mut io::sink())?;
        let dialling = Dialling::read(None, Some(&directory.join(CLIENT_FOLDER)))?;
        Ok(Certified { directory, dialling })
    }

    fn client(&self) -> String {
        self.directory.join(CLIENT_FOLDER).display().to_string()
    }
}

/// Stops this process cleanly when the demonstration that started it is gone. Does nothing in any
/// other process. Call it first in `main`.
///
/// # Errors
/// The operating system's refusal; the process must exit.
pub fn follow_parent() -> io::Result<()> {
    let Ok(parent) = std::env::var(PARENT_VARIABLE) else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have died before the line above.
    let alive =
        rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().to_string() == parent);
    if alive { Ok(()) } else { Err(io::Error::other("the demonstration is gone")) }
}

/// Runs the demonstration until a signal.
pub(super) fn run(
    geometry: Geometry,
    data: Option<&Path>,
    secured: Secured,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let local = |what: &str| {
        let what = what.to_owned();
        |source| ClientError::Local { what, source }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(local("starting the demonstration"))?;
    let mut demo = Demo::create(geometry, data)?;
    if secured == Secured::ByTls {
        demo.certified = Some(Certified::make(&demo.directory)?);
    }
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(local("waiting for Ctrl-C"))?;
        let outcome = tokio::select! {
            outcome = demo.serve(out) => outcome,
            () = signals.next_or_hang_up() => Ok(()),
        };
        tokio::select! {
            () = demo.stop() => {}
            () = signals.next() => {}
        }
        outcome
    })
}

/// The directory and the nodes in it.
struct Demo {
    directory: PathBuf,
    temporary: bool,
    geometry: Geometry,
    certified: Option<Certified>,
    nodes: Vec<DemoNode>,
}

/// One node.
struct DemoNode {
    name: String,
    client: u16,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

impl Demo {
    fn create(geometry: Geometry, data: Option<&Path>) -> Result<Demo, ClientError> {
        let temporary = data.is_none();
        let directory = data.map_or_else(
            || std::env::temp_dir().join(format!("diskstore-demo-{}", std::process::id())),
            Path::to_owned,
        );
        let what = format!("making the directory {}", directory.display());
        let local = |source| ClientError::Local { what, source };
        // A temporary directory must be new: it will be removed with all that is in it.
        let made = if temporary {
            std::fs::create_dir(&directory)
        } else {
            std::fs::create_dir_all(&directory)
        };
        made.map_err(local)?;
        Ok(Demo { directory, temporary, geometry, certified: None, nodes: Vec::new() })
    }

    /// Starts the nodes, says what can be done with them, and watches them. Ends by an error only.
    async fn serve(&mut self, out: &mut dyn Write) -> Result<(), ClientError> {
        let ports = Ports::choose()
            .map_err(|source| ClientError::Local { what: "finding free ports".into(), source })?;
        let place = self.directory.display().to_string();
        print(out, format!("starting three nodes in {place}\n").as_bytes())?;
        for index in 0..NODE_COUNT {
            let node = DemoNode::start(index, &ports, self)?;
            self.nodes.push(node);
            if index == 0 {
                // The others ask it for admission.
                self.wait_for("takes no members", move || listens(ports.join)).await?;
            }
        }
        let client = ports.client(0);
        let dialling = self.certified.as_ref().map(|certified| certified.dialling.clone());
        let dialling = dialling.unwrap_or_default();
        let is_complete = move || is_complete(client, &dialling);
        self.wait_for("did not find the others", is_complete).await?;
        print(out, self.welcome(&ports).as_bytes())?;
        loop {
            tokio::time::sleep(POLL).await;
            for index in 0..self.nodes.len() {
                self.report_stopped(index, out)?;
            }
            if self.nodes.iter().all(|node| node.process.is_none()) {
                return Err(ClientError::NoNodeLeft);
            }
        }
    }

    /// Waits until `ready`, as long as every node lives.
    async fn wait_for(
        &mut self,
        otherwise: &str,
        ready: impl Fn() -> bool + Send + Clone + 'static,
    ) -> Result<(), ClientError> {
        for _ in 0..START_POLLS_MAX {
            for node in &mut self.nodes {
                if let Some(status) = node.stopped() {
                    return Err(node.failed(&ended(status)));
                }
            }
            if tokio::task::spawn_blocking(ready.clone()).await.unwrap_or(false) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let first = self.nodes.first().expect("invariant: the first node was started");
        Err(first.failed(otherwise))
    }

    fn welcome(&self, ports: &Ports) -> String {
        let mut lines = vec!["three nodes are running, each with all of the data:".to_owned()];
        for node in &self.nodes {
            let pid = node.process.as_ref().map_or(0, Child::id);
            lines.push(format!("  {}  127.0.0.1:{}  pid {pid}", node.name, node.client));
        }
        let (first, last) = (ports.client(0), ports.client(2));
        lines.push("try, in another terminal:".to_owned());
        let (redis, curl, own) = match &self.certified {
            None => (String::new(), format!("http://localhost:{first}"), String::new()),
            Some(certified) => {
                let authority = certified.directory.join(AUTHORITY_FILE);
                let authority = authority.display();
                let curl = format!("--cacert {authority} https://localhost:{first}");
                (
                    format!(" --tls --cacert {authority}"),
                    curl,
                    format!(" -tls {}", certified.client()),
                )
            }
        };
        lines.push(format!("  redis-cli{redis} -p {first} set 42 hello"));
        lines.push(format!("  redis-cli{redis} -p {last} get 42"));
        lines.push(format!("  curl {curl}/v1/slots/42"));
        let program = as_started().unwrap_or_else(|| "diskstore".to_owned());
        lines.push(format!("  {program} get 42{own} -addr 127.0.0.1:{last}"));
        lines.push(format!("  {program} status{own} -addr 127.0.0.1:{first}"));
        let kept = if self.temporary { "removes the data" } else { "keeps the data" };
        lines.push(format!("Ctrl-C stops all three and {kept}\n"));
        lines.join("\n")
    }

    /// Says so when a node has stopped by itself, and how to start it again.
    fn report_stopped(&mut self, index: usize, out: &mut dyn Write) -> Result<(), ClientError> {
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        let Some(status) = node.stopped() else { return Ok(()) };
        let (name, event, words) = (&node.name, ended(status), node.last_words());
        let again = node.arguments.join(" ");
        let program = as_started().unwrap_or_else(|| "diskstore".to_owned());
        let text =
            format!("{name} {event}; its last words:\n{words}start it again: {program} {again}\n");
        print(out, text.as_bytes())
    }

    /// Asks every node to stop and waits until all have, within bounds.
    async fn stop(&mut self) {
        for node in &self.nodes {
            let Some(child) = &node.process else { continue };
            if let Err(error) = rustix::process::kill_process(Pid::from_child(child), Signal::TERM)
            {
                tracing::debug!(node = node.name, %error, "is gone already");
            }
        }
        for _ in 0..STOP_POLLS_MAX {
            if self.nodes.iter_mut().all(|node| node.is_gone()) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // Errors mean that it is gone already.
            drop(child.kill());
            drop(child.wait());
        }
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
        {
            tracing::warn!(directory = %self.directory.display(), %error, "data was not removed");
        }
    }
}

impl DemoNode {
    fn start(index: u16, ports: &Ports, demo: &Demo) -> Result<DemoNode, ClientError> {
        let directory = &demo.directory;
        let name = format!("node{index}");
        let log = directory.join(format!("{name}.log"));
        let (client, raft) = (ports.client(index), ports.raft(index));
        let join_flag = if index == 0 { "-hjoin" } else { "-join" };
        let data = directory.join(&name);
        let is_founder = index == 0 && !data.exists();
        let words = [
            ("-id", name.clone()),
            ("-port", format!(":{client}")),
            ("-raft", format!(":{raft}")),
            (join_flag, format!(":{}", ports.join)),
            ("-data", data.display().to_string()),
        ];
        let mut arguments: Vec<String> =
            words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        arguments.extend(demo.geometry.flags(is_founder));
        if let Some(certified) = &demo.certified {
            let own = certified.directory.join(&name);
            arguments.extend(["-tls".to_owned(), own.display().to_string()]);
        }
        let process = spawn(&arguments, &log)
            .map_err(|source| ClientError::Local { what: format!("starting {name}"), source })?;
        Ok(DemoNode { name, client, arguments, log, process: Some(process) })
    }

    /// How it ended, once.
    fn stopped(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    fn is_gone(&mut self) -> bool {
        self.stopped();
        self.process.is_none()
    }

    fn failed(&self, event: &str) -> ClientError {
        let (node, event) = (self.name.clone(), event.to_owned());
        ClientError::Demo { node, event, words: self.last_words() }
    }

    /// The end of its log, indented.
    fn last_words(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(WORDS_BYTES_MAX);
        let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines.iter().skip(lines.len().saturating_sub(WORDS_LINES_MAX));
        shown.fold(String::new(), |words, line| words + "  " + line + "\n")
    }
}

fn spawn(arguments: &[String], log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    Command::new(std::env::current_exe()?)
        .args(arguments)
        .env(PARENT_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0) // I1
        .spawn()
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("stopped with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "stopped".to_owned(),
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// True once a leader is known and every node votes.
fn is_complete(client_port: u16, dialling: &Dialling) -> bool {
    let answer = NodeConnection::open(&format!("127.0.0.1:{client_port}"), dialling)
        .and_then(|mut connection| connection.call(&[b"DISKSTORE", b"STATUS"]));
    let Ok(Answer::Value(json)) = answer else { return false };
    let Ok(status) = Status::from_json(&json) else { return false };
    let voters = status.members.iter().filter(|member| member.role != "learner").count();
    status.leader.is_some() && voters >= usize::from(NODE_COUNT)
}

/// The ports of the three nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    nodes: Vec<(u16, u16)>,
    join: u16,
}

impl Ports {
    /// The usual ones if all are free, else ones that the system picks.
    fn choose() -> io::Result<Ports> {
        let usual: Vec<u16> = (0..NODE_COUNT)
            .flat_map(|index| [CLIENT_PORT + index, RAFT_PORT + index])
            .chain([JOIN_PORT])
            .collect();
        let bind = |port: &u16| TcpListener::bind(("127.0.0.1", *port));
        let mut listeners: io::Result<Vec<TcpListener>> = usual.iter().map(bind).collect();
        if listeners.is_err() {
            listeners = usual.iter().map(|_| bind(&0)).collect();
        }
        // All are held until all are known, so that none comes twice.
        let ports = listeners?
            .iter()
            .map(|listener| listener.local_addr().map(|address| address.port()))
            .collect::<io::Result<Vec<u16>>>()?;
        let (pairs, rest) = ports.as_chunks::<2>();
        let nodes = pairs.iter().map(|[client, raft]| (*client, *raft)).collect();
        Ok(Ports { nodes, join: rest.first().copied().unwrap_or(JOIN_PORT) })
    }

    fn client(&self, index: u16) -> u16 {
        self.nodes.get(usize::from(index)).map_or(CLIENT_PORT, |(client, _)| *client)
    }

    fn raft(&self, index: u16) -> u16 {
        self.nodes.get(usize::from(index)).map_or(RAFT_PORT, |(_, raft)| *raft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_are_free_and_all_different() {
        let taken = TcpListener::bind(("127.0.0.1", CLIENT_PORT));
        let ports = Ports::choose().unwrap();
        let mut all: Vec<u16> = ports.nodes.iter().flat_map(|(one, two)| [*one, *two]).collect();
        all.push(ports.join);
        assert_eq!(all.len(), 7);
        assert!(!all.contains(&CLIENT_PORT), "{all:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
        drop(taken);
    }

    #[test]
    fn a_temporary_directory_is_removed_and_a_given_one_is_kept() {
        let geometry = Geometry::new(None, None).unwrap();
        let demo = Demo::create(geometry.clone(), None).unwrap();
        let directory = demo.directory.clone();
        assert!(directory.is_dir());
        // Whatever is there already is not ours to remove.
        assert!(Demo::create(geometry.clone(), None).is_err());
        assert!(directory.is_dir());
        drop(demo);
        assert!(!directory.exists());
        let given = tempfile::tempdir().unwrap();
        drop(Demo::create(geometry, Some(given.path())).unwrap());
        assert!(given.path().is_dir());
    }

    #[test]
    fn only_a_founder_is_given_slots_that_nobody_asked_for() {
        let nothing = Geometry::new(None, None).unwrap();
        assert_eq!(nothing.flags(true), ["-slots", "65536", "-value-size", "1024"]);
        assert!(nothing.flags(false).is_empty());
        let typed = Geometry::new(Some(Number("8".to_owned())), None).unwrap();
        assert_eq!(typed.flags(true), ["-slots", "8", "-value-size", "1024"]);
        assert_eq!(typed.flags(false), ["-slots", "8"]);
        assert!(Geometry::new(None, Some(Number("x".to_owned()))).is_err());
    }

    #[test]
    fn the_last_words_are_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("n.log");
        let lines: Vec<String> = (0..5000).map(|line| format!("line {line}")).collect();
        std::fs::write(&log, lines.join("\n")).unwrap();
        let node = DemoNode { name: "n".into(), client: 1, arguments: vec![], log, process: None };
        let words = node.last_words();
        assert_eq!(words.lines().count(), WORDS_LINES_MAX);
        assert!(words.ends_with("  line 4999\n"), "{words}");
    }

    #[test]
    fn the_end_of_a_process_is_told_in_words() {
        assert_eq!(ended(ExitStatus::from_raw(1 << 8)), "stopped with exit code 1");
        assert_eq!(ended(ExitStatus::from_raw(9)), "was killed by signal 9");
    }
}
