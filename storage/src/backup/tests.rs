use std::path::Path;

use super::*;
use crate::disk::{Disk, SimDisk, WriteMode};
use crate::wal::EntryKind;
use crate::{Error, Result, SlotIndex};

const FILE: &str = "/backup";

fn header() -> BackupHeader {
    BackupHeader {
        id: 0x0102,
        cluster_id: 7,
        machine: MachineKind::Slots,
        slot_count: 10,
        value_bytes: 8,
        node: "node0".to_owned(),
        begun_ms: 1000,
        begin: LogId { term: Term::new(3), index: 20 },
        since: LogIndex::new(0),
        base: 0,
    }
}

fn header_of_keys() -> BackupHeader {
    BackupHeader { machine: MachineKind::Memory, slot_count: 0, ..header() }
}

fn slot(slot: u64, index: u64, value: Option<&'static str>) -> SlotImage {
    let (slot, index) = (SlotIndex::new(slot), LogIndex::new(index));
    SlotImage { slot, index, value: value.map(Bytes::from) }
}

fn key(key: &'static str, index: u64, value: Option<&'static str>) -> KeyImage {
    KeyImage { key: key.into(), index, value: value.map(Bytes::from) }
}

fn entry(term: u64, index: u64, payload: &'static str) -> Entry {
    let kind = if payload.is_empty() { EntryKind::Blank } else { EntryKind::Normal };
    Entry {
        log_id: LogId { term: Term::new(term), index },
        kind,
        payload: Bytes::from(payload).into(),
    }
}

/// The pieces of a backup of slots that was read while entries 21 to 23 were applied.
fn pieces() -> Vec<Bytes> {
    let (mut writer, head) = BackupWriter::begin(&header());
    let mut pieces = vec![head];
    pieces.extend(writer.slots(&[slot(0, 5, Some("zero")), slot(3, 22, None)]));
    pieces.extend(writer.slots(&[slot(9, 1, Some(""))]));
    pieces.extend(writer.entries(&[entry(3, 21, "one")]));
    pieces.extend(writer.entries(&[entry(3, 22, "two"), entry(4, 23, "")]));
    pieces.push(writer.end().1);
    pieces
}

fn read(bytes: &[u8]) -> Result<BackupSummary> {
    BackupReader::new(Box::new(bytes), Path::new(FILE))?.finish()
}

fn what_is_wrong(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(Error::Corrupt { what, .. }) => what.to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let (mut writer, head) = BackupWriter::begin(&header());
    let mut golden = b"DSTBACKP\x01\0\0\0".to_vec();
    golden.extend_from_slice(&[106, 0, 0, 0]);
    golden.extend_from_slice(&0x0102_u128.to_le_bytes());
    golden.extend_from_slice(&7_u128.to_le_bytes());
    golden.extend_from_slice(&[1, 10, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]);
    golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(b"node0");
    for field in [1000_u64, 3, 20, 0] {
        golden.extend_from_slice(&field.to_le_bytes());
    }
    golden.extend_from_slice(&0_u128.to_le_bytes());
    golden.extend_from_slice(&crc32fast::hash(&golden).to_le_bytes());
    assert_eq!(head, golden);
    let piece = |kind: u8, number: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap();
        let covered = [kind, 0, 0, 0, length, 0, 0, 0, number, 0, 0, 0, 0, 0, 0, 0];
        let crc = crc32fast::hash(&[&0x0102_u128.to_le_bytes()[..], &covered, body].concat());
        [&covered[..], &crc.to_le_bytes(), body].concat()
    };
    let slots = writer.slots(&[slot(3, 22, Some("x"))]).unwrap();
    let body = [3, 0, 0, 0, 0, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x80, b'x'];
    assert_eq!(slots, piece(1, 0, &body));
    let keys = writer.keys(&[key("k", 22, None)]).unwrap();
    assert_eq!(keys, piece(2, 1, &[1, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'k']));
    let mut entries = writer.entries(&[entry(3, 21, "p")]).unwrap().to_vec();
    let first = [3, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, b'p'];
    assert_eq!(entries, piece(3, 2, &first));
    entries.extend_from_slice(&writer.entries(&[entry(3, 22, "")]).unwrap());
    let crc_of = |piece: &[u8]| piece[16..20].to_vec();
    let crcs = [&slots[..], &keys, &entries[..42], &entries[42..]].map(crc_of).concat();
    let mut end = Vec::new();
    for field in [2_u64, 2, 4, 22, 3, 22] {
        end.extend_from_slice(&field.to_le_bytes());
    }
    end.extend_from_slice(&crc32fast::hash(&crcs).to_le_bytes());
    assert_eq!(writer.broken("why"), piece(5, 4, b"why"));
    let (mut again, _) = BackupWriter::begin(&header());
    again.slots(&[slot(3, 22, Some("x"))]);
    again.keys(&[key("k", 22, None)]);
    again.entries(&[entry(3, 21, "p")]);
    again.entries(&[entry(3, 22, "")]);
    assert_eq!(again.end().1, piece(4, 4, &end));
}

