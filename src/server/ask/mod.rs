//! Answers questions about the node itself and all its keys: INFO, HELLO, ROLE, CLUSTER, SCAN and
//! the like.
//!
//! Called by the turn, for every protocol; calls the node. All answers come from the node's status
//! at the moment of the question. An answer is a [`Value`], which the protocol turns into bytes.

mod cluster;
mod info;
mod listening;

use std::time::Duration;

use bytes::Bytes;

use super::Server;
use super::access::RequestKind;
use super::complaint::Complaint;
use super::receipt::Written;
use super::requester::Requester;
use super::value::Value;
use crate::command::{Failure, FailureClass};
use crate::messages::Selector;
use crate::messages::glob::matches;
pub(crate) use crate::node::Order;
use crate::node::{Node, OrderError};
use info::Facts;

/// The version of Redis whose commands and replies are followed.
pub(crate) const REDIS_VERSION: &str = "7.2.0";

/// What the node is asked, commands of the log apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT LIST`
    ClientList {
        /// Of these connections; of all if there are none.
        ids: Vec<u64>,
        /// Of those alone that listen to channels, or of those that do not.
        listening: Option<bool>,
    },
    /// `CLIENT LIST TYPE` of a type that no connection here has.
    NoClients,
    /// `CLUSTER INFO`
    ClusterInfo,
    /// `CLUSTER MYID`
    ClusterMyId,
    /// `CLUSTER NODES`
    ClusterNodes,
    /// `CLUSTER SHARDS`
    ClusterShards,
    /// `CLUSTER SLOTS`
    ClusterSlots,
    /// `HELLO`
    Hello {
        /// The version of RESP that was agreed on.
        version: u8,
    },
    /// `INFO`, with the sections in small letters; all if there are none.
    Info(Vec<String>),
    /// `LASTSAVE`
    LastSave,
    /// `PUBSUB CHANNELS`
    Channels {
        /// What the names have to match.
        pattern: Option<Bytes>,
    },
    /// `SUBSCRIBE`, `PSUBSCRIBE`
    Listen {
        /// Whether the names are patterns.
        selector: Selector,
        /// What to listen to.
        names: Vec<Bytes>,
    },
    /// `UNSUBSCRIBE`, `PUNSUBSCRIBE`
    Leave {
        /// Whether the names are patterns.
        selector: Selector,
        /// What not to listen to any more; everything of this kind if there are none.
        names: Vec<Bytes>,
    },
    /// `PUBSUB NUMPAT`
    PatternCount,
    /// `PUBSUB NUMSUB`
    SubscriberCounts(Vec<Bytes>),
    /// `RANDOMKEY`
    RandomKey,
    /// `DISKSTORE REMOVE member` and the like.
    Order(Order),
    /// `DISKSTORE INVITE`
    Invite {
        /// How long the join token counts.
        valid_for: Duration,
    },
    /// `DISKSTORE CHECKPOINT`
    Checkpoint,
    /// `DISKSTORE CONFIG`
    Config,
    /// What is known of a write: `DISKSTORE RECEIPT`.
    Receipt(Written),
    /// `ROLE`
    Role,
    /// `SCAN`
    Scan {
        /// The first slot looked at.
        from: u64,
        /// Most slots answered.
        count: usize,
        /// What the slot's number has to match.
        pattern: Option<Bytes>,
        /// False if values of another type are asked for, of which there are none.
        strings: bool,
    },
    /// `DBSIZE`
    Size,
    /// `DISKSTORE STATUS`
    Status,
    /// `TIME`
    Time,
    /// `WAITAOF`
    WaitAof {
        /// Whether this node's own disk shall hold the last write.
        own: bool,
        /// Members, the leader apart, that shall.
        members: usize,
        /// How long to wait for them.
        timeout: Duration,
    },
    /// `WAIT`
    Wait {
        /// Members, the leader apart, that shall hold the last write.
        members: usize,
        /// How long to wait for them.
        timeout: Duration,
    },
}

