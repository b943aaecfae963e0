//! The sub-commands that change a cluster's members, who leads, and what a node has on its disk.
//! Called by `client`; calls `connection`.
//!
//! - I1: an order goes to one node only; once its bytes may have left, a lost connection is reported
//!   as an unknown outcome.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::Answer;
use super::{ClientError, ask_status, print, read, table, write, write_patiently};
use crate::cli::{MembersAction, Number, Servers};
use crate::status::MemberStatus;

/// Pause before the members are looked at again.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long a node may take to hear of a new leader.
const LEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a checkpoint may take: as long as a node gives it, and a little more.
const CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(130);

/// `diskstore members`.
pub(super) struct Members<'a> {
    pub(super) action: MembersAction,
    pub(super) names: &'a [String],
    pub(super) wait: Duration,
    pub(super) json: bool,
    pub(super) servers: &'a Servers,
}

impl Members<'_> {
    /// Does what is asked, and prints what came of it.
    ///
    /// # Errors
    /// Names too many or too few; everything that a node refuses.
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<(), ClientError> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let order = |words: &[&str]| order(words, self.servers);
        match (self.action, names.as_slice()) {
            (MembersAction::List, []) => self.list(out),
            (MembersAction::Add, [name]) => self.add(name, out),
            (MembersAction::Remove, [who]) => {
                order(&["REMOVE", who])?;
                self.told(out, &json!({"removed": who}), &format!("{who} is no member any more"))
            }
            (MembersAction::Replace, [old, new]) => {
                order(&["REPLACE", old, new])?;
                let done = json!({"removed": old, "votes": new});
                self.told(
                    out,
                    &done,
                    &format!("{new} votes instead of {old}, which is no member any more"),
                )
            }
            (MembersAction::Promote, [who]) => {
                order(&["PROMOTE", who])?;
                self.wait_for(who, true)?;
                self.told(out, &json!({"votes": who}), &format!("{who} votes"))
            }
            (MembersAction::Demote, [who]) => {
                order(&["DEMOTE", who])?;
                self.wait_for(who, false)?;
                self.told(out, &json!({"follows": who}), &format!("{who} follows without a vote"))
            }
            (action, names) => {
                let reason = match action {
                    MembersAction::List => "list takes no names",
                    MembersAction::Replace => {
                        "replace takes two names: who leaves, and who votes instead"
                    }
                    _ => "name one member",
                };
                Err(ClientError::flag("members", &names.join(" "), reason))
            }
        }
    }

    fn told(&self, out: &mut dyn Write, done: &Value, words: &str) -> Result<(), ClientError> {
        let text = if self.json { done.to_string() } else { words.to_owned() };
        print(out, format!("{text}\n").as_bytes())
    }

    fn list(&self, out: &mut dyn Write) -> Result<(), ClientError> {
        let status = ask_status(self.servers)?.0;
        if self.json {
            let members = json!({"members": status.members});
            return print(out, format!("{members}\n").as_bytes());
        }
        print(out, table::render_members(&status).as_bytes())
    }

    /// A member adds itself: says how.
    fn add(&self, name: &str, out: &mut dyn Write) -> Result<(), ClientError> {
        let status = ask_status(self.servers)?.0;
        if let Some(known) = status.members.iter().find(|member| member.name == name) {
            let reason = format!(
                "there is a member of this name, at {}; a new node under its name takes its place once \
                 that one is silent",
                known.raft
            );
            return Err(ClientError::flag("members", name, reason));
        }
        let voters = status.members.iter().filter(|member| member.role != "learner").count() + 1;
        let targets: Vec<&str> = status.members.iter().map(|member| member.raft.as_str()).collect();
        let targets = targets.join(",");
        let program = if status.slots == 0 { "kvstore" } else { "diskstore" };
        let line = format!("{program} -id {name} -join {targets} -port HOST:PORT -raft HOST:PORT");
        let can_lose = (voters - 1) / 2;
        let hint =
            if voters.is_multiple_of(2) { "; as many as without it, so add another" } else { "" };
        let words = format!(
            "Start it, with addresses of its own:\n  {line}\nIt votes once it has caught up; {voters} \
             voters can lose {can_lose}{hint}."
        );
        let done = json!({"start": line, "voters": voters, "can_lose": can_lose});
        self.told(out, &done, &words)
    }

    /// Waits until a member votes, or does not: the order is in the log, and the leader follows it
    /// when it can.
    fn wait_for(&self, who: &str, votes: bool) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.wait;
        loop {
            let status = ask_status(self.servers)?.0;
            let is_it = |member: &&MemberStatus| member.name == who || member.id == who;
            let Some(member) = status.members.iter().find(is_it) else {
                return Ok(()); // it was removed meanwhile
            };
            if (member.role != "learner") == votes {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let lag =
                    member.lag.map_or(String::new(), |lag| format!("; it lacks {lag} entries"));
                let so = if votes { "does not vote yet" } else { "votes still" };
                return Err(ClientError::NotYet {
                    text: format!("{who} {so}{lag}: that is in the log, and follows"),
                });
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }
}

