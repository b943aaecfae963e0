//! The `chatroom` program: what is typed goes to everybody in the room, and what anybody says is
//! shown, in the same order to all. `bin/chatroom.rs` calls [`run`].
//!
//! It listens to all nodes at once (`link`, a thread for each) and shows every message once (`room`).
//! So a node may be lost without a message being missed. What is typed is published at one node, and at
//! the next if that is lost.
//!
//! - I1: a line whose outcome is unknown is not sent again; that is said.
//! - I2: messages go to stdout, all else to stderr. On a terminal both go to the screen, above the
//!   line that is being typed.

mod link;
mod room;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clap::Parser;
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};

use super::answer::Answer;
use super::connection::NodeConnection;
use super::dialling::Dialling;
use super::original::config;
use super::{ClientError, print};
use crate::cli::parse_boolean;
use crate::command::{CHANNEL_BYTES_MAX, INDEXED_PREFIX, MESSAGE_BYTES_MAX};
use link::Link;
use room::{Post, Room, Shown};

/// How long no node at all may be reached at the start.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a line is tried at one node after the other while none takes it.
const SEND_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// A connection that was silent for so long is looked at before a line is sent over it.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long the last messages are waited for at the end of the input.
const END_TIME_MAX: Duration = Duration::from_secs(15);
/// Answers of one node at the end of the input: the first may be to an earlier question.
const END_ANSWER_COUNT: u32 = 2;

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "chatroom",
    version,
    about = "Sends what is typed or piped to everybody in the room, and shows what anybody says, in the \
             same order to all.",
    after_help = "Flags may be written -x v, -x=v, --x v or --x=v.",
    args_override_self = true
)]
pub struct ChatFlags {
    /// Where the replicas are: rep, svrIps.
    #[arg(long, value_name = "FILE", default_value = "chat.toml")]
    pub config: PathBuf,
    /// The room: any channel.
    #[arg(long, value_name = "NAME", default_value = "chat")]
    pub channel: String,
    /// Who you are: stands before what you say.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
    /// Presents the token in FILE to nodes with -tokens [default: that of DISKSTORE_TOKEN, if it is set].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Speaks TLS: DIR has ca.crt, and tls.crt with tls.key where nodes ask for a client's certificate.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Whether it goes on listening at the end of what is piped into it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub listen: bool,
}

/// What happens.
#[derive(Debug)]
enum Event {
    /// A node is connected, and says how far it is.
    Reached { source: usize, index: u64 },
    /// A node sends a message.
    Post { source: usize, post: Post },
    /// A node cannot be heard.
    Lost { source: usize, reason: String },
    /// A line was not sent, or perhaps not.
    Unsent { words: String },
    /// Nothing more is typed: how it ended.
    End(Result<(), ClientError>),
}

/// Runs until the input ends.
///
/// # Errors
/// Wrong flags, no node at the start, lines that were not sent.
pub fn run(flags: &ChatFlags, out: &mut dyn Write) -> Result<(), ClientError> {
    let bytes = flags.channel.len();
    if bytes > CHANNEL_BYTES_MAX || flags.channel.as_bytes().starts_with(INDEXED_PREFIX) {
        let reason = format!("give a name of up to {CHANNEL_BYTES_MAX} bytes, without __index__:");
        return Err(super::bench::refuse("channel", &flags.channel, &reason));
    }
    let dialling = Dialling::read(flags.token_file.as_deref(), flags.tls.as_deref())?;
    let replicas = config::read(&flags.config)?.replicas;
    let (events, heard) = mpsc::channel();
    let name = [INDEXED_PREFIX, flags.channel.as_bytes()].concat();
    for (number, address) in replicas.iter().enumerate() {
        let link = Link {
            number,
            address: address.clone(),
            dialling: dialling.clone(),
            name: name.clone(),
        };
        let events = events.clone();
        start_thread("listen", move || link.run(&events))?;
    }
    let mut chat = Chat::new(&replicas);
    let first = chat.enter(&heard)?;
    let sender = Speaker::new(replicas.clone(), dialling, flags);
    let mut screen = Screen::Pipe(out);
    if io::stdin().is_terminal() {
        let mut editor = DefaultEditor::new().map_err(terminal)?;
        let printer = editor.create_external_printer().map_err(terminal)?;
        screen = Screen::Terminal(Box::new(printer));
        start_thread("type", move || talk(editor, sender, &events))?;
    } else {
        start_thread("type", move || read_lines(sender, &events))?;
    }
    screen.show_all(&chat.take(first))?;
    chat.run(&heard, &mut screen, flags.listen)
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ClientError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|source| ClientError::local("starting a thread", source))
}

