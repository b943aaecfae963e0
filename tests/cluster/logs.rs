//! Where the batches of a stopped node's log stand, read by `docs/format.md` alone.

use std::path::{Path, PathBuf};

pub(crate) const BLOCK_BYTES: usize = 4096;
/// A batch's header, and the nonce in it.
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const NONCE_OFFSET: usize = 48;
pub(crate) const NONCE_BYTES: usize = 16;
const MAGIC: &[u8] = b"dstbatch";

/// A batch in a segment's file.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) path: PathBuf,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) segment: u64,
    pub(crate) sequence: u64,
    pub(crate) records_bytes: usize,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The batches of a node's log in their order, those of earlier lives left out.
pub(crate) fn batches(directory: &Path) -> Vec<Batch> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    paths.sort();
    let mut found: Vec<Batch> = Vec::new();
    for path in paths {
        let id = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mut at = BLOCK_BYTES;
        while bytes.get(at..at + MAGIC.len()) == Some(MAGIC) {
            let field =
                |offset: usize, size: usize| number(&bytes[at + offset..at + offset + size]);
            let (segment, sequence) = (field(8, 8), field(16, 8));
            if segment != id || found.last().is_some_and(|last| sequence != last.sequence + 1) {
                break;
            }
            let records_bytes = usize::try_from(field(32, 4)).unwrap();
            let bytes = (HEADER_BYTES + records_bytes).next_multiple_of(BLOCK_BYTES);
            let (path, offset) = (path.clone(), at);
            found.push(Batch { path, offset, bytes, segment, sequence, records_bytes });
            at += bytes;
        }
    }
    assert!(!found.is_empty(), "no batch in {}", directory.display());
    found
}

/// Changes bytes of a file and leaves its size as it is.
pub(crate) fn overwrite(path: &Path, offset: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset as u64).unwrap();
}
