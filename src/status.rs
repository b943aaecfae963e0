//! The status of a node. `Node::status` fills it in, the RESP command `DISKSTORE STATUS`
//! carries it as one JSON value, and `diskstore status` prints it. Depends on nothing.
//!
//! - I1: Fields are only ever added, so that programs of different versions understand each other:
//!   a missing field reads as its default, an unknown one is skipped.

use serde::{Deserialize, Serialize};

/// [`RefusalStatus::code`] of a member whose local reads wait for the end of a snapshot.
pub const CATCHING_UP: &str = "catching_up";

/// Every [`RefusalStatus::code`].
pub const REFUSAL_CODES: [&str; 6] =
    ["memory_budget", "full_memory", "log_space", "checkpoint_space", "slow_disk", CATCHING_UP];

/// The state of a node as it sees itself and its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Name of the node.
    pub name: String,
    /// Member id, hexadecimal: 16 digits.
    pub member_id: String,
    /// Cluster id, hexadecimal: 32 digits.
    pub cluster_id: String,
    /// `leader`, `follower`, `candidate`, `learner` or `stopping`.
    pub role: String,
    /// Election term.
    pub term: u64,
    /// Name of the leader, if one is known.
    pub leader: Option<String>,
    /// Leaders that this node has known since the start, one after the other.
    pub leader_changes: u64,
    /// Every member, sorted by name.
    pub members: Vec<MemberStatus>,
    /// True while a change of the voters is between its two steps, as far as this node has its log:
    /// until the second one, majorities of the old and of the new voters are needed.
    pub voters_changing: bool,
    /// What is to be said while the cluster has another address of this node than its own.
    pub moved: Option<String>,
    /// Seconds since a majority of the voters last took part, as far as this node can know; absent
    /// while one does. Meanwhile writes are refused.
    pub no_majority_s: Option<u64>,
    /// Highest log index known to be committed.
    pub committed: u64,
    /// Highest log index applied to the slots.
    pub applied: u64,
    /// Highest log index in this node's log.
    pub last_log: u64,
    /// Log index of the last checkpoint.
    pub checkpoint: u64,
    /// Highest log index purged from this node's log.
    pub purged: u64,
    /// Log index that must be applied before this node serves local reads.
    pub readable_from: u64,
    /// Number of slots; 0 where any bytes are a key.
    pub slots: u64,
    /// Most bytes of a value.
    pub value_size: u32,
    /// Slots or keys that hold a value; absent until they have been counted after a start.
    pub live: Option<u64>,
    /// Bytes that the files in the node's directory take on the disk.
    pub disk_used_bytes: u64,
    /// Bytes that are left on that disk.
    pub disk_left_bytes: u64,
    /// Bytes that the log's files take of those used, files that wait to be used included.
    pub log_bytes: u64,
    /// Bytes written to the log since the start, padding included.
    pub log_written_bytes: u64,
    /// Pages of slots that were written in place since the start.
    pub written_pages: u64,
    /// Slots whose checksum was found wrong since the start and still is.
    pub damaged_slots: u64,
    /// Slots sent to members that lacked them since the start.
    pub slots_sent: u64,
    /// Slots that snapshots brought to this node since the start.
    pub slots_received: u64,
    /// Bytes that other members sent to this node since the start.
    pub received_bytes: u64,
    /// Kind of the file system that the node's files are on, such as `ext4`; absent where the system
    /// does not say.
    pub file_system: Option<String>,
    /// Syncs of the log since the start.
    pub sync: SyncStatus,
    /// Where the time of writes goes on this node, stage by stage.
    pub stages: Vec<StageStatus>,
    /// Commands of this node's clients that succeeded since the start.
    pub succeeded: u64,
    /// Lines of the log on stderr that were dropped because nobody took them.
    pub dropped_lines: u64,
    /// Flags in force that weaken a promise: `-sync batch`, `-sync never`, `-read local`, `-insecure`.
    pub unsafe_flags: Vec<String>,
    /// What the node refuses or holds up now, and what ends that.
    pub refusals: Vec<RefusalStatus>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// What the node's clock shows, in milliseconds since 1970.
    pub wall_ms: Option<u64>,
    /// How TLS is spoken; `None` where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
}

/// How a node speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsStatus {
    /// `prefer`, `require` or `mutual`.
    pub mode: String,
    /// When the node's certificate ends, in seconds since 1970.
    pub certificate_not_after_s: i64,
    /// When the first of the authorities that it trusts ends, in seconds since 1970.
    pub authority_not_after_s: i64,
    /// Connections that were refused since the start.
    pub refused: u64,
}

