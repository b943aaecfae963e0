//! What a node says of itself, for people and programs.

use serde::Serialize;

/// How a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RegistersStatus {
    /// Its id in the layout.
    pub id: String,
    /// Its number in versions.
    pub number: u16,
    /// The cluster, in hexadecimal digits.
    pub cluster_id: String,
    /// The layout: its epoch, and the hash that nodes compare.
    pub epoch: u64,
    /// In hexadecimal digits.
    pub layout_hash: String,
    /// How many nodes hold each key.
    pub replica_count: usize,
    /// `ready`, `behind` (it was away while deletes were forgotten) or `lost` (it lost its disk, or is new);
    /// the last two copy first, and answer nobody.
    pub standing: String,
    /// What it waits for while it is not ready.
    pub waits_for: String,
    /// Why it begins no write of its own keys now: full memory, a full disk, one that is behind; nothing else.
    pub busy: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Keys held here that have a value.
    pub keys: u64,
    /// Deleted keys that are remembered.
    pub tombstones: u64,
    /// Bytes of memory that keys take, and may take.
    pub memory_bytes: u64,
    /// See there.
    pub memory_bytes_max: u64,
    /// What its clock shows.
    pub clock: u64,
    /// Its time, in milliseconds since 2020: the time of day, unless that went back.
    pub time_ms: u64,
    /// How far its time is ahead of the time of day, for that went back: it stands still for so long.
    pub stands_ms: u64,
    /// Whether it and the ready nodes that it sees are so many that some key has a majority of its replicas.
    pub sees_quorum: bool,
    /// Up to here (milliseconds since 2020) deletes are forgotten.
    pub floor_ms: u64,
    /// Up to here it has the same as all others.
    pub confirmed_ms: u64,
    /// New stores up to here are refused.
    pub fence_ms: u64,
    /// Nodes that the floor does not wait for.
    pub left_out: Vec<String>,
    /// How often two values of one version met. More than 0 says that a node gave a version twice.
    pub clashes: u64,
    /// Versions that were refused because they were too far ahead of this node's time.
    pub ahead: u64,
    /// Milliseconds since it refused one last; none if it never did.
    pub ahead_since_ms: Option<u64>,
    /// How often it lost its disk.
    pub losses: u64,
    /// Whether its files may still have keys that were deleted and forgotten.
    pub has_forgotten_in_files: bool,
    /// Operations since the start that were acknowledged, certainly not stored, and unknown.
    pub acknowledged: u64,
    /// See there.
    pub failed: u64,
    /// See there.
    pub unknown: u64,
    /// Operations that were passed on to a replica.
    pub forwarded: u64,
    /// Records that reads and pulls have repaired, here or elsewhere.
    pub mended: u64,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
}

/// How another node is, as this one sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// Its number in versions.
    pub number: u16,
    /// Where it is dialled.
    pub address: String,
    /// Whether it was heard within a second.
    pub is_up: bool,
    /// How it says it stands.
    pub standing: String,
    /// Up to here this node has confirmed with it.
    pub confirmed_ms: u64,
    /// A sum over all that this node holds and the other one holds, too, in hexadecimal digits: both show the same of each other
    /// once they hold the same.
    pub digest: String,
    /// Milliseconds since it was heard; none if it never was.
    pub silent_ms: Option<u64>,
    /// Why it cannot be used, if so: refused by its hello, or not reached.
    pub complaint: Option<String>,
    /// How far its clock is ahead of this node's, in milliseconds, give or take a second; none if it is not heard.
    pub clock_ms: Option<i64>,
    /// Bytes that wait to be sent to it.
    pub queued_bytes: usize,
    /// Messages to it that were dropped because too many waited.
    pub dropped: u64,
}
