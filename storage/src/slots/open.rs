//! Making a data file, and opening one.
//!
//! Called by the machine above; calls `disk`, `superblock`, `double`. Invariants:
//!
//! - I1: a data file gets its name only when it and its `double.dat` are whole and durable.
//! - I2: nothing is written to files that a newer program wrote or that another cluster owns.
//! - I3: the last round is played back before the file is mapped, so no torn slot is ever seen.
//! - I4: a file is taken for zeros only if it is new, or if neither a round nor a checkpoint nor a
//!   merged slot was ever written: then the log still holds every entry, from the first on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::disk::{Disk, File, Map, WriteMode};
use crate::slots::area::Area;
use crate::slots::checkpoint::Writer;
use crate::slots::damage::Damage;
use crate::slots::double::{self, Double, DoubleFound, Round};
use crate::slots::geometry::DATA_OFFSET;
use crate::slots::locks::Locks;
use crate::slots::pages::Pages;
use crate::slots::round::ROUND_PAGES_DEFAULT;
use crate::slots::{DOUBLE_FILE, Geometry, SLOTS_FILE, Slots, Superblock, superblock};
use crate::state::PAGE_BYTES;
use crate::{Error, Result};

/// What a file is called until it is whole.
const NEW_SUFFIX: &str = ".new";
/// Space is reserved in steps of this many bytes, so that progress can be shown.
const RESERVE_STEP_BYTES: u64 = 64 << 20;

/// What a new data file is to be.
#[derive(Debug, Clone, Copy)]
pub struct New {
    /// Number and size of the slots.
    pub geometry: Geometry,
    /// The cluster that the data belongs to.
    pub cluster_id: u128,
    /// As for [`Slots::open`].
    pub options: Options,
}

/// How slots are worked with; nothing of it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of memory that changed pages may take.
    pub memory_bytes_max: u64,
    /// Pages of a checkpoint round, at least 1; [`ROUND_PAGES_DEFAULT`] is a good number. A round
    /// takes so much memory while a checkpoint runs, and a cancelled checkpoint ends after one.
    pub round_pages: u64,
}

impl Options {
    /// This much memory, and otherwise the defaults.
    pub fn new(memory_bytes_max: u64) -> Self {
        Self { memory_bytes_max, round_pages: ROUND_PAGES_DEFAULT }
    }

    /// Whether all pages together stay below the memory that changed ones may take: none of them is
    /// ever dropped.
    pub(crate) fn fits(&self, geometry: Geometry) -> bool {
        geometry.page_count() * PAGE_BYTES < self.memory_bytes_max
    }
}

/// What opening found, for the one line in the log that says what was recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The superblock copy (0 or 1) that was bad or older and has been written again.
    pub superblock_repaired: Option<u64>,
    /// What was found in `double.dat`.
    pub double: DoubleFound,
}

/// What slots are put together from once their files are in order.
struct Parts {
    file: Arc<dyn File>,
    map: Map,
    double: Double,
    superblock: Superblock,
    pages: Pages,
}

impl Slots {
    /// Makes `slots.dat` and `double.dat` in a directory that has neither. All space is reserved;
    /// `progress` hears (bytes done, bytes in all) meanwhile. After `Ok` both survive power loss.
    ///
    /// # Errors
    /// `NoSpace` if the disk cannot hold them (nothing is left behind); `Io` with `AlreadyExists`
    /// if there is a data file.
    pub fn create(
        disk: &dyn Disk,
        directory: &Path,
        new: New,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        Self::make(disk, directory, new, |file| file.map_zeros(), progress)
    }

    /// As [`Slots::create`], for slots most of which are about to be written: where all of them fit
    /// in the memory budget, that memory comes in pieces as large as the system has.
    ///
    /// # Errors
    /// As [`Slots::create`].
    pub fn create_to_fill(
        disk: &dyn Disk,
        directory: &Path,
        new: New,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        Self::make(disk, directory, new, |file| file.map_to_fill(), progress)
    }

    fn make(
        disk: &dyn Disk,
        directory: &Path,
        new: New,
        map_of_zeros: fn(&dyn File) -> Result<Map>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let path = directory.join(SLOTS_FILE);
        if disk.exists(&path)? {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(Error::Io { operation: "create", path, offset: 0, source });
        }
        let made = make_files(disk, directory, &new, progress);
        if made.is_err() {
            for name in [SLOTS_FILE, DOUBLE_FILE] {
                // The error that matters is the one that led here.
                match disk.remove(&new_path(directory, name)) {
                    Ok(()) | Err(_) => {}
                }
            }
        }
        made?;
        let superblock = Superblock::new(new.geometry, new.cluster_id);
        let slots = disk.open(&path, WriteMode::Direct)?;
        let double = disk.open(&directory.join(DOUBLE_FILE), WriteMode::Direct)?;
        let pages = Pages::zeroed(new.geometry.page_count(), new.geometry.slot_count());
        // What does not fit is dropped from memory at times, and read from the file again.
        let fits = new.options.fits(new.geometry);
        let map = if fits { map_of_zeros(&*slots)? } else { slots.map()? };
        Ok(Self::assemble(
            Parts {
                file: slots,
                map,
                double: Double::new(double, new.cluster_id, 0),
                superblock,
                pages,
            },
            new.options,
        ))
    }