/// What the node itself adds to a [`Status`]; each field means the one of its name. All others are
/// known to its cluster.
#[derive(Debug)]
pub struct NodeStatus {
    /// [`Status::version`].
    pub version: String,
    /// [`Status::name`].
    pub name: String,
    /// [`Status::disk_used_bytes`].
    pub disk_used_bytes: u64,
    /// [`Status::disk_left_bytes`].
    pub disk_left_bytes: u64,
    /// [`Status::log_bytes`].
    pub log_bytes: u64,
    /// [`Status::file_system`].
    pub file_system: Option<String>,
    /// [`Status::succeeded`].
    pub succeeded: u64,
    /// [`Status::dropped_lines`].
    pub dropped_lines: u64,
    /// [`Status::unsafe_flags`].
    pub unsafe_flags: Vec<String>,
    /// [`Status::uptime_s`].
    pub uptime_s: u64,
    /// [`Status::wall_ms`].
    pub wall_ms: u64,
    /// [`Status::tls`].
    pub tls: Option<TlsStatus>,
}

/// A member of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Member id, hexadecimal: 16 digits.
    pub id: String,
    /// Name of the node.
    pub name: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Where clients reach it.
    pub client: String,
    /// Where members reach it.
    pub raft: String,
    /// Highest log index that it holds durably; only the leader knows.
    pub matched: Option<u64>,
    /// Entries of the leader's log that it lacks; only the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since it answered last; only the leader knows, and not of itself.
    pub heard_ms: Option<u64>,
    /// True if it could vote and is not to: it was demoted, and follows until it is promoted.
    pub is_standby: bool,
    /// True if it is a logger, which follows for ever and never votes; absent if the node is of a version
    /// that does not tell.
    pub never_votes: Option<bool>,
    /// True if it has not answered for four thirds of `-election-ms`, false if it has; `None` where this node
    /// cannot know: only a leader hears of the others, and a new one not of all yet.
    pub silent: Option<bool>,
}

/// Requests that a node refuses, or holds up, for a reason that lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusalStatus {
    /// The reason as a word for programs: one of [`REFUSAL_CODES`].
    pub code: String,
    /// What is refused and why, as one sentence.
    pub reason: String,
    /// Seconds since it began.
    pub since_s: u64,
    /// What is being done to end it, or what a person has to do.
    pub doing: String,
}

/// How long one stage of writes took, each time since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageStatus {
    /// `queue`, `append`, `sync`, `commit` or `apply`, as the metrics name them.
    pub stage: String,
    /// How many took less than 2, 4, 8 ... microseconds, and not less than half of that; zeros at the
    /// end are left out.
    pub buckets: Vec<u64>,
}

/// How long syncs of the log took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncStatus {
    /// Syncs since the start.
    pub count: u64,
    /// Half of them took at most this many microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most this many microseconds.
    pub p99_us: u64,
    /// The longest one, in microseconds.
    pub max_us: u64,
}

impl Status {
    /// The status as JSON, on one line.
    ///
    /// # Panics
    /// Never: every field is a string, a number or a list of them.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: strings and numbers always have a JSON form")
    }

    /// Reads a status of this or another version.
    ///
    /// # Errors
    /// Text that is no JSON, or a field of another type.
    pub fn from_json(text: &[u8]) -> serde_json::Result<Status> {
        serde_json::from_slice(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        let member = MemberStatus {
            id: "0000000000000001".to_owned(),
            name: "node0".to_owned(),
            matched: Some(7),
            ..MemberStatus::default()
        };
        Status { name: "node0".to_owned(), term: 3, members: vec![member], ..Status::default() }
    }

    #[test]
    fn a_status_comes_back_from_json_as_it_was() {
        assert_eq!(Status::from_json(sample().to_json().as_bytes()).unwrap(), sample());
    }

    #[test]
    fn a_status_of_another_version_is_understood() {
        let text = br#"{"name":"n","sync":{"count":2,"new":1},"later":[1]}"#;
        let status = Status::from_json(text).unwrap();
        assert_eq!((status.name.as_str(), status.sync.count, status.term), ("n", 2, 0));
    }

    #[test]
    fn text_that_is_no_status_is_an_error() {
        assert!(Status::from_json(b"").is_err());
        assert!(Status::from_json(br#"{"term":"x"}"#).is_err());
    }
}
