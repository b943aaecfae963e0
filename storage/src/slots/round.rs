//! One round of a checkpoint: chooses the pages to write, and copies them.
//!
//! Called by `checkpoint`; calls `area`, `locks`, and reads the data file. Invariants:
//!
//! - I1: a round is made of runs of whole slots. Every slot that touches a page of a run is copied
//!   once, all of its bytes under one hold of its lock. Where a slot crosses the edge of a run,
//!   its bytes beyond the edge are left out only if their pages are clean under that lock, so the
//!   disk has them; otherwise these pages join the run as they are on the disk, with this slot's
//!   bytes put in, and stay dirty.
//! - I2: no page is twice in a round, edges included: runs that could meet are one run.
//! - I3: a mark is cleared before the first slot of its page is copied (pages.rs, I2), and set
//!   again if the round fails.

use crate::Result;
use crate::disk::File;
use crate::slots::area::Area;
use crate::slots::double::{Image, PAGE, ROUND_PAGES_MAX};
use crate::slots::geometry::{DATA_OFFSET, Geometry, VALUE_BYTES_MAX};
use crate::slots::locks::{self, Locks};
use crate::state::PAGE_BYTES;

/// Pages of a round (just under 1 MiB), edges not counted, unless the caller wants others: large
/// enough that its syncs cost little, small enough that the log never waits long for the disk, and
/// that a virtual disk, which often takes 254 pages at most, takes a round as one request.
pub const ROUND_PAGES_DEFAULT: u64 = 240;
/// Clean pages between two runs that are copied along, so that one write does for both.
const BRIDGE_PAGES: u64 = 8;
/// [`ROUND_PAGES_MAX`], to count with.
const ROUND_PAGES_WITH_EDGES: u64 = ROUND_PAGES_MAX as u64;

// One page with the edges of the largest slot always fits.
const _: () = assert!(2 * (VALUE_BYTES_MAX as u64 / PAGE_BYTES + 2) < ROUND_PAGES_WITH_EDGES);
const _: () = assert!(ROUND_PAGES_DEFAULT < ROUND_PAGES_WITH_EDGES);

/// Adjacent pages that are copied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
}

/// What a round copies from and to.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    pub(crate) area: &'a Area,
    pub(crate) locks: &'a Locks,
    pub(crate) file: &'a dyn File,
    pub(crate) image: &'a mut Image,
    /// Pages whose marks this round has cleared (I3).
    cleared: Vec<u64>,
    /// A slot that crosses the edge of a run.
    slot: Vec<u8>,
}

impl<'a> Round<'a> {
    /// A round that has copied nothing yet.
    pub(crate) fn new(
        area: &'a Area,
        locks: &'a Locks,
        file: &'a dyn File,
        image: &'a mut Image,
    ) -> Self {
        image.clear();
        Self { area, locks, file, image, cleared: Vec::new(), slot: Vec::new() }
    }

    /// Copies dirty pages from page `from` on, as many as make `round_pages` pages and fit a
    /// round. Returns the page behind the last one, or `None` if none is dirty.
    ///
    /// # Errors
    /// If a page at the edge of a run cannot be read; call [`Round::abandon`] then.
    pub(crate) fn fill(&mut self, from: u64, round_pages: u64) -> Result<Option<u64>> {
        let runs = self.plan(from, round_pages);
        for run in &runs {
            self.copy_run(*run)?;
        }
        Ok(runs.last().map(|run| run.last + 1))
    }

    /// The round will not reach the disk: its pages are dirty again.
    pub(crate) fn abandon(&self) {
        for page in &self.cleared {
            self.area.pages.mark_again(*page);
        }
    }

    fn plan(&self, from: u64, round_pages: u64) -> Vec<Run> {
        let reach = self.area.geometry.slot_pages_max() - 1;
        let bridge = BRIDGE_PAGES.max(2 * reach); // I2
        let (mut runs, mut pages, mut pages_with_edges) = (Vec::<Run>::new(), 0, 0);
        let mut next = from;
        while let Some(page) = self.area.pages.next_dirty(next) {
            let joined = runs.last().filter(|run| page - run.last <= bridge + 1).copied();
            let added = joined.map_or(1, |run| page - run.last);
            let added_with_edges = joined.map_or(1 + 2 * reach, |_| added);
            let full = pages + added > round_pages
                || pages_with_edges + added_with_edges > ROUND_PAGES_WITH_EDGES;
            if full && pages > 0 {
                break;
            }
            pages += added;
            pages_with_edges += added_with_edges;
            match runs.last_mut().filter(|_| joined.is_some()) {
                Some(run) => run.last = page,
                None => runs.push(Run { first: page, last: page }),
            }
            next = page + 1;
        }
        runs
    }

