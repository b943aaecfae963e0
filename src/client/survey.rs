//! Asks many nodes for their status at once. `doctor` and `top` begin here.
//!
//! - I1: all nodes are asked at the same time, and each has [`ASK_TIME_MAX`] to answer: one that hangs
//!   costs no more than that.
//! - I2: a node that does not answer is a result with its reason, never a failure.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use super::answer::Answer;
use super::connection::NodeConnection;
use super::health::Health;
use super::{ClientError, Dialling, addresses_in};
use crate::status::{MemberStatus, Status};

/// How long all nodes together may take to answer.
pub(super) const ASK_TIME_MAX: Duration = Duration::from_secs(3);
/// Most nodes that are asked; a cluster has no more members.
pub(super) const ASKED_COUNT_MAX: usize = 256;

/// What came of asking at one address.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Where it was asked.
    pub(super) address: String,
    /// What answered, or why nothing did.
    pub(super) outcome: Result<Seen, String>,
}

/// A node's answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// What it says.
    pub(super) status: Status,
    /// What this machine's clock showed half way between question and answer, in milliseconds since 1970.
    pub(super) own_wall_ms: u64,
    /// How long the answer took, in milliseconds: so wrong `own_wall_ms` may be at most.
    pub(super) took_ms: u64,
}

/// A cluster, as its nodes see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Survey {
    /// What came of asking at the addresses that were typed.
    pub(super) typed: Vec<Visit>,
    /// Every member by the newest list of them, and what came of asking at its own address; `None` where
    /// it has none.
    pub(super) members: Vec<(MemberStatus, Option<Visit>)>,
    /// The cluster that is looked at, by the newest answer; empty if nothing answered.
    pub(super) cluster_id: String,
}

impl Survey {
    /// Asks at the addresses of `list`, and then every member that those who answered know of; nowhere
    /// twice.
    ///
    /// # Errors
    /// Rubbish in the list.
    pub(super) fn of(list: &str, dialling: &Dialling) -> Result<Survey, ClientError> {
        let mut typed: Vec<String> = Vec::new();
        for address in addresses_in(list)? {
            if !typed.iter().any(|known| known == address) {
                typed.push(address.to_owned());
            }
        }
        let typed = visit_all(typed, dialling);
        let answers = typed.iter().filter_map(|visit| visit.outcome.as_ref().ok());
        // Who knows the newest membership: a member that was cut off has an old one.
        let newest = answers.max_by_key(|seen| (seen.status.term, seen.status.committed));
        let (cluster_id, members) = newest.map_or_else(Default::default, |seen| {
            (seen.status.cluster_id.clone(), seen.status.members.clone())
        });
        let known = |address: &str| typed.iter().find(|visit| visit.address == address);
        let addresses = members.iter().map(|member: &MemberStatus| &member.client);
        let is_new = |address: &&String| !address.is_empty() && known(address).is_none();
        let addresses = addresses.filter(is_new).take(ASKED_COUNT_MAX).cloned().collect();
        let mut visits = visit_all(addresses, dialling).into_iter();
        let with_visit = |member: MemberStatus| {
            let visit = match known(&member.client) {
                Some(visit) => Some(visit.clone()),
                None if member.client.is_empty() => None,
                None => visits.next(),
            };
            (member, visit)
        };
        let members = members.into_iter().map(with_visit).collect();
        Ok(Survey { typed, members, cluster_id })
    }

    /// Every answer of this cluster, that of a member once, in the order of the members.
    pub(super) fn answers(&self) -> Vec<&Seen> {
        let visits = self.members.iter().filter_map(|(_, visit)| visit.as_ref()).chain(&self.typed);
        let mut answers: Vec<&Seen> = Vec::new();
        for seen in visits.filter_map(|visit| visit.outcome.as_ref().ok()) {
            let is_of_it = self.cluster_id.is_empty() || seen.status.cluster_id == self.cluster_id;
            if is_of_it
                && !answers.iter().any(|known| known.status.member_id == seen.status.member_id)
            {
                answers.push(seen);
            }
        }
        answers
    }

    /// The one that leads, if it answered: of several that of the newest term.
    pub(super) fn leader(&self) -> Option<&Seen> {
        let leads =
            |seen: &&Seen| seen.status.role == "leader" && seen.status.no_majority_s.is_none();
        self.answers().into_iter().filter(leads).max_by_key(|seen| seen.status.term)
    }

    /// How the cluster is, by all answers.
    pub(super) fn health(&self) -> Health {
        let answers = self.answers().into_iter().map(|seen| seen.status.clone());
        Health::of(&answers.map(|status| (status.member_id.clone(), status)).collect())
    }
}

