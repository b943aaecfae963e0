//! What a node keeps on its disk, as bytes: the entries of its log, and the numbers that each
//! checkpoint has. `docs/format.md`, "Registers", defines them. Pure.
//!
//! Called by `store`; calls the machines' types. Invariant:
//!
//! - I1: decoding never panics, and takes memory only for bytes that are there.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};

use crate::command::DecodeError;
use crate::command::cursor::Cursor;
use crate::leaderless::clock::{Moment, NodeNumber, Version};
use crate::leaderless::layout::NODE_COUNT_MAX;
use crate::leaderless::message::Held;
use crate::leaderless::replica::{Floor, Lost, Numbers};

const KIND_VALUE: u8 = 1;
const KIND_DELETED: u8 = 2;
const KIND_DROPPED: u8 = 3;
const KIND_KEPT: u8 = 4;
/// Version of the kept numbers.
const KEPT_VERSION: u8 = 1;

/// What a node keeps beside its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The node that the directory belongs to.
    pub(super) own: NodeNumber,
    /// A random number of the directory: another directory has another.
    pub(super) incarnation: u64,
    /// The layout that it was made with.
    pub(super) epoch: u64,
    /// See there.
    pub(super) layout_hash: [u8; 32],
    /// The directories that were all there, and empty, when the cluster began; none before that.
    pub(super) founders: BTreeMap<NodeNumber, u64>,
    /// The numbers of the replica.
    pub(super) numbers: Numbers,
}

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recorded {
    /// A key holds this.
    Holds {
        /// The key.
        key: Bytes,
        /// What it holds.
        held: Held,
    },
    /// What a key held up to this version is gone, as if it had never been written.
    Dropped {
        /// The key.
        key: Bytes,
        /// The version.
        upto: Version,
    },
    /// All numbers.
    Kept(Box<Kept>),
}

/// Appends what a key holds.
pub(super) fn put_held(out: &mut Vec<u8>, key: &[u8], held: &Held) {
    let kind = if held.value.is_some() { KIND_VALUE } else { KIND_DELETED };
    put_place(out, kind, key, held.version);
    if let Some(value) = &held.value {
        out.put_u32_le(u32::try_from(value.len()).expect("invariant: values are bounded"));
        out.put_slice(value);
    }
}

/// Appends that a key was dropped.
pub(super) fn put_dropped(out: &mut Vec<u8>, key: &[u8], upto: Version) {
    put_place(out, KIND_DROPPED, key, upto);
}

fn put_place(out: &mut Vec<u8>, kind: u8, key: &[u8], version: Version) {
    out.put_u8(kind);
    out.put_u64_le(version.get());
    out.put_u16_le(u16::try_from(key.len()).expect("invariant: keys are bounded"));
    out.put_slice(key);
}

/// Appends the numbers as a record.
pub(super) fn put_kept_record(out: &mut Vec<u8>, kept: &Kept) {
    out.put_u8(KIND_KEPT);
    put_kept(out, kept);
}

/// The next record of an entry; `None` at its end.
pub(super) fn read_record(cursor: &mut Cursor) -> Result<Option<Recorded>, DecodeError> {
    if cursor.finish().is_ok() {
        return Ok(None);
    }
    let kind = cursor.u8()?;
    if kind == KIND_KEPT {
        return read_kept(cursor).map(|kept| Some(Recorded::Kept(Box::new(kept))));
    }
    let version = Version::from_number(cursor.u64()?);
    let length = usize::from(cursor.u16()?);
    let key = cursor.bytes(length)?;
    let recorded = match kind {
        KIND_VALUE => {
            let length = cursor.u32()? as usize;
            let value = Some(cursor.bytes(length)?);
            Recorded::Holds { key, held: Held { version, value } }
        }
        KIND_DELETED => Recorded::Holds { key, held: Held { version, value: None } },
        KIND_DROPPED => Recorded::Dropped { key, upto: version },
        _ => return Err(cursor.error("unknown record")),
    };
    Ok(Some(recorded))
}