#[test]
fn what_was_written_is_read() {
    let bytes = pieces().concat();
    let mut reader = BackupReader::new(Box::new(&bytes[..]), Path::new(FILE)).unwrap();
    assert_eq!(*reader.header(), header());
    let expected = [
        Piece::Slots(vec![slot(0, 5, Some("zero")), slot(3, 22, None)]),
        Piece::Slots(vec![slot(9, 1, Some(""))]),
        Piece::Entries(vec![entry(3, 21, "one")]),
        Piece::Entries(vec![entry(3, 22, "two"), entry(4, 23, "")]),
        Piece::End(BackupEnd {
            exact_from: LogIndex::new(22),
            last: LogId { term: Term::new(4), index: 23 },
            image_count: 3,
            entry_count: 3,
            piece_count: 4,
        }),
    ];
    for piece in expected {
        assert_eq!(reader.next_piece().unwrap(), piece);
    }
    assert_eq!(reader.offset(), bytes.len() as u64);
}

#[test]
fn keys_are_read_as_they_were_written_from_a_file_too() {
    let (mut writer, head) = BackupWriter::begin(&header_of_keys());
    let keys = vec![key("b", 20, Some("value")), key("", 19, Some("")), key("gone", 3, None)];
    let piece = writer.keys(&keys).unwrap();
    let bytes = [head, piece, writer.end().1].concat();
    let disk = SimDisk::new(1);
    disk.write_file(Path::new(FILE), &bytes);
    let file = disk.open(Path::new(FILE), WriteMode::ReadOnly).unwrap();
    let mut reader = BackupReader::open(file).unwrap();
    assert_eq!(reader.next_piece().unwrap(), Piece::Keys(keys));
    assert_eq!(reader.finish().unwrap().end.image_count, 3);
}

#[test]
fn a_backup_cut_off_anywhere_is_none() {
    let bytes = pieces().concat();
    for end in 0..bytes.len() {
        let error = read(&bytes[..end]).unwrap_err();
        let is_expected = match error {
            Error::Foreign { .. } => end < 16,
            Error::Corrupt { what, .. } => what.contains("cut off") || what.contains("ends in"),
            _ => false,
        };
        assert!(is_expected, "{end} bytes: {error}");
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let bytes = pieces().concat();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let error = read(&flipped).unwrap_err();
            assert_eq!(matches!(error, Error::Foreign { .. }), at < 8, "byte {at}: {error}");
            let is_version = matches!(error, Error::UnknownVersion { .. });
            assert_eq!(is_version, (8..12).contains(&at), "byte {at}: {error}");
        }
    }
}

