//! How a log is opened: when it syncs, how large its parts are, and where its secrets come from.
//!
//! Called by `mod` of the log and by callers that open one. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::segment::Nonce;
use crate::disk::WriteMode;

/// When what is written is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// Every batch, before it counts as durable.
    #[default]
    Always,
    /// Only by [`Wal::sync`](super::Wal::sync), and with every batch that holds a vote. Any other batch counts as
    /// durable once it is written, which is not true: a power loss may take the batches since the
    /// last sync. A batch claims only what was synced, so such a loss reads as a torn end.
    OnRequest,
}

impl SyncMode {
    pub(super) fn write_mode(self) -> WriteMode {
        match self {
            SyncMode::Always => WriteMode::DirectDurable,
            SyncMode::OnRequest => WriteMode::Direct,
        }
    }
}

/// Where the log takes its nonces from: 128 bits that nobody outside can guess, new ones each time.
/// They tell batches from bytes that a client chose.
#[derive(Clone)]
pub struct Nonces(Arc<dyn Fn() -> u128 + Send + Sync>);

/// 2 to the 128th by the golden ratio: its multiples differ in nearly every byte.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

impl Nonces {
    /// Asks `draw` for each.
    pub fn new(draw: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Nonces(Arc::new(draw))
    }

    /// The multiples of a constant, which anybody can guess: for tests, where the same calls give
    /// the same bytes.
    pub fn counted() -> Self {
        let count = AtomicU64::new(0);
        Nonces::new(move || {
            SPREAD.wrapping_mul(u128::from(count.fetch_add(1, Ordering::Relaxed) + 1))
        })
    }

    pub(super) fn draw(&self) -> Nonce {
        Nonce((self.0)().max(1)) // zero is a place that was never written
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Nonces")
    }
}

/// Bounds of the log.
#[derive(Debug, Clone)]
pub struct Options {
    /// When what is written is made durable.
    pub sync: SyncMode,
    /// Bytes of a segment: a multiple of the block, in
    /// [`SEGMENT_BYTES_MIN`](super::SEGMENT_BYTES_MIN)`..=`
    /// [`SEGMENT_BYTES_MAX`](super::SEGMENT_BYTES_MAX).
    pub segment_bytes: u64,
    /// Bytes of entries that are kept in memory; those not durable or not released are kept beyond.
    pub tail_bytes_max: usize,
    /// Bytes of records at which [`Wal::is_over_bound`](super::Wal::is_over_bound) asks callers to wait for the disk.
    pub unsynced_bytes_max: usize,
    /// Old segments that are kept to be used again; the others are removed.
    pub recycle_count_max: usize,
    /// Secrets of segments.
    pub nonces: Nonces,
}

impl Options {
    /// The bounds of a node.
    pub fn new(nonces: Nonces) -> Self {
        Options {
            sync: SyncMode::Always,
            segment_bytes: 64 << 20,
            tail_bytes_max: 32 << 20,
            unsynced_bytes_max: 32 << 20,
            recycle_count_max: 4,
            nonces,
        }
    }
}

/// For tests and tools, whose logs nobody attacks: the secrets are [`Nonces::counted`]. A node brings
/// its own, and a test of the node sees that it does.
impl Default for Options {
    fn default() -> Self {
        Options::new(Nonces::counted())
    }
}
