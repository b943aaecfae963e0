//! Messages on channels: subscribers and publishers at every node, while nodes are killed and come
//! back; and the program `chatroom`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::harness::{stderr, stdout};
use crate::nodes::{Cluster, Node, PATIENCE, wait_for, wait_until};
use crate::resp::{Client, Failure, Value};

/// Messages before and behind a fault.
const MESSAGES: usize = 100;

/// A message as it is told with its index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    place: (u64, u64),
    channel: String,
    text: String,
}

fn texts(value: Value) -> Vec<String> {
    let Value::Array(parts) = value else { panic!("no array: {value:?}") };
    let text = |part| match part {
        Value::Integer(number) => number.to_string(),
        part => part.text().unwrap_or_default(),
    };
    parts.into_iter().map(text).collect()
}

/// Everything that comes to one subscriber, in a thread, until its connection ends.
struct Listener {
    told: Arc<Mutex<Vec<Told>>>,
    thread: JoinHandle<()>,
}

impl Listener {
    fn start(node: &Node) -> Listener {
        let mut client =
            Client::connect_within(&node.client_address(), Duration::from_mins(10)).unwrap();
        let name = "__index__:*";
        assert_eq!(texts(client.ask(&["PSUBSCRIBE", name]).unwrap()), ["psubscribe", name, "1"]);
        let begin = texts(client.receive().unwrap());
        assert_eq!(begin[..3], ["pmessage", name, name]);
        assert!(begin[3].parse::<u64>().is_ok(), "{begin:?}");
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let own = Arc::clone(&told);
        let thread = std::thread::spawn(move || {
            while let Ok(value) = client.receive() {
                let parts = texts(value);
                let (place, text) = parts[3].split_once(' ').unwrap();
                let (index, position) = place.split_once('-').unwrap();
                let place = (index.parse().unwrap(), position.parse().unwrap());
                let channel = parts[2].strip_prefix("__index__:").unwrap().to_owned();
                own.lock().push(Told { place, channel, text: text.to_owned() });
            }
        });
        Listener { told, thread }
    }
}

/// A plain subscriber of channel `a`, as soon as the node takes it.
fn subscribed(node: &Node) -> Client {
    wait_for("a subscription", || {
        let mut client = node.client().ok()?;
        client.ask(&["SUBSCRIBE", "a"]).ok()?;
        Some(client)
    })
}

#[track_caller]
fn next_text(client: &mut Client) -> String {
    texts(client.receive().unwrap()).pop().unwrap()
}

