//! What the disk itself can do with a data file, and how a file gets all of its blocks.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use diskstore_storage::disk::{AlignedBuffer, Disk, File, RealDisk, WriteMode};

use crate::drive::float;

const PAGE: u64 = 4096;
const PIECE_BYTES: usize = 1 << 20;
/// Writes that are on their way at once.
const THREADS: u64 = 16;
const TIME: Duration = Duration::from_secs(3);

/// Bytes that the disk of a directory has room for.
///
/// # Errors
/// The system's.
pub(crate) fn free_bytes(directory: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(found.f_bavail * found.f_frsize)
}

/// Writes a file anew with what it holds: where blocks were but reserved, they are written then.
///
/// # Errors
/// The system's.
pub(crate) fn rewrite(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let bytes = file.read_at(&mut piece, offset)?;
        if bytes == 0 {
            break;
        }
        file.write_all_at(&piece[..bytes], offset)?;
        offset += bytes as u64;
    }
    Ok(file.sync_all()?)
}

/// Direct writes of pages a second, at random places of a file that holds nothing of worth.
///
/// # Errors
/// Of the disk.
pub(crate) fn random_writes(path: &Path) -> Result<f64> {
    let file = RealDisk::new().open(path, WriteMode::Direct)?;
    let page_count = file.len()? / PAGE;
    let (written, begin) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        let write = |seed| {
            let (file, written) = (Arc::clone(&file), &written);
            scope.spawn(move || write_pages(&*file, page_count, seed, written))
        };
        let threads: Vec<_> = (1..=THREADS).map(write).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    file.sync()?;
    Ok(float(written.into_inner()) / begin.elapsed().as_secs_f64())
}

fn write_pages(file: &dyn File, page_count: u64, seed: u64, written: &AtomicU64) -> Result<()> {
    let mut page = AlignedBuffer::with_capacity(4096);
    page.resize_zeroed(4096);
    let (begin, mut random) = (Instant::now(), seed);
    while begin.elapsed() < TIME {
        random = next(random);
        file.write_at(page.as_slice(), random % page_count * PAGE)?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, the
/// mixing step over its own result.
fn next(state: u64) -> u64 {
    let mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_pages_do_not_repeat_themselves_soon() {
        let mut seen = std::collections::BTreeSet::new();
        let mut random = 1;
        for _ in 0..10_000 {
            random = next(random);
            assert!(seen.insert(random));
        }
    }
}