    fn copy_run(&mut self, run: Run) -> Result<()> {
        for page in run.first..=run.last {
            if self.area.pages.clear_dirty(page) {
                self.cleared.push(page); // I3
            }
        }
        let (first_key, last_key) = self.area.geometry.keys_touching(run.first, run.last);
        let start = self.image.pages.len();
        let edges = self.copy_edge_slot(first_key, run);
        self.push_from_disk(edges.first, run.first)?;
        for page in run.first..=run.last {
            let bytes = self.image.push(page);
            if page + 1 == self.area.geometry.page_count() {
                bytes.fill(0); // slots cover every page but the end of the last one
            }
        }
        if first_key == last_key {
            self.push_from_disk(run.last + 1, edges.last + 1)?;
            self.place_slot(first_key, start);
            return Ok(());
        }
        self.place_slot(first_key, start);
        self.copy_inner_slots(first_key + 1, last_key, start);
        let edges = self.copy_edge_slot(last_key, run);
        self.push_from_disk(run.last + 1, edges.last + 1)?;
        self.place_slot(last_key, start);
        Ok(())
    }

    /// Copies a slot that may cross an edge of the run into `self.slot`. Returns the pages that
    /// the run must have so that the slot is whole on the disk (I1).
    fn copy_edge_slot(&mut self, key: u64, run: Run) -> Run {
        self.slot.resize(length(self.area.geometry.slot_bytes()), 0);
        let (first, last) = self.area.geometry.pages_of(key);
        let dirty =
            |mut pages: std::ops::Range<u64>| pages.any(|page| self.area.pages.is_dirty(page));
        let _lock = self.locks.lock_one(key);
        self.area.map.read(&mut self.slot, self.area.geometry.offset_of(key));
        Run {
            first: if dirty(first..run.first) { first } else { run.first },
            last: if dirty(run.last + 1..last + 1) { last } else { run.last },
        }
    }

    /// Copies the slots `first..end`, none of which crosses an edge, straight into the image.
    fn copy_inner_slots(&mut self, first: u64, end: u64, start: usize) {
        let geometry = self.area.geometry;
        let origin = self.image.pages[start] * PAGE_BYTES;
        let bytes = self.image.bytes_from(start);
        let mut key = first;
        while key < end {
            let behind = (locks::last_of_stripe(key) + 1).min(end);
            let place = data_range(geometry, key, behind - key);
            let target = length(place.start - origin)..length(place.end - origin);
            let _lock = self.locks.lock_one(key);
            self.area.map.read(&mut bytes[target], DATA_OFFSET + place.start);
            key = behind;
        }
    }

    /// Puts `self.slot` into the images from number `start` on, as far as they have its pages.
    fn place_slot(&mut self, key: u64, start: usize) {
        let place = data_range(self.area.geometry, key, 1);
        let origin = self.image.pages[start] * PAGE_BYTES;
        let bytes = self.image.bytes_from(start);
        let end = origin + bytes.len() as u64;
        let (from, to) = (place.start.max(origin), place.end.min(end));
        if from < to {
            let source = length(from - place.start)..length(to - place.start);
            bytes[length(from - origin)..length(to - origin)].copy_from_slice(&self.slot[source]);
        }
    }

    /// Adds the pages `first..end` as they are on the disk.
    fn push_from_disk(&mut self, first: u64, end: u64) -> Result<()> {
        for page in first..end {
            let bytes = self.image.push(page);
            assert_eq!(bytes.len(), PAGE, "one page");
            self.file.read_at(bytes, DATA_OFFSET + page * PAGE_BYTES)?;
        }
        Ok(())
    }
}

/// Where some adjacent slots lie in the data area, in bytes.
fn data_range(geometry: Geometry, key: u64, count: u64) -> std::ops::Range<u64> {
    let start = key * geometry.slot_bytes();
    start..start + count * geometry.slot_bytes()
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("invariant: a slot or a round fits in memory")
}