/// Appends what is kept.
pub(super) fn put_kept(out: &mut Vec<u8>, kept: &Kept) {
    out.put_u8(KEPT_VERSION);
    out.put_u16_le(kept.own.get());
    out.put_u64_le(kept.incarnation);
    out.put_u64_le(kept.epoch);
    out.put_slice(&kept.layout_hash);
    put_by_node(out, kept.founders.iter().map(|(node, number)| (*node, *number)));
    put_numbers(out, &kept.numbers);
}

/// Reads what is kept.
pub(super) fn read_kept(cursor: &mut Cursor) -> Result<Kept, DecodeError> {
    if cursor.u8()? != KEPT_VERSION {
        return Err(cursor.error("numbers of an unknown version"));
    }
    let own = read_node(cursor)?;
    let (incarnation, epoch) = (cursor.u64()?, cursor.u64()?);
    let mut layout_hash = [0; 32];
    layout_hash.copy_from_slice(&cursor.bytes(32)?);
    let founders = read_by_node(cursor)?;
    let numbers = read_numbers(cursor)?;
    Ok(Kept { own, incarnation, epoch, layout_hash, founders, numbers })
}

/// Appends a replica's numbers, for the disk or for a peer.
pub(super) fn put_numbers(out: &mut Vec<u8>, numbers: &Numbers) {
    out.put_u64_le(numbers.ceiling.get());
    out.put_u64_le(numbers.fence.get());
    put_floor(out, &numbers.floor);
    put_by_node(out, numbers.confirmed_with.iter().map(|(node, at)| (*node, at.get())));
    out.put_u64_le(numbers.confirmed.get());
    out.put_u64_le(numbers.lost.count);
    out.put_u64_le(numbers.lost.copied);
    put_by_node(out, numbers.others_lost.iter().map(|(node, count)| (*node, *count)));
}

/// Reads a replica's numbers.
pub(super) fn read_numbers(cursor: &mut Cursor) -> Result<Numbers, DecodeError> {
    let (ceiling, fence) = (Moment::new(cursor.u64()?), Moment::new(cursor.u64()?));
    let floor = read_floor(cursor)?;
    let confirmed_with = read_by_node(cursor)?;
    let confirmed_with =
        confirmed_with.into_iter().map(|(node, at)| (node, Moment::new(at))).collect();
    let confirmed = Moment::new(cursor.u64()?);
    let lost = Lost { count: cursor.u64()?, copied: cursor.u64()? };
    let others_lost = read_by_node(cursor)?;
    Ok(Numbers { ceiling, fence, floor, confirmed_with, confirmed, lost, others_lost })
}

/// Appends a floor.
pub(super) fn put_floor(out: &mut Vec<u8>, floor: &Floor) {
    out.put_u64_le(floor.moment.get());
    put_count(out, floor.left_out.len());
    for node in &floor.left_out {
        out.put_u16_le(node.get());
    }
}

/// Reads a floor.
pub(super) fn read_floor(cursor: &mut Cursor) -> Result<Floor, DecodeError> {
    let moment = Moment::new(cursor.u64()?);
    let count = read_count(cursor)?;
    let left_out = (0..count).map(|_| read_node(cursor)).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(Floor { moment, left_out })
}

/// Appends a number for each of some nodes.
pub(super) fn put_by_node(
    out: &mut Vec<u8>,
    numbers: impl ExactSizeIterator<Item = (NodeNumber, u64)>,
) {
    put_count(out, numbers.len());
    for (node, number) in numbers {
        out.put_u16_le(node.get());
        out.put_u64_le(number);
    }
}

/// Reads a number for each of some nodes.
pub(super) fn read_by_node(cursor: &mut Cursor) -> Result<BTreeMap<NodeNumber, u64>, DecodeError> {
    let count = read_count(cursor)?;
    (0..count).map(|_| Ok((read_node(cursor)?, cursor.u64()?))).collect()
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u8(u8::try_from(count).expect("invariant: there are at most 64 nodes"));
}