    /// Opens the slots of a directory. A round that was cut off is put into place, a bad superblock
    /// copy is written again; after `Ok` that survives power loss.
    ///
    /// # Errors
    /// `Missing` if there is no data file or no `double.dat`; `Corrupt` if both superblocks are bad
    /// or a file is too short; `UnknownVersion` if a newer program wrote either file (nothing is
    /// touched); `Mismatch` if `double.dat` is that of another cluster.
    pub fn open(disk: &dyn Disk, directory: &Path, options: Options) -> Result<(Self, Opening)> {
        let file = open_file(disk, directory.join(SLOTS_FILE), "there are no slots here")?;
        let what = "rounds cut off by a crash cannot be mended without it; \
                    restore this member from the others";
        let double_file = open_file(disk, directory.join(DOUBLE_FILE), what)?;
        let found = superblock::read(file.as_ref())?;
        let superblock = found.superblock.clone();
        let geometry = superblock.geometry;
        check_length(file.as_ref(), geometry)?;
        let round = double::read(double_file.as_ref(), geometry)?;
        if let Round::Complete { cluster_id, .. } = &round
            && *cluster_id != superblock.cluster_id
        {
            return Err(Error::Mismatch {
                path: double_file.path(),
                field: "cluster id",
                expected: format!("{:032x}", superblock.cluster_id),
                actual: format!("{cluster_id:032x}"),
            });
        }
        // From here on files are written (I2).
        let (double_found, sequence) = match round {
            Round::Empty => (DoubleFound::Empty, 0),
            Round::Incomplete => (DoubleFound::Incomplete, 0),
            Round::Complete { sequence, image, .. } => {
                let restored = double::replay(&image, file.as_ref())?;
                let pages = image.pages.len() as u64;
                (DoubleFound::Complete { pages, restored }, sequence)
            }
        };
        found.repair(file.as_ref())?;
        let opening = Opening { superblock_repaired: found.stale_copy, double: double_found };
        let is_zeroed = superblock.checkpoint.is_none()
            && superblock.readable_from == 0
            && opening.double == DoubleFound::Empty // I4
            && options.fits(geometry);
        let (page_count, slot_count) = (geometry.page_count(), geometry.slot_count());
        let pages = if is_zeroed {
            Pages::zeroed(page_count, slot_count)
        } else {
            Pages::unknown(page_count, slot_count)
        };
        let double = Double::new(double_file, superblock.cluster_id, sequence);
        let map = if is_zeroed { file.map_zeros()? } else { file.map()? };
        Ok((Self::assemble(Parts { file, map, double, superblock, pages }, options), opening))
    }

