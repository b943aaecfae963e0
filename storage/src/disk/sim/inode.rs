//! The bytes of a simulated file: the durable ones, and those that only the page cache holds.

/// A change of a file that is not durable.
#[derive(Debug, Clone)]
pub(super) struct PendingWrite {
    /// Number of the operation: the order among all files.
    pub(super) order: u64,
    pub(super) offset: u64,
    pub(super) content: Content,
    /// A sync of it failed: no later sync covers it.
    pub(super) forsaken: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// Zeros up to this size of the file.
    Grown(u64),
    /// Nothing behind this size.
    Cut(u64),
}

impl PendingWrite {
    pub(super) fn new(order: u64, offset: u64, content: Content) -> Self {
        Self { order, offset, content, forsaken: false }
    }

    /// Takes over what a newer write put in its place.
    pub(super) fn give_way(&mut self, newer: &[u8], newer_offset: u64) {
        match &mut self.content {
            Content::Bytes(bytes) => replace_common(bytes, self.offset, newer, newer_offset),
            Content::Cut(bytes) => *bytes = (*bytes).max(newer_offset + newer.len() as u64),
            Content::Grown(_) => {}
        }
    }

    pub(super) fn apply_to(&self, file: &mut Vec<u8>) {
        match &self.content {
            Content::Bytes(bytes) => overlay(file, bytes, self.offset),
            Content::Grown(bytes) => grow(file, *bytes),
            Content::Cut(bytes) => file.truncate(index_of(*bytes)),
        }
    }
}

/// A file's bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    /// `durable` with all of `pending` applied: what a read sees.
    pub(super) current: Vec<u8>,
    pub(super) pending: Vec<PendingWrite>,
}

impl Inode {
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self { current: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    pub(super) fn write_durably(&mut self, bytes: &[u8], offset: u64) {
        overlay(&mut self.current, bytes, offset);
        overlay(&mut self.durable, bytes, offset);
        // What is pending for the same bytes is older and must not come back over them.
        for pending in &mut self.pending {
            pending.give_way(bytes, offset);
        }
    }

    /// Applies a change that is not durable, and remembers it.
    pub(super) fn push(&mut self, pending: PendingWrite) {
        pending.apply_to(&mut self.current);
        self.pending.push(pending);
    }

    pub(super) fn sync(&mut self) {
        let mut forsaken = Vec::<PendingWrite>::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.forsaken {
                forsaken.push(pending);
                continue;
            }
            pending.apply_to(&mut self.durable);
            if let Content::Bytes(bytes) = &pending.content {
                for older in &mut forsaken {
                    older.give_way(bytes, pending.offset);
                }
            }
        }
        self.pending = forsaken;
    }

    /// What a failed sync does: nothing that is pending will be covered by a later one.
    pub(super) fn forsake(&mut self) {
        for pending in &mut self.pending {
            pending.forsaken = true;
        }
    }
}

pub(super) fn index_of(offset: u64) -> usize {
    usize::try_from(offset).expect("invariant: a simulated file fits in memory")
}

pub(super) fn grow(file: &mut Vec<u8>, bytes: u64) {
    let bytes = index_of(bytes);
    if bytes > file.len() {
        file.resize(bytes, 0);
    }
}

/// Writes `bytes` at `offset`; a gap before them is filled with zeros.
pub(super) fn overlay(file: &mut Vec<u8>, bytes: &[u8], offset: u64) {
    grow(file, offset + bytes.len() as u64);
    let start = index_of(offset);
    file[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Replaces what of `older`, which lies at `older_offset`, `newer` covers.
pub(super) fn replace_common(older: &mut [u8], older_offset: u64, newer: &[u8], newer_offset: u64) {
    let start = older_offset.max(newer_offset);
    let end = (older_offset + older.len() as u64).min(newer_offset + newer.len() as u64);
    if start < end {
        let to = index_of(start - older_offset)..index_of(end - older_offset);
        let from = index_of(start - newer_offset)..index_of(end - newer_offset);
        older[to].copy_from_slice(&newer[from]);
    }
}