/// Asks at all of these addresses; the visits are in their order. // I1
pub(super) fn visit_all(addresses: Vec<String>, dialling: &Dialling) -> Vec<Visit> {
    let late = || Err(format!("no answer within {} s", ASK_TIME_MAX.as_secs()));
    let mut visits: Vec<Visit> =
        addresses.into_iter().map(|address| Visit { address, outcome: late() }).collect();
    let (answered, answers) = channel();
    for (at, visit) in visits.iter_mut().enumerate() {
        let (answered, address) = (answered.clone(), visit.address.clone());
        let dialling = dialling.clone();
        let ask = move || drop(answered.send((at, ask(&address, &dialling))));
        if let Err(error) = std::thread::Builder::new().spawn(ask) {
            visit.outcome = Err(error.to_string());
        }
    }
    drop(answered);
    let deadline = Instant::now() + ASK_TIME_MAX;
    while let Ok((at, outcome)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        if let Some(visit) = visits.get_mut(at) {
            visit.outcome = outcome;
        }
    }
    visits
}

fn ask(address: &str, dialling: &Dialling) -> Result<Seen, String> {
    let words = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => "what answers is no node of ours".to_owned(),
        std::io::ErrorKind::TimedOut => format!("no answer within {} s", ASK_TIME_MAX.as_secs()),
        _ => error.to_string(),
    };
    let mut connection =
        NodeConnection::open_within(address, dialling, ASK_TIME_MAX).map_err(words)?;
    let (asked, asked_at) = (Instant::now(), SystemTime::now());
    let answer = connection.call(&[b"DISKSTORE", b"STATUS"]).map_err(words)?;
    let took = asked.elapsed();
    let status = match answer {
        Answer::Value(json) => Status::from_json(&json).ok(),
        Answer::Error(words) => return Err(words),
        _ => None,
    };
    let status = status.ok_or("what answers is no node of ours")?;
    let wall = asked_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + took / 2;
    Ok(Seen { status, own_wall_ms: milliseconds(wall), took_ms: milliseconds(took) })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A node that answers every connection so.
    fn node(json: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
                drop(write!(stream, "${}\r\n{json}\r\n", json.len()));
            }
        });
        address
    }

    #[test]
    fn every_member_is_asked_where_it_is_registered_and_silence_is_a_result() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let second = node(r#"{"name":"b","member_id":"2"}"#.to_owned());
        let members = format!(
            r#"{{"name":"a","client":"{gone}"}},{{"name":"b","client":"{second}"}},{{"name":"c"}}"#
        );
        let first =
            node(format!(r#"{{"name":"a","member_id":"1","term":4,"members":[{members}]}}"#));
        let list = format!("{gone},{first}");
        let survey = Survey::of(&list, &Dialling::default()).unwrap();
        let is_there = |visit: &Visit| visit.outcome.is_ok();
        assert_eq!(survey.typed.iter().map(is_there).collect::<Vec<_>>(), [false, true]);
        let found: Vec<_> =
            survey.members.iter().map(|(_, visit)| visit.as_ref().map(is_there)).collect();
        assert_eq!(found, [Some(false), Some(true), None]);
        let names: Vec<_> = survey.answers().iter().map(|seen| &seen.status.name).collect();
        assert_eq!(names, ["b", "a"]);
        let seen = survey.typed[1].outcome.as_ref().unwrap();
        assert!(seen.own_wall_ms > 1_600_000_000_000 && seen.took_ms <= 3000, "{seen:?}");
    }

    #[test]
    fn a_node_is_asked_once_however_often_it_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let json = format!(
            r#"{{"name":"a","member_id":"1","members":[{{"name":"a","client":"{address}"}}]}}"#
        );
        let asked = std::thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let (mut stream, mut first) = (stream.unwrap(), [0; 4096]);
                let length = stream.read(&mut first).unwrap();
                if first[..length].starts_with(b"END") {
                    return count;
                }
                drop(write!(stream, "${}\r\n{json}\r\n", json.len()));
            }
            unreachable!("nobody shuts the listener")
        });
        let list = format!("{address},{address}");
        let survey = Survey::of(&list, &Dialling::default()).unwrap();
        assert_eq!((survey.typed.len(), survey.members.len()), (1, 1));
        assert!(survey.members[0].1.as_ref().unwrap().outcome.is_ok());
        std::net::TcpStream::connect(&address).unwrap().write_all(b"END").unwrap();
        assert_eq!(asked.join().unwrap(), 1);
    }

    #[test]
    fn what_is_no_status_is_told_in_words() {
        let foreign = node("[".to_owned());
        let visits = visit_all(vec![foreign], &Dialling::default());
        assert_eq!(visits[0].outcome.as_ref().unwrap_err(), "what answers is no node of ours");
    }
}