/// `diskstore transfer-leader`.
pub(super) fn transfer_leader(
    member: Option<&str>,
    as_json: bool,
    servers: &Servers,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let words: Vec<&str> = ["LEAD"].into_iter().chain(member).collect();
    order(&words, servers)?;
    // Who is asked may hear of the new leader later than the old one did.
    let deadline = Instant::now() + LEADER_TIME_MAX;
    let leader = loop {
        let status = ask_status(servers)?.0;
        let leader = if status.role == "leader" { Some(status.name) } else { status.leader };
        if leader.is_some() || Instant::now() >= deadline {
            break leader;
        }
        std::thread::sleep(LOOK_PAUSE);
    };
    let text = match (as_json, leader) {
        (true, leader) => json!({"leader": leader}).to_string(),
        (false, Some(leader)) => format!("{leader} leads"),
        (false, None) => "leadership was handed over; nobody is known to lead yet".to_owned(),
    };
    print(out, format!("{text}\n").as_bytes())
}

/// `diskstore checkpoint`.
pub(super) fn checkpoint(
    as_json: bool,
    servers: &Servers,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    match write_patiently(&[b"DISKSTORE", b"CHECKPOINT"], servers, CHECKPOINT_TIME_MAX)? {
        (address, Answer::Integer(index)) => {
            let text = if as_json {
                json!({"node": address, "checkpoint": index}).to_string()
            } else {
                format!("{address} has a checkpoint of log index {index}")
            };
            print(out, format!("{text}\n").as_bytes())
        }
        (address, _) => Err(ClientError::Foreign { address }),
    }
}

/// `diskstore config`.
pub(super) fn config(
    as_json: bool,
    servers: &Servers,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let (address, answer) = read(&[b"DISKSTORE", b"CONFIG"], servers)?;
    let foreign = || ClientError::Foreign { address: address.clone() };
    let Answer::Value(json) = answer else { return Err(foreign()) };
    let Ok(Value::Object(flags)) = serde_json::from_slice(&json) else { return Err(foreign()) };
    if as_json {
        return print(out, format!("{}\n", Value::Object(flags)).as_bytes());
    }
    let lines = flags.iter().map(|(name, value)| {
        let text = value.as_str().unwrap_or_default();
        let is_bare =
            text.parse::<u64>().is_ok() && name != "id" || matches!(text, "true" | "false");
        if is_bare { format!("{name} = {text}\n") } else { format!("{name} = {value}\n") }
    });
    print(out, lines.collect::<String>().as_bytes())
}

/// `diskstore resize`.
pub(super) fn resize(
    slots: &Number,
    as_json: bool,
    servers: &Servers,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let slots = crate::config::number("slots", slots.clone(), 1, crate::config::SLOT_COUNT_MAX)?;
    order(&["RESIZE", &slots.to_string()], servers)?;
    let text = if as_json {
        json!({"slots": slots}).to_string()
    } else {
        format!("the cluster has {slots} slots")
    };
    print(out, format!("{text}\n").as_bytes())
}

/// How long a join token counts unless told otherwise.
const JOIN_TOKEN_TIME: Duration = Duration::from_hours(1);

/// `diskstore token join`: has the cluster make a token with which a node may join; its text.
pub(super) fn invite(
    valid_for: Option<Duration>,
    servers: &Servers,
) -> Result<Vec<u8>, ClientError> {
    let seconds = valid_for.unwrap_or(JOIN_TOKEN_TIME).as_secs().to_string();
    match write(&[b"DISKSTORE", b"INVITE", seconds.as_bytes()], servers)? {
        (_, Answer::Value(token)) => Ok(token),
        (address, _) => Err(ClientError::Foreign { address }),
    }
}

/// Gives an order to the first node that can be reached. // I1
pub(super) fn order(words: &[&str], servers: &Servers) -> Result<(), ClientError> {
    let words: Vec<&[u8]> = ["DISKSTORE"].iter().chain(words).map(|word| word.as_bytes()).collect();
    match write(&words, servers)? {
        (_, Answer::Status(_)) => Ok(()),
        (address, _) => Err(ClientError::Foreign { address }),
    }
}
