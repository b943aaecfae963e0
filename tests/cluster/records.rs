//! Reads the record form of the application log by `docs/format.md` alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) index: u64,
    pub(crate) mark: String,
    pub(crate) operation: u64,
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

fn number(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return number;
        }
    }
}

fn record(mut body: &[u8]) -> Record {
    let (mut index, mut operation, mut texts) = (0, 0, [const { Vec::new() }; 6]);
    while !body.is_empty() {
        match number(&mut body) {
            0x08 => index = number(&mut body),
            0x18 => operation = number(&mut body),
            tag @ (0x12 | 0x22 | 0x2a) => {
                let length = usize::try_from(number(&mut body)).unwrap();
                texts[usize::try_from(tag >> 3).unwrap()] = body[..length].to_vec();
                body = &body[length..];
            }
            tag => panic!("tag {tag:#x}"),
        }
    }
    let [_, _, mark, _, key, value] = texts;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Record { index, mark: text(mark), operation, key: text(key), value }
}

/// All records; the bytes must end with one.
pub(crate) fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = bytes[..4].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        records.push(record(&bytes[4..4 + length]));
        bytes = &bytes[4 + length..];
    }
    records
}

/// The files of a log in their order.
pub(crate) fn files(folder: &Path, id: &str) -> Vec<PathBuf> {
    let first = format!("log-file-{id}.log");
    let later = (2..).map(|nth| format!("{first}.{nth}"));
    let names = std::iter::once(first.clone()).chain(later);
    names.map(|name| folder.join(name)).take_while(|path| path.exists()).collect()
}

/// The records of all files of a log.
pub(crate) fn records_in(folder: &Path, id: &str) -> Vec<Record> {
    files(folder, id).iter().flat_map(|path| records(&std::fs::read(path).unwrap())).collect()
}

/// The state that records lead to, one after the other.
pub(crate) fn state(records: &[Record]) -> BTreeMap<String, Vec<u8>> {
    let mut state = BTreeMap::new();
    for record in records {
        match record.operation {
            0 => {}
            1 => drop(state.insert(record.key.clone(), record.value.clone())),
            2 => drop(state.remove(&record.key)),
            operation => panic!("operation {operation}"),
        }
    }
    state
}