    /// How many slots the files of a directory have room for; `None` if there is no data file. Writes
    /// nothing.
    ///
    /// # Errors
    /// `Corrupt` if both superblocks are bad; `UnknownVersion`; `Io`.
    pub fn room(disk: &dyn Disk, directory: &Path) -> Result<Option<u64>> {
        let path = directory.join(SLOTS_FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open(&path, WriteMode::Direct)?;
        Ok(Some(superblock::read(file.as_ref())?.superblock.geometry.slot_count()))
    }

    /// Has the files of a directory, on which nobody works, make room for as many slots as `new` has;
    /// nothing happens if they have it. What is there stays as it is, and further slots were never
    /// written. After `Ok` that survives power loss; after a crash in the middle it is so, or as before.
    ///
    /// # Errors
    /// As [`Slots::open`]; `NoSpace` if the disk cannot hold them: nothing has changed then. `Mismatch` if the files are of another cluster or for values of another
    /// length.
    pub fn make_room(
        disk: &dyn Disk,
        directory: &Path,
        new: &New,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let slots = open_file(disk, directory.join(SLOTS_FILE), "there are no slots here")?;
        let found = superblock::read(slots.as_ref())?;
        let Superblock { geometry, cluster_id, sequence, .. } = found.superblock;
        // Of two copies the bad one may have been the newer, with more slots: then all of it stays.
        let is_sure = found.stale_copy.is_none() && cluster_id == new.cluster_id;
        let kept = if is_sure { geometry.file_bytes() } else { u64::MAX };
        if geometry.slot_count() >= new.geometry.slot_count() {
            return slots.cut(kept); // a crash in the middle of what is below may have left more
        }
        check_same(slots.as_ref(), "cluster id", (new.cluster_id, cluster_id))?;
        let bytes = (new.geometry.value_bytes().into(), geometry.value_bytes().into());
        check_same(slots.as_ref(), "value-size", bytes)?;
        check_length(slots.as_ref(), geometry)?;
        let double = open_file(disk, directory.join(DOUBLE_FILE), "it belongs to slots.dat")?;
        // Both may be longer than the superblock says, so each step leaves what can be opened.
        let double_kept = double.len()?;
        let reserved = reserve_room(&*slots, &*double, geometry, new.geometry, progress);
        if reserved.is_err() {
            // Else the node's log has no space either. The error that matters is the one that led here.
            for (file, bytes) in [(&slots, kept), (&double, double_kept)] {
                match file.cut(bytes) {
                    Ok(()) | Err(_) => {}
                }
            }
        }
        reserved?;
        found.repair(slots.as_ref())?; // a copy is written over only beside a good one
        let grown =
            Superblock { geometry: new.geometry, sequence: sequence + 1, ..found.superblock };
        grown.write(slots.as_ref())
    }

    fn assemble(parts: Parts, options: Options) -> Self {
        let Parts { file, map, double, superblock, pages } = parts;
        let geometry = superblock.geometry;
        map.holds_slots(DATA_OFFSET, geometry.slot_bytes());
        let area = Area { path: file.path(), geometry, pages, map, damage: Damage::default() };
        Self {
            area,
            locks: Locks::new(),
            file,
            readable_from: AtomicU64::new(superblock.readable_from),
            superblock: Mutex::new(superblock),
            superblock_write: Mutex::new(()),
            sweeping: Mutex::new(()),
            writer: Mutex::new(Writer::new(double)),
            written_pages: AtomicU64::new(0),
            options,
        }
    }
}

/// Makes both files as long as slots of the second geometry need them. After `Ok` that survives power loss.
fn reserve_room(
    slots: &dyn File,
    double: &dyn File,
    from: Geometry,
    to: Geometry,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    double.reserve(double::file_bytes(to))?;
    double.sync()?;
    let (mut bytes, total) = (from.file_bytes(), to.file_bytes());
    while bytes < total {
        bytes = (bytes + RESERVE_STEP_BYTES).min(total);
        slots.reserve(bytes)?;
        progress(bytes, total);
    }
    slots.sync()
}

/// `Mismatch` unless what is wanted is what was found.
fn check_same(file: &dyn File, field: &'static str, of: (u128, u128)) -> Result<()> {
    let (wanted, found) = of;
    if wanted == found {
        return Ok(());
    }
    let (expected, actual) = (format!("{wanted:x}"), format!("{found:x}"));
    Err(Error::Mismatch { path: file.path(), field, expected, actual })
}

/// `Corrupt` if the data file was cut.
pub(crate) fn check_length(file: &dyn File, geometry: Geometry) -> Result<()> {
    let bytes = file.len()?;
    if bytes >= geometry.file_bytes() {
        return Ok(());
    }
    Err(Error::Corrupt { path: file.path(), offset: bytes, what: "length of the data file" })
}

fn make_files(
    disk: &dyn Disk,
    directory: &Path,
    new: &New,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let double_bytes = double::file_bytes(new.geometry);
    let total = double_bytes + new.geometry.file_bytes();
    let double = create_file(disk, &new_path(directory, DOUBLE_FILE))?;
    double.reserve(double_bytes)?;
    double.sync()?;
    progress(double_bytes, total);
    let slots = create_file(disk, &new_path(directory, SLOTS_FILE))?;
    let mut bytes = 0;
    while bytes < new.geometry.file_bytes() {
        bytes = (bytes + RESERVE_STEP_BYTES).min(new.geometry.file_bytes());
        slots.reserve(bytes)?;
        progress(double_bytes + bytes, total);
    }
    Superblock::new(new.geometry, new.cluster_id).write(slots.as_ref())?;
    // I1, and double.rs I4: an old double.dat is gone before the data file has its name.
    for name in [DOUBLE_FILE, SLOTS_FILE] {
        disk.rename(&new_path(directory, name), &directory.join(name))?;
        disk.sync_dir(directory)?;
    }
    Ok(())
}

/// Creates a file in place of what a creation that was cut off may have left.
fn create_file(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>> {
    if disk.exists(path)? {
        disk.remove(path)?;
    }
    disk.create(path, WriteMode::Direct)
}

fn open_file(disk: &dyn Disk, path: PathBuf, what: &'static str) -> Result<Arc<dyn File>> {
    match disk.open(&path, WriteMode::Direct) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Error::Missing { path, what })
        }
        opened => opened,
    }
}

fn new_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{NEW_SUFFIX}"))
}