#[test]
fn pieces_cannot_be_left_out_doubled_or_exchanged() {
    let whole = pieces();
    for left_out in 1..whole.len() {
        let mut pieces = whole.clone();
        let piece = pieces.remove(left_out);
        assert!(read(&pieces.concat()).is_err(), "without piece {left_out}");
        pieces.insert(left_out, piece.clone());
        pieces.insert(left_out, piece);
        assert!(read(&pieces.concat()).is_err(), "piece {left_out} twice");
        let mut pieces = whole.clone();
        pieces.swap(1, left_out);
        assert_eq!(read(&pieces.concat()).is_ok(), left_out == 1, "piece {left_out} first");
    }
    let (mut other, _) = BackupWriter::begin(&BackupHeader { id: 0x0103, ..header() });
    let mut mixed = whole.clone();
    mixed[1] = other.slots(&[slot(0, 5, Some("zero")), slot(3, 22, None)]).unwrap();
    assert_eq!(what_is_wrong(&mixed.concat()), "CRC-32 of a piece", "another backup's");
    // Keys are in no order: only the numbers of their pieces tell.
    let (mut writer, head) = BackupWriter::begin(&header_of_keys());
    let [one, two] = ["one", "two"].map(|name| writer.keys(&[key(name, 1, None)]).unwrap());
    let swapped = [head, two, one, writer.end().1].concat();
    assert_eq!(what_is_wrong(&swapped), "a piece in the place of another");
    let longer = [whole.concat(), vec![0]].concat();
    assert_eq!(what_is_wrong(&longer), "something stands behind the end");
}

/// What is said of a backup that somebody made with right checksums.
fn complaint(
    header: &BackupHeader,
    fill: impl FnOnce(&mut BackupWriter) -> Vec<Option<Bytes>>,
) -> String {
    let (mut writer, head) = BackupWriter::begin(header);
    let pieces = fill(&mut writer).into_iter().flatten();
    let mut bytes = head.to_vec();
    pieces.for_each(|piece| bytes.extend_from_slice(&piece));
    bytes.extend_from_slice(&writer.end().1);
    what_is_wrong(&bytes)
}

#[test]
fn what_no_node_would_write_is_refused_whatever_its_checksum() {
    let content = "content of a piece";
    let of = |images: &[SlotImage]| complaint(&header(), |writer| vec![writer.slots(images)]);
    assert_eq!(of(&[slot(3, 1, None), slot(3, 2, None)]), content, "a slot twice");
    assert_eq!(of(&[slot(3, 1, None), slot(2, 2, None)]), content, "slots that go back");
    assert_eq!(of(&[slot(10, 1, None)]), content, "a slot that there is not");
    assert_eq!(of(&[slot(3, 0, None)]), content, "a slot that nothing wrote");
    assert_eq!(of(&[slot(3, 1, Some("123456789"))]), content, "a long value");
    let twice = |writer: &mut BackupWriter| {
        vec![writer.slots(&[slot(3, 1, None)]), writer.slots(&[slot(3, 2, None)])]
    };
    assert_eq!(complaint(&header(), twice), content, "a slot in two pieces");
    let since = BackupHeader { since: LogIndex::new(7), ..header() };
    let old = |writer: &mut BackupWriter| vec![writer.slots(&[slot(3, 7, None)])];
    assert_eq!(complaint(&since, old), content, "a slot that has not changed");
    let keys = |writer: &mut BackupWriter| vec![writer.keys(&[key("k", 1, None)])];
    assert_eq!(complaint(&header(), keys), "kind of a piece", "keys among slots");
    let slots = |writer: &mut BackupWriter| vec![writer.slots(&[slot(3, 1, None)])];
    assert_eq!(complaint(&header_of_keys(), slots), "kind of a piece", "slots among keys");
    let falling =
        |writer: &mut BackupWriter| vec![writer.entries(&[entry(4, 21, ""), entry(3, 22, "")])];
    assert_eq!(complaint(&header(), falling), content, "a term that falls");
    let back = |writer: &mut BackupWriter| {
        vec![writer.entries(&[entry(4, 21, "")]), writer.slots(&[slot(3, 1, None)])]
    };
    assert_eq!(complaint(&header(), back), "a piece in the place of another");
}

/// A piece with any body, its CRC right.
fn forged(kind: u8, number: u64, body: &[u8]) -> Vec<u8> {
    let mut covered = vec![kind, 0, 0, 0];
    covered.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    covered.extend_from_slice(&number.to_le_bytes());
    let crc = piece_crc(&seed_of(&header()), &covered, body);
    [&covered[..], &crc.to_le_bytes(), body].concat()
}