/// Where messages and notices go (I2).
enum Screen<'a> {
    Pipe(&'a mut dyn Write),
    Terminal(Box<dyn PrintAbove>),
}

/// What rustyline has to print while a line is typed.
trait PrintAbove {
    fn print_above(&mut self, text: String) -> Result<(), ReadlineError>;
}

impl<P: ExternalPrinter> PrintAbove for P {
    fn print_above(&mut self, text: String) -> Result<(), ReadlineError> {
        self.print(text)
    }
}

/// Something that is shown.
enum Told {
    Message(String),
    Notice(String),
}

impl Screen<'_> {
    fn show_all(&mut self, all: &[Told]) -> Result<(), ClientError> {
        all.iter().try_for_each(|told| self.show(told))
    }

    fn show(&mut self, told: &Told) -> Result<(), ClientError> {
        match (self, told) {
            (Screen::Pipe(out), Told::Message(text)) => print(*out, format!("{text}\n").as_bytes()),
            (Screen::Pipe(_), Told::Notice(text)) => {
                crate::program::tell(&format!("chatroom: {text}\n"));
                Ok(())
            }
            (Screen::Terminal(printer), Told::Message(text)) => {
                printer.print_above(format!("{text}\n")).map_err(terminal)
            }
            (Screen::Terminal(printer), Told::Notice(text)) => {
                printer.print_above(format!("* {text}\n")).map_err(terminal)
            }
        }
    }
}

/// The room as it is heard.
struct Chat<'a> {
    replicas: &'a [String],
    room: Room,
    /// Whether each node is heard; at first it is not known.
    is_heard: Vec<Option<bool>>,
    /// How often each node answered since the input ended.
    answers: Option<Vec<u32>>,
    unsent_count: u64,
}