impl Question {
    /// What it does, as far as rights go.
    pub(crate) fn kind(&self) -> RequestKind {
        match self {
            Question::Order(_)
            | Question::Invite { .. }
            | Question::Checkpoint
            | Question::Config
            | Question::ClientList { .. } => RequestKind::Administer,
            Question::RandomKey
            | Question::Scan { .. }
            | Question::Size
            | Question::Listen { .. } => RequestKind::Read,
            Question::ClientInfo
            | Question::NoClients
            | Question::ClusterInfo
            | Question::ClusterMyId
            | Question::ClusterNodes
            | Question::ClusterShards
            | Question::ClusterSlots
            | Question::Hello { .. }
            | Question::Info(_)
            | Question::LastSave
            | Question::Channels { .. }
            | Question::Leave { .. }
            | Question::PatternCount
            | Question::SubscriberCounts(_)
            | Question::Receipt(_)
            | Question::Role
            | Question::Status
            | Question::Time
            | Question::WaitAof { .. }
            | Question::Wait { .. } => RequestKind::Look,
        }
    }

    /// Whether it has something done, which would be cut off where the node stops.
    fn is_work(&self) -> bool {
        matches!(self, Question::Order(_) | Question::Invite { .. } | Question::Checkpoint)
    }

    /// The same as it stands in a transaction, which waits for nobody: WAIT tells how things are.
    pub(crate) fn at_once(self) -> Question {
        match self {
            Question::Wait { members, .. } => Question::Wait { members, timeout: Duration::ZERO },
            Question::WaitAof { own, members, .. } => {
                Question::WaitAof { own, members, timeout: Duration::ZERO }
            }
            question => question,
        }
    }
}

/// Answers one question of a client.
///
/// # Errors
/// A [`Complaint`]: it is refused, or this node cannot know now.
pub(crate) async fn answer(
    server: &Server,
    requester: &Requester,
    question: &Question,
) -> Result<Value, Complaint> {
    let node = &server.node;
    requester.check_begins(question.is_work())?;
    Ok(match question {
        Question::ClientInfo => Value::Text(requester.client().line()),
        Question::ClientList { ids, listening } => {
            Value::Text(server.clients.lines(ids, *listening))
        }
        Question::NoClients => Value::Text(String::new()),
        Question::ClusterInfo => Value::Text(cluster::info(&node.status())),
        Question::ClusterMyId => Value::word(&cluster::node_id(&node.status().member_id)),
        Question::ClusterNodes => Value::Text(cluster::nodes(&node.status())),
        Question::ClusterShards => cluster::shards(&node.status()),
        Question::ClusterSlots => cluster::slots(&node.status()),
        Question::Hello { version } => {
            cluster::hello(*version, requester.client().id(), &node.status())
        }
        Question::Info(sections) => Value::Text(Facts::now(server).text(sections)),
        Question::LastSave => Value::count(node.last_save_s()),
        Question::Channels { pattern } => listening::channels(node, pattern.as_deref()),
        Question::Listen { selector, names } => {
            listening::listen(node, requester, *selector, names).await?
        }
        Question::Leave { selector, names } => listening::leave(requester, *selector, names),
        Question::PatternCount => Value::size(node.messages().counts().patterns),
        Question::SubscriberCounts(channels) => listening::subscriber_counts(node, channels),
        Question::RandomKey => {
            random_key(server, requester).await?.map_or(Value::Null, Value::Bytes)
        }
        Question::Order(order) => {
            requester.order(node, order.clone()).await.map_err(refused)?;
            Value::OK
        }
        Question::Invite { valid_for } => {
            Value::Bytes(requester.invite(node, *valid_for).await.map_err(refused)?.into())
        }
        Question::Checkpoint => checkpoint(node).await?,
        Question::Config => config(node),
        Question::Receipt(written) => Value::Bytes(written.receipt(node).await.to_json().into()),
        Question::Role => cluster::role(&node.status()),
        Question::Scan { from, count, pattern, strings } => {
            let (keys, next) = requester.replica(node).await?.scan(*from, *count).await?;
            let is_wanted = |key: &Bytes| {
                let pattern = pattern.as_ref();
                *strings && pattern.is_none_or(|pattern| matches(pattern, key))
            };
            let keys = keys.into_iter().map(|key| server.keys.shown(key)).filter(is_wanted);
            let next = Value::word(&next.unwrap_or(0).to_string());
            Value::Array(vec![next, Value::Array(keys.map(Value::Bytes).collect())])
        }
        Question::Size => Value::count(requester.replica(node).await?.live_count().await?),
        Question::Status => Value::Bytes(node.status().to_json().into()),
        Question::Time => time(node),
        Question::WaitAof { own, members, timeout } => {
            if !node.syncs_always() {
                let reason = "by -sync, writes are acknowledged unsynced";
                return Err(Complaint::refused("WAITAOF", reason));
            }
            let own_timeout = if *own { *timeout } else { Duration::ZERO };
            let held_here = requester.wait_here(node, own_timeout);
            let held_there = requester.wait(node, *members, *timeout);
            let (here, there) = futures_util::future::join(held_here, held_there).await;
            Value::Array(vec![Value::Integer(i64::from(here)), Value::size(there)])
        }
        Question::Wait { members, timeout } => {
            Value::size(requester.wait(node, *members, *timeout).await)
        }
    })
}