#[test]
fn lengths_that_lie_are_refused() {
    let head = BackupWriter::begin(&header()).1;
    let with = |piece: &[u8]| what_is_wrong(&[&head[..], piece].concat());
    let mut long = forged(SLOTS, 0, &[]);
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(with(&long), "length of a piece");
    long[4..8].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    assert_eq!(with(&long), "the backup ends in a piece: it was cut off");
    let mut image = [0; 20];
    (image[8], image[16], image[19]) = (1, 2, 0x80); // two bytes of a value that is not there
    assert_eq!(with(&forged(SLOTS, 0, &image)), "content of a piece");
    (image[16], image[19]) = (1, 0); // bytes of a value that was deleted
    assert_eq!(with(&forged(SLOTS, 0, &[&image[..], b"x"].concat())), "content of a piece");
    let long_values = BackupWriter::begin(&BackupHeader { value_bytes: 32, ..header() }).1;
    let mut next = image;
    (next[0], next[16]) = (1, 0);
    image[16] = 20; // as many as the next slot takes
    let hidden = [&long_values[..], &forged(SLOTS, 0, &[image, next].concat())].concat();
    assert_eq!(what_is_wrong(&hidden), "content of a piece");
    assert_eq!(with(&forged(SLOTS, 0, &image[..19])), "content of a piece");
    assert_eq!(with(&forged(SLOTS, 0, &[])), "content of a piece");
    let mut entry = [0; 21];
    (entry[0], entry[8], entry[17]) = (3, 21, 1);
    assert_eq!(with(&forged(ENTRIES, 0, &entry)), "content of a piece");
    assert_eq!(with(&forged(END, 0, &[0; END_BYTES - 1])), "length of the end");
    assert_eq!(with(&forged(END, 0, &[0; END_BYTES])), "counts of the end");
    assert_eq!(with(&forged(BROKEN + 1, 0, &[])), "kind of a piece");
    // An end that counts right, and has the checksum of other pieces.
    let mut end = BackupWriter::begin(&header()).0.end().1.split_off(PIECE_HEADER_BYTES).to_vec();
    let whole = [&head[..], &forged(END, 0, &end)].concat();
    read(&whole).unwrap();
    *end.last_mut().unwrap() ^= 1;
    assert_eq!(with(&forged(END, 0, &end)), "counts of the end");
    let mut reserved = forged(BROKEN, 0, b"why");
    reserved[1] = 1;
    let crc = piece_crc(&seed_of(&header()), &reserved[..PIECE_COVERED_BYTES], b"why");
    reserved[PIECE_COVERED_BYTES..PIECE_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(with(&reserved), "a piece in the place of another");
    let mut long_head = head.to_vec();
    long_head[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(what_is_wrong(&long_head), "length of the header");
}

/// Bodies of all kinds with random bytes in them, their checksums right: a reader that panics or
/// takes too much memory fails here.
#[test]
fn random_content_is_refused_or_read_and_never_panics() {
    let head = BackupWriter::begin(&header()).1;
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bodies: Vec<Vec<u8>> = pieces()[1..].iter().map(|piece| piece[20..].to_vec()).collect();
    for _ in 0..20_000 {
        let mut body = bodies[usize::try_from(random() % 5).unwrap()].clone();
        for _ in 0..=random() % 3 {
            let at = usize::try_from(random()).unwrap_or_default() % body.len();
            body[at] = random().to_le_bytes()[0];
        }
        body.truncate(usize::try_from(random()).unwrap_or_default() % (body.len() + 1));
        let kind = u8::try_from(random() % 7).unwrap();
        let bytes = [&head[..], &forged(kind, 0, &body)].concat();
        let mut reader = BackupReader::new(Box::new(&bytes[..]), Path::new(FILE)).unwrap();
        match reader.next_piece() {
            Ok(Piece::Slots(images)) => {
                assert!(images.iter().all(|image| image.slot.get() < 10 && image.index.get() > 0));
            }
            Ok(Piece::Entries(entries)) => assert_eq!(entries[0].log_id.index, 21),
            Ok(Piece::Broken(reason)) => assert!(reason.len() <= 3 * body.len()),
            Ok(Piece::Requests(ids)) => assert!(ids.len() >= 37, "a count and one record"),
            Ok(piece @ (Piece::Keys(_) | Piece::End(_))) => panic!("{piece:?}"),
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let refused = |change: fn(&mut BackupHeader)| {
        let mut wrong = header();
        change(&mut wrong);
        let body = wrong.body();
        let mut bytes = BACKUP_MAGIC.to_vec();
        bytes.extend_from_slice(&BACKUP_VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        assert_eq!(what_is_wrong(&bytes), "fields of the header", "{wrong:?}");
    };
    refused(|header| header.id = 0);
    refused(|header| header.slot_count = 0);
    refused(|header| header.slot_count = u64::MAX);
    refused(|header| header.value_bytes = 0);
    refused(|header| header.machine = MachineKind::Memory);
    refused(|header| header.machine = MachineKind::Journal);
    refused(|header| header.since = LogIndex::new(21));
    refused(|header| header.base = 1);
}

#[test]
fn a_backup_that_the_node_broke_off_says_why_and_is_none() {
    let (mut writer, head) = BackupWriter::begin(&header());
    let piece = writer.slots(&[slot(0, 5, None)]).unwrap();
    let bytes = [head, piece, writer.broken("slot 3 is damaged")].concat();
    let mut reader = BackupReader::new(Box::new(&bytes[..]), Path::new(FILE)).unwrap();
    reader.next_piece().unwrap();
    assert_eq!(reader.next_piece().unwrap(), Piece::Broken("slot 3 is damaged".to_owned()));
    assert_eq!(what_is_wrong(&bytes), "the node could not finish it");
    let long = "\u{e4}".repeat(REASON_BYTES_MAX);
    let (mut writer, head) = BackupWriter::begin(&header());
    let bytes = [head, writer.broken(&long)].concat();
    assert_eq!(what_is_wrong(&bytes), "the node could not finish it");
}

#[test]
fn a_chain_is_a_full_backup_and_those_that_continue_it() {
    let summary = |id, since, base, begin, end| BackupSummary {
        header: BackupHeader {
            id,
            since: LogIndex::new(since),
            base,
            begin: LogId { term: Term::new(1), index: begin },
            ..header()
        },
        end: BackupEnd { last: LogId { term: Term::new(1), index: end }, ..BackupEnd::default() },
    };
    let full = summary(1, 0, 0, 10, 12);
    let next = summary(2, 12, 1, 20, 25);
    full.check_behind(None).unwrap();
    next.check_behind(Some(&full)).unwrap();
    summary(3, 11, 0, 12, 12).check_behind(Some(&full)).unwrap();
    let check = |it: &BackupSummary, before| it.check_behind(before).unwrap_err();
    assert_eq!(check(&next, None), ChainError::NotFull { since: LogIndex::new(12) });
    assert_eq!(check(&full, Some(&next)), ChainError::Full);
    let base = ChainError::Base { expected: 9, actual: 1 };
    assert_eq!(check(&summary(2, 12, 9, 20, 25), Some(&full)), base);
    for (since, begin) in [(13, 20), (5, 11)] {
        let gap = ChainError::Gap { since: LogIndex::new(since), begin, end: 12 };
        assert_eq!(check(&summary(2, since, 1, begin, 25), Some(&full)), gap);
    }
    let mut other = next.clone();
    other.header.cluster_id = 8;
    assert_eq!(check(&other, Some(&full)), ChainError::Cluster { expected: 7, actual: 8 });
    other = next.clone();
    other.header.value_bytes = 9;
    assert_eq!(check(&other, Some(&full)), ChainError::Geometry);
    other = next.clone();
    other.header.slot_count -= 1;
    assert_eq!(check(&other, Some(&full)), ChainError::Geometry);
    other.header.slot_count += 2;
    other.check_behind(Some(&full)).unwrap();
}