impl<'a> Chat<'a> {
    fn new(replicas: &'a [String]) -> Chat<'a> {
        let is_heard = vec![None; replicas.len()];
        Chat { replicas, room: Room::default(), is_heard, answers: None, unsent_count: 0 }
    }

    /// Waits until the first node is heard; what it said.
    fn enter(&mut self, heard: &Receiver<Event>) -> Result<Event, ClientError> {
        let deadline = Instant::now() + START_TIME_MAX;
        let mut tried: Vec<String> = Vec::new();
        loop {
            match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Lost { source, reason }) => {
                    let word = format!("{}: {reason}", self.address(source));
                    if !tried.contains(&word) {
                        tried.push(word);
                    }
                }
                Ok(event) => return Ok(event),
                Err(_) => return Err(ClientError::NoNode { tried }),
            }
        }
    }

    /// What an event has to be told.
    fn take(&mut self, event: Event) -> Vec<Told> {
        let mut told = Vec::new();
        let shown = match event {
            Event::Reached { source, index } => {
                if self.note(source, true) {
                    told.push(Told::Notice(format!("{} is heard again", self.address(source))));
                }
                let shown = self.room.reach(source, index);
                let answered = self.answers.as_mut().and_then(|answers| answers.get_mut(source));
                if let Some(count) = answered.filter(|_| self.room.is_joined(source)) {
                    *count += 1;
                }
                shown
            }
            Event::Post { source, post } => match self.room.post(source, post) {
                Ok(shown) => shown,
                Err(room::TooManyHeld) => self.room.lose(source),
            },
            Event::Lost { source, reason } => {
                if self.is_heard.get(source) != Some(&Some(false)) {
                    let address = self.address(source);
                    told.push(Told::Notice(format!("{address} is not heard: {reason}")));
                }
                self.note(source, false);
                self.room.lose(source)
            }
            Event::Unsent { words } => {
                self.unsent_count += 1;
                told.push(Told::Notice(words));
                Vec::new()
            }
            Event::End(_) => Vec::new(),
        };
        told.extend(shown.into_iter().map(|shown| match shown {
            Shown::Post(text) => Told::Message(in_one_line(&text)),
            Shown::Gap { after, through } => Told::Notice(format!(
                "messages may be missing here, of log entries {} to {through}",
                after + 1
            )),
        }));
        told
    }

    /// Notes whether a node is heard; whether it was lost before and is not any more.
    fn note(&mut self, source: usize, is_heard: bool) -> bool {
        let Some(state) = self.is_heard.get_mut(source) else { return false };
        state.replace(is_heard) == Some(false) && is_heard
    }

    fn address(&self, source: usize) -> &str {
        self.replicas.get(source).map_or("", String::as_str)
    }

    /// Shows what comes, up to the end of the input.
    fn run(
        mut self,
        heard: &Receiver<Event>,
        screen: &mut Screen<'_>,
        goes_on: bool,
    ) -> Result<(), ClientError> {
        let mut deadline: Option<Instant> = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let event = match left {
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(left) => heard.recv_timeout(left),
            };
            match event {
                Ok(Event::End(Ok(()))) if goes_on => {}
                Ok(Event::End(ended)) => {
                    ended?;
                    if matches!(screen, Screen::Terminal(_)) {
                        return self.outcome();
                    }
                    self.answers = Some(vec![0; self.replicas.len()]);
                    deadline = Some(Instant::now() + END_TIME_MAX);
                }
                Ok(event) => screen.show_all(&self.take(event))?,
                Err(_) => {
                    let words = "no node said that it has sent everything".to_owned();
                    screen.show(&Told::Notice(words))?;
                    return self.outcome();
                }
            }
            let is_whole =
                |answers: &Vec<u32>| answers.iter().any(|count| *count >= END_ANSWER_COUNT);
            if self.answers.as_ref().is_some_and(is_whole) {
                return self.outcome();
            }
        }
    }

    fn outcome(&self) -> Result<(), ClientError> {
        match self.unsent_count {
            0 => Ok(()),
            count => Err(ClientError::SomeFailed { count }),
        }
    }
}

/// A message as it is shown: what others wrote rules over no terminal.
fn in_one_line(text: &[u8]) -> String {
    let shown = |char: char| if char.is_control() { ' ' } else { char };
    String::from_utf8_lossy(text).chars().map(shown).collect()
}

/// Sends lines, at one node after the other.
struct Speaker {
    replicas: Vec<String>,
    dialling: Dialling,
    /// The node that is tried next.
    next: usize,
    connection: Option<NodeConnection>,
    used: Instant,
    channel: Vec<u8>,
    prefix: String,
}

impl Speaker {
    fn new(replicas: Vec<String>, dialling: Dialling, flags: &ChatFlags) -> Speaker {
        let prefix = match flags.name.as_str() {
            "" => String::new(),
            name => format!("{name}: "),
        };
        let channel = flags.channel.clone().into_bytes();
        let used = Instant::now();
        Speaker { replicas, dialling, next: 0, connection: None, used, channel, prefix }
    }