/// Clients at every node that publish on two channels, each message once.
struct Publishers {
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishers {
    fn start(cluster: &Cluster) -> Publishers {
        let (is_over, acknowledged): (Arc<AtomicBool>, Arc<Mutex<BTreeSet<String>>>) =
            Default::default();
        let addresses = cluster.addresses().into_iter().enumerate();
        let threads = addresses.map(|(nth, address)| {
            let (is_over, acknowledged) = (is_over.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let mut rounds = 0..;
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(mut client) = Client::connect(&address) else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    while !is_over.load(Ordering::Relaxed) {
                        let round: usize = rounds.next().unwrap();
                        let (channel, text) = (["a", "b"][round % 2], format!("{nth}:{round}"));
                        match client.ask(&["PUBLISH", channel, &text]) {
                            // One subscriber listens at each node.
                            Ok(count) => assert_eq!(count, Value::Integer(1)),
                            Err(Failure::Refused(_)) => continue,
                            Err(Failure::Unknown(_)) => break,
                        }
                        acknowledged.lock().insert(text);
                    }
                }
            })
        });
        let threads = threads.collect();
        Publishers { is_over, acknowledged, threads }
    }

    fn wait_more(&self, what: &str) {
        let target = self.acknowledged.lock().len() + MESSAGES;
        wait_until(what, || self.acknowledged.lock().len() >= target);
    }

    /// What was acknowledged.
    fn stop(self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

#[test]
fn subscribers_of_all_nodes_see_the_same_sequence_though_the_leader_is_killed() {
    let mut cluster = Cluster::of_three(&[]);
    let listeners: Vec<Listener> = cluster.nodes.iter().map(Listener::start).collect();
    let publishers = Publishers::start(&cluster);
    publishers.wait_more("messages before the fault");
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    publishers.wait_more("messages behind the fault");
    let acknowledged = publishers.stop();
    // Whatever was sent before the last message has come once the last one has.
    let survivor = (leader + 1) % 3;
    wait_until("the last message", || {
        cluster.nodes[survivor].ask(&["PUBLISH", "a", "last"]) == Ok(Value::Integer(1))
    });
    let has_last =
        |listener: &Listener| listener.told.lock().last().is_some_and(|told| told.text == "last");
    for (nth, listener) in listeners.iter().enumerate().filter(|(nth, _)| *nth != leader) {
        wait_until(&format!("the last message at node {nth}"), || has_last(listener));
    }
    drop(cluster);
    let sequences: Vec<Vec<Told>> = listeners
        .into_iter()
        .map(|listener| {
            listener.thread.join().unwrap();
            std::mem::take(&mut *listener.told.lock())
        })
        .collect();
    let (whole, other) = (&sequences[survivor], &sequences[(leader + 2) % 3]);
    assert!(whole.windows(2).all(|pair| pair[0].place < pair[1].place));
    assert!(whole.iter().any(|told| told.channel == "b"));
    let common = whole.len().min(other.len());
    assert_eq!(whole[..common], other[..common]);
    let killed = &sequences[leader];
    assert!(killed.len() >= MESSAGES / 2 && killed.len() < whole.len(), "{}", killed.len());
    assert_eq!(killed[..], whole[..killed.len()]);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for told in whole {
        *seen.entry(&told.text).or_default() += 1;
    }
    assert!(seen.iter().all(|(text, times)| *text == "last" || *times == 1), "{seen:?}");
    for text in &acknowledged {
        assert!(seen.contains_key(text.as_str()), "{text} was acknowledged");
    }
}

#[test]
fn nothing_old_is_told_after_a_restart() {
    let mut cluster = Cluster::of_three(&[]);
    let leader = cluster.leader();
    let mut before = subscribed(&cluster.nodes[leader]);
    for nth in 0..MESSAGES {
        assert_eq!(cluster.nodes[leader].asked(&["PUBLISH", "a", "old"]), Value::Integer(1));
        assert_eq!(next_text(&mut before), "old", "{nth}");
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    assert!(matches!(before.receive(), Err(Failure::Unknown(_))));
    for node in &mut cluster.nodes {
        node.start();
    }
    let mut listeners: Vec<Client> = cluster.nodes.iter().map(subscribed).collect();
    cluster.nodes[0].asked(&["PUBLISH", "a", "new"]);
    for listener in &mut listeners {
        assert_eq!(next_text(listener), "new");
    }
}

/// A subscription begins as a read does.
#[test]
fn a_node_that_lags_tells_a_new_subscriber_nothing_old() {
    let cluster = Cluster::of_three(&[]);
    let (leader, follower, _) = cluster.roles();
    cluster.nodes[follower].signal(Signal::STOP);
    for _ in 0..MESSAGES {
        cluster.nodes[leader].asked(&["PUBLISH", "a", "old"]);
    }
    // The system takes the connection and the request meanwhile.
    let mut listener = cluster.nodes[follower].client().unwrap();
    listener.send(&["SUBSCRIBE", "a"]).unwrap();
    cluster.nodes[follower].signal(Signal::CONT);
    assert_eq!(texts(listener.receive().unwrap()), ["subscribe", "a", "1"]);
    cluster.nodes[leader].asked(&["PUBLISH", "a", "new"]);
    assert_eq!(next_text(&mut listener), "new");
}

/// Somebody in a room, whose words go in and out by pipes.
struct Chatter {
    child: Child,
    input: Option<ChildStdin>,
    shown: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Chatter {
    fn start(config: &str, arguments: &[&str]) -> Chatter {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chatroom"))
            .args(["-config", config])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let own = Arc::clone(&shown);
        let reader = std::thread::spawn(move || {
            for line in output.lines() {
                own.lock().push(line.unwrap());
            }
        });
        let input = child.stdin.take();
        Chatter { child, input, shown, reader }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn wait_for(&self, line: &str) {
        wait_until(line, || self.shown.lock().iter().any(|shown| shown == line));
    }

    /// Ends its input; what it showed, and what it complained of.
    fn end(mut self) -> (Vec<String>, String) {
        self.input = None;
        let child = &mut self.child;
        let status = wait_for("the end of a chat", || child.try_wait().unwrap());
        let mut complaints = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        assert!(status.success(), "{status}: {complaints}");
        self.reader.join().unwrap();
        (std::mem::take(&mut *self.shown.lock()), complaints)
    }
}

fn chat_file(cluster: &Cluster) -> String {
    let path = cluster.folder.path().join("chat.toml");
    std::fs::write(&path, format!("rep = 3\nsvrIps = {:?}\n", cluster.addresses())).unwrap();
    path.display().to_string()
}

#[test]
fn everybody_in_a_room_sees_the_same_lines_though_a_node_is_killed() {
    let mut cluster = Cluster::of_three(&[]);
    let config = chat_file(&cluster);
    let mut anna = Chatter::start(&config, &["-name", "anna"]);
    let mut bert = Chatter::start(&config, &["-name", "bert"]);
    // Each is in the room once it sees its own words.
    for (chatter, name) in [(&mut anna, "anna"), (&mut bert, "bert")] {
        chatter.say("here");
        chatter.wait_for(&format!("{name}: here"));
    }
    let mut expected = 0;
    for round in 0..2 {
        for nth in 0..20 {
            anna.say(&format!("{round}.{nth}"));
            bert.say(&format!("{round}.{nth}"));
            expected += 2;
        }
        for chatter in [&anna, &bert] {
            chatter.wait_for(&format!("anna: {round}.19"));
            chatter.wait_for(&format!("bert: {round}.19"));
        }
        if round == 0 {
            // Both speak to the first; it is gone, with whatever it leads.
            cluster.nodes[0].kill();
            wait_until("the others to have a leader", || {
                cluster.nodes[1].ask(&["SET", "1", "x"]).is_ok()
            });
            std::thread::sleep(Duration::from_millis(1500)); // silence: the speakers look before they speak
        }
    }
    let ((of_anna, complaints), (of_bert, _)) = (anna.end(), bert.end());
    assert!(complaints.contains(&cluster.nodes[0].client_address()), "{complaints}");
    assert!(complaints.contains("is not heard"), "{complaints}");
    assert!(!complaints.contains("missing"), "{complaints}");
    let lines = |shown: &[String]| -> Vec<String> {
        shown.iter().filter(|line| line.contains('.')).cloned().collect()
    };
    assert_eq!(lines(&of_anna).len(), expected);
    assert_eq!(lines(&of_anna), lines(&of_bert));
}

#[test]
fn a_room_that_cannot_be_entered_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let run = |file: &str, arguments: &[&str]| {
        let path = folder.path().join("chat.toml");
        std::fs::write(&path, file).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_chatroom"))
            .arg("-config")
            .arg(path)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(stdout(&child), "");
        (child.status.code(), stderr(&child))
    };
    let (code, words) = run("rep = 2\nsvrIps = [\"127.0.0.1:1\"]\n", &[]);
    assert_eq!(code, Some(2));
    assert!(words.contains("`rep` is 2, but `svrIps` names 1"), "{words}");
    let (code, words) = run("svrIps = [\"127.0.0.1:1\"]\n", &["-channel", "__index__:x"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("without __index__:"), "{words}");
    let (code, words) = run("svrIps = [\"127.0.0.1:1\"]\n", &[]);
    assert_eq!(code, Some(1));
    assert!(words.contains("no node answers (127.0.0.1:1: "), "{words}");
    let missing = Command::new(env!("CARGO_BIN_EXE_chatroom"))
        .args(["-config", "no-such-file.toml"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("no-such-file.toml"), "{}", stderr(&missing));
    assert!(PATIENCE > Duration::from_secs(10), "it tries for so long");
}