fn refused(error: OrderError) -> Complaint {
    match error {
        OrderError::Refused(reason) => Complaint::new(FailureClass::Refused, reason),
        OrderError::Failed(failure) => failure.into(),
    }
}

fn time(node: &Node) -> Value {
    let since = node.host().clock.wall();
    let numbers = [since.as_secs(), u64::from(since.subsec_micros())];
    Value::Array(numbers.iter().map(|number| Value::word(&number.to_string())).collect())
}

async fn checkpoint(node: &Node) -> Result<Value, Complaint> {
    let lacking = || {
        let reason = "no checkpoint was written: it takes long, or the disk has no room for one";
        Complaint::new(FailureClass::Refused, reason)
    };
    node.checkpoint().await.map(Value::count).ok_or_else(lacking)
}

fn config(node: &Node) -> Value {
    let flags = node.flags().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    let flags: serde_json::Map<String, serde_json::Value> = flags.collect();
    Value::Text(serde_json::Value::Object(flags).to_string())
}

/// A key that holds a value: the first one from a random place on.
async fn random_key(server: &Server, requester: &Requester) -> Result<Option<Bytes>, Failure> {
    let replica = requester.replica(&server.node).await?;
    let random = server.node.host().random.bytes().map_or(0, u64::from_le_bytes);
    let from = random.checked_rem(server.keys.scan_end()).unwrap_or_default();
    let mut place = Some(from);
    let mut wrapped = false;
    while let Some(start) = place {
        let (mut keys, next) = replica.scan(start, 1).await?;
        if let Some(key) = keys.pop() {
            return Ok(Some(server.keys.shown(key)));
        }
        place = match next {
            Some(next) if wrapped && next > from => None,
            Some(next) => Some(next),
            None if wrapped => None,
            None => {
                wrapped = true;
                Some(0)
            }
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::status::{MemberStatus, Status};

    /// Of one member of two, in this role.
    pub(super) fn status(role: &str) -> Status {
        let member = |name: &str, client: &str| MemberStatus {
            id: "00000000000000ab".to_owned(),
            name: name.to_owned(),
            client: client.to_owned(),
            matched: Some(5),
            lag: Some(2),
            heard_ms: Some(40),
            ..MemberStatus::default()
        };
        Status {
            name: "node0".to_owned(),
            member_id: "00000000000000ab".to_owned(),
            role: role.to_owned(),
            term: 3,
            leader: Some(if role == "leader" { "node0" } else { "node1" }.to_owned()),
            members: vec![member("node0", "127.0.0.1:11000"), member("node1", "[::1]:11001")],
            applied: 7,
            ..Status::default()
        }
    }
}