    /// Sends one line.
    ///
    /// # Errors
    /// In words: it was not sent, or perhaps not (I1).
    fn say(&mut self, line: &str) -> Result<(), String> {
        let message = format!("{}{line}", self.prefix);
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(format!(
                "not sent, longer than {MESSAGE_BYTES_MAX} bytes: {}",
                brief(line)
            ));
        }
        let deadline = Instant::now() + SEND_TIME_MAX;
        loop {
            let reason = match self.connect() {
                Ok(mut connection) => {
                    let answer = connection.call(&[b"PUBLISH", &self.channel, message.as_bytes()]);
                    self.connection = Some(connection);
                    match answer {
                        Ok(Answer::Integer(_)) => {
                            self.used = Instant::now();
                            return Ok(());
                        }
                        Ok(Answer::Error(words)) if words.starts_with("UNKNOWN") => {
                            self.give_up();
                            return Err(format!("perhaps not sent ({words}): {}", brief(line)));
                        }
                        Ok(Answer::Error(words)) if words.starts_with("ERR value") => {
                            return Err(format!("not sent ({words}): {}", brief(line)));
                        }
                        Ok(Answer::Error(words)) => words, // it was not proposed
                        Ok(_) => "it answers with something else than expected".to_owned(),
                        Err(error) => {
                            self.give_up();
                            return Err(format!("perhaps not sent ({error}): {}", brief(line)));
                        }
                    }
                }
                Err(error) => error.to_string(),
            };
            self.give_up();
            if Instant::now() >= deadline {
                return Err(format!("not sent ({reason}): {}", brief(line)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A connection over which the node was heard lately.
    fn connect(&mut self) -> io::Result<NodeConnection> {
        let open = self.connection.take();
        let is_old = self.used.elapsed() > SILENCE_MAX;
        let open = open.and_then(|mut open| {
            let is_alive = !is_old || matches!(open.call(&[b"PING"]), Ok(Answer::Status(_)));
            is_alive.then_some(open)
        });
        if let Some(connection) = open {
            return Ok(connection);
        }
        let address = self.replicas.get(self.next).map_or("", String::as_str);
        NodeConnection::open(address, &self.dialling)
    }

    fn give_up(&mut self) {
        self.connection = None;
        self.next = (self.next + 1) % self.replicas.len();
    }
}

/// The beginning of a line, to tell it from others.
fn brief(line: &str) -> &str {
    const BYTES_MAX: usize = 60;
    line.get(..line.floor_char_boundary(BYTES_MAX)).unwrap_or(line)
}

/// Says a line; whether anybody wants to hear more.
fn say(speaker: &mut Speaker, line: &str, events: &Sender<Event>) -> bool {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return true;
    }
    let said = speaker.say(line);
    said.map_or_else(|words| events.send(Event::Unsent { words }).is_ok(), |()| true)
}

fn read_lines(mut speaker: Speaker, events: &Sender<Event>) {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    let ended = loop {
        line.clear();
        // One byte more than a message has at most: what is longer is told, and its rest is a line.
        let bytes_max = u64::try_from(MESSAGE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        match io::Read::take(&mut input, bytes_max).read_until(b'\n', &mut line) {
            Ok(0) => break Ok(()),
            Ok(_) if say(&mut speaker, &String::from_utf8_lossy(&line), events) => {}
            Ok(_) => return,
            Err(source) => break Err(ClientError::local("reading a line", source)),
        }
    };
    drop(events.send(Event::End(ended))); // nobody listens once the room is left
}

/// With line editing.
fn talk(mut editor: DefaultEditor, mut speaker: Speaker, events: &Sender<Event>) {
    let ended = loop {
        match editor.readline("") {
            Ok(line) if say(&mut speaker, &line, events) => {}
            Ok(_) => return,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break Ok(()),
            Err(error) => break Err(terminal(error)),
        }
    };
    drop(events.send(Event::End(ended))); // nobody listens once the room is left
}

fn terminal(error: ReadlineError) -> ClientError {
    ClientError::local("the terminal", io::Error::other(error))
}