fn read_count(cursor: &mut Cursor) -> Result<usize, DecodeError> {
    let count = usize::from(cursor.u8()?);
    if count > NODE_COUNT_MAX { Err(cursor.error("too many nodes")) } else { Ok(count) }
}

/// Reads the number of a node.
pub(super) fn read_node(cursor: &mut Cursor) -> Result<NodeNumber, DecodeError> {
    let number = cursor.u16()?;
    NodeNumber::new(number).ok_or_else(|| cursor.error("number of no node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaderless::layout::hex;

    fn node(number: u16) -> NodeNumber {
        NodeNumber::new(number).unwrap()
    }

    fn kept() -> Kept {
        Kept {
            own: node(2),
            incarnation: 0x1122_3344_5566_7788,
            epoch: 1,
            layout_hash: [0xab; 32],
            founders: BTreeMap::from([(node(1), 7)]),
            numbers: Numbers {
                ceiling: Moment::new(10),
                fence: Moment::new(9),
                floor: Floor { moment: Moment::new(8), left_out: BTreeSet::from([node(3)]) },
                confirmed_with: BTreeMap::from([(node(1), Moment::new(9))]),
                confirmed: Moment::new(8),
                lost: Lost { count: 1, copied: 1 },
                others_lost: BTreeMap::from([(node(3), 2)]),
            },
        }
    }

    fn records(bytes: Vec<u8>) -> Result<Vec<Recorded>, DecodeError> {
        let mut cursor = Cursor::new(bytes.into());
        let mut all = Vec::new();
        while let Some(record) = read_record(&mut cursor)? {
            all.push(record);
        }
        Ok(all)
    }

    /// All kinds of records, one after the other.
    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let version = Version::from_number(0x0102);
        put_held(&mut out, b"key", &Held { version, value: Some("v".into()) });
        put_held(&mut out, b"k", &Held { version, value: None });
        put_dropped(&mut out, b"k", version);
        put_kept_record(&mut out, &kept());
        out
    }

    #[test]
    fn the_bytes_of_the_log_are_pinned() {
        let value = concat!("01", "0201000000000000", "0300", "6b6579", "01000000", "76");
        let deleted = concat!("02", "0201000000000000", "0100", "6b");
        let dropped = concat!("03", "0201000000000000", "0100", "6b");
        let head = concat!("04", "01", "0200", "8877665544332211", "0100000000000000");
        let founders = concat!("01", "0100", "0700000000000000");
        let numbers = concat!(
            "0a00000000000000", // ceiling
            "0900000000000000", // fence
            "0800000000000000", // floor
            "01",
            "0300",
            "01", // confirmed with
            "0100",
            "0900000000000000",
            "0800000000000000", // confirmed
            "0100000000000000", // lost
            "0100000000000000", // copied
            "01",               // of others
            "0300",
            "0200000000000000",
        );
        let expected =
            [value, deleted, dropped, head, &"ab".repeat(32), founders, numbers].concat();
        assert_eq!(hex(&sample()), expected);
    }

    #[test]
    fn what_was_written_is_read_and_what_is_cut_is_refused() {
        let whole = sample();
        let read = records(whole.clone()).unwrap();
        assert_eq!(read.len(), 4);
        assert_eq!(read[3], Recorded::Kept(Box::new(kept())));
        let ends: Vec<usize> =
            (0..whole.len()).filter(|end| records(whole[..*end].to_vec()).is_ok()).collect();
        assert_eq!(ends.len(), 4, "only between records: {ends:?}");
    }

    /// I1
    #[test]
    fn no_damage_of_a_byte_panics() {
        let whole = sample();
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                drop(records(damaged));
            }
        }
        let mut nodes = vec![KIND_KEPT];
        put_kept(&mut nodes, &kept());
        nodes[1 + 1 + 2 + 8 + 8 + 32] = 65;
        assert!(records(nodes).unwrap_err().to_string().contains("too many nodes"));
    }
}
