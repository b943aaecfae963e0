//! Computes what remains of a simulated disk after a power loss.

use std::collections::BTreeMap;

use super::SECTOR_BYTES;
use super::inode::{Content, Inode, PendingWrite, grow, index_of, overlay};
use super::random::Random;
use super::state::State;

/// What survives of that which was not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    Lost,
    /// Everything, as after a crash that came when the page cache had just been written.
    All,
    /// Everything up to some operation, and of that one some leading sectors.
    Torn {
        /// Decides where.
        seed: u64,
    },
    /// Of every sector the durable content or that after any of the writes to it; of the names
    /// a prefix of the changes.
    Reordered {
        /// Decides which.
        seed: u64,
    },
}

/// The disk after the power came back.
pub(super) fn after_crash(state: &State, mode: CrashMode) -> State {
    let mut random = match mode {
        CrashMode::Lost | CrashMode::All => Random::new(state.seed),
        CrashMode::Torn { seed } | CrashMode::Reordered { seed } => {
            Random::new(Random::new(state.seed).next() ^ seed)
        }
    };
    let cut = match mode {
        CrashMode::Lost => 0,
        CrashMode::All => u64::MAX,
        CrashMode::Torn { .. } | CrashMode::Reordered { .. } => choose_cut(state, &mut random),
    };
    let names = state.names.before(cut);
    let mut image = State::new(random.next());
    for (path, id) in &names.files {
        let inode = state.inode(*id);
        let content = match mode {
            CrashMode::Lost => inode.durable.clone(),
            CrashMode::All => inode.current.clone(),
            CrashMode::Torn { .. } => content_before(inode, cut, &mut random),
            CrashMode::Reordered { .. } => content_reordered(inode, &mut random),
        };
        image.write_file(path, &content);
    }
    for tree in [&mut image.names.current, &mut image.names.durable] {
        tree.directories.extend(names.directories.iter().cloned());
    }
    image
}

/// The number of an operation that did not become durable, or one that is beyond all.
fn choose_cut(state: &State, random: &mut Random) -> u64 {
    let mut orders = Vec::new();
    orders.extend(state.names.pending.iter().map(|(order, _)| *order));
    orders.extend(state.inodes.values().flat_map(|inode| &inode.pending).map(|write| write.order));
    orders.sort_unstable();
    orders.dedup();
    let chosen = random.up_to(orders.len() as u64);
    orders.get(index_of(chosen)).copied().unwrap_or(u64::MAX)
}

fn content_before(inode: &Inode, cut: u64, random: &mut Random) -> Vec<u8> {
    let mut content = inode.durable.clone();
    for pending in &inode.pending {
        if pending.order < cut {
            pending.apply_to(&mut content);
        } else if pending.order == cut {
            let pieces = sectors_of(pending);
            let kept = index_of(random.up_to(pieces.len() as u64));
            for (_, offset, bytes) in pieces.into_iter().take(kept) {
                overlay(&mut content, bytes, offset);
            }
        }
    }
    content
}

fn content_reordered(inode: &Inode, random: &mut Random) -> Vec<u8> {
    // How many of the writes to a sector had happened when it was taken to the disk.
    let mut versions = BTreeMap::<u64, u64>::new();
    for (sector, ..) in inode.pending.iter().flat_map(sectors_of) {
        *versions.entry(sector).or_default() += 1;
    }
    for count in versions.values_mut() {
        *count = random.up_to(*count);
    }
    let mut content = inode.durable.clone();
    for pending in &inode.pending {
        // The size may reach the disk without the bytes: they read as zero.
        if random.coin() {
            match &pending.content {
                Content::Bytes(bytes) => grow(&mut content, pending.offset + bytes.len() as u64),
                Content::Grown(_) | Content::Cut(_) => pending.apply_to(&mut content),
            }
        }
        for (sector, offset, bytes) in sectors_of(pending) {
            let left = versions.get_mut(&sector).expect("invariant: every sector was counted");
            if *left > 0 {
                *left -= 1;
                overlay(&mut content, bytes, offset);
            }
        }
    }
    content
}

/// The parts of a write by sector: its number, and offset and bytes of the part in the file.
fn sectors_of(pending: &PendingWrite) -> Vec<(u64, u64, &[u8])> {
    let Content::Bytes(bytes) = &pending.content else {
        return Vec::new();
    };
    let sector_bytes = SECTOR_BYTES as u64;
    let mut parts = Vec::new();
    let (mut rest, mut offset) = (bytes.as_slice(), pending.offset);
    while !rest.is_empty() {
        let left = index_of(sector_bytes - offset % sector_bytes);
        let (part, after) = rest.split_at(left.min(rest.len()));
        parts.push((offset / sector_bytes, offset, part));
        offset += part.len() as u64;
        rest = after;
    }
    parts
}
