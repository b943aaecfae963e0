//! The tree of a simulated disk: what is durable, and what only the page cache holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::super::WriteMode;
use crate::{Error, Result};

/// Number of a file, whatever its names.
pub(super) type FileId = u64;

/// What was asked of a disk. All but [`OperationKind::Read`] change something, are recorded,
/// and count for [`SimDisk::crash_at`](super::SimDisk::crash_at).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    /// Bytes read from a file; only faults know it, it is not recorded.
    Read,
    /// Bytes written to a file.
    Write,
    /// A file made durable.
    Sync,
    /// Space reserved for a file.
    Reserve,
    /// A file created.
    Create,
    /// A directory and its parents created, where one was missing.
    CreateDirectory,
    /// A file renamed.
    Rename,
    /// A file removed.
    Remove,
    /// A directory made durable.
    SyncDirectory,
}

/// One line of the write log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What was asked for.
    pub kind: OperationKind,
    /// The file or directory, for a rename the old name.
    pub path: PathBuf,
    /// First byte of a write, first new byte of a reservation, else 0.
    pub offset: u64,
    /// Bytes written or reserved, else 0.
    pub bytes: u64,
}

/// The file that a call is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) id: FileId,
    pub(super) path: &'a Path,
    pub(super) mode: WriteMode,
}

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
}

impl PendingWrite {
    pub(super) fn apply_to(&self, file: &mut Vec<u8>) {
        match &self.content {
            Content::Bytes(bytes) => overlay(file, bytes, self.offset),
            Content::Grown(bytes) => grow(file, *bytes),
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

    fn write_durably(&mut self, bytes: &[u8], offset: u64) {
        overlay(&mut self.current, bytes, offset);
        overlay(&mut self.durable, bytes, offset);
        // What is pending for the same bytes is older and must not come back over them.
        for pending in &mut self.pending {
            if let Content::Bytes(older) = &mut pending.content {
                replace_common(older, pending.offset, bytes, offset);
            }
        }
    }

    /// Remembers a change that is not durable; passes on how its operation ended.
    fn push(&mut self, order: u64, offset: u64, content: Content, begun: Begun) -> Result<()> {
        let forsaken = !matches!(begun, Begun::Normal);
        self.pending.push(PendingWrite { order, offset, content, forsaken });
        match begun {
            Begun::Normal => Ok(()),
            Begun::Failed(error) | Begun::InFlight(error) => Err(error),
        }
    }

    fn sync(&mut self) {
        for pending in self.pending.iter().filter(|pending| !pending.forsaken) {
            pending.apply_to(&mut self.durable);
        }
        self.pending.retain(|pending| pending.forsaken);
    }
}

/// A change of a name that is not durable.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Link { path: PathBuf, id: FileId },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, id: FileId },
    MakeDirectory { path: PathBuf },
}

impl NameChange {
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } | Self::MakeDirectory { path } => {
                vec![path]
            }
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }
}

/// Names of files and directories.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) files: BTreeMap<PathBuf, FileId>,
    pub(super) directories: BTreeSet<PathBuf>,
}

impl Names {
    pub(super) fn new() -> Self {
        let roots = ["/", "", "."].map(PathBuf::from);
        Self { files: BTreeMap::new(), directories: roots.into() }
    }

    pub(super) fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link { path, id } => {
                self.files.insert(path.clone(), *id);
            }
            NameChange::Unlink { path } => {
                self.files.remove(path);
            }
            NameChange::Rename { from, to, id } => {
                self.files.remove(from);
                self.files.insert(to.clone(), *id);
            }
            NameChange::MakeDirectory { path } => {
                self.directories.insert(path.clone());
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Fault {
    kind: OperationKind,
    path_suffix: String,
    errno: i32,
}

/// What [`State::begin`] found.
enum Begun {
    Normal,
    /// The call fails; its effect may be there or not.
    Failed(Error),
    /// As `Failed`, because the power was cut in the middle of it.
    InFlight(Error),
}

/// The power supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// Lost at the operation of this number.
    CutAt(u64),
    Lost,
}

/// Everything behind the handles of one disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) inodes: BTreeMap<FileId, Inode>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    /// Changes of names that are not durable, with the numbers of their operations.
    pub(super) name_changes: Vec<(u64, NameChange)>,
    pub(super) seed: u64,
    next_id: FileId,
    locks: BTreeSet<PathBuf>,
    operations: Vec<Operation>,
    faults: Vec<Fault>,
    space: Option<u64>,
    power: Power,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            inodes: BTreeMap::new(),
            names: Names::new(),
            durable_names: Names::new(),
            name_changes: Vec::new(),
            seed,
            next_id: 0,
            locks: BTreeSet::new(),
            operations: Vec::new(),
            faults: Vec::new(),
            space: None,
            power: Power::On,
        }
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            inodes: self.inodes.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes: self.name_changes.clone(),
            next_id: self.next_id,
            space: self.space,
            ..Self::new(self.seed)
        }
    }

    // Faults, and what tests look at.

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(super) fn crash_at(&mut self, index: u64) {
        if self.power != Power::Lost {
            self.power = Power::CutAt((self.operations.len() as u64).saturating_add(index));
        }
    }

    pub(super) fn is_power_lost(&self) -> bool {
        self.power == Power::Lost
    }

    pub(super) fn fail_next(&mut self, kind: OperationKind, path_suffix: &str, errno: i32) {
        self.faults.push(Fault { kind, path_suffix: path_suffix.to_owned(), errno });
    }

    pub(super) fn set_space(&mut self, bytes: u64) {
        self.space = Some(bytes);
    }

    pub(super) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        assert!(bit < 8, "a byte has no bit {bit}");
        let inode = self.inode_at(path)?;
        let past_end =
            || Error::io("flip a bit", path, offset, io::ErrorKind::UnexpectedEof.into());
        let byte = inode.current.get_mut(index_of(offset)).ok_or_else(past_end)?;
        *byte ^= 1 << bit;
        let flipped = [*byte];
        replace_common(&mut inode.durable, 0, &flipped, offset);
        for pending in &mut inode.pending {
            if let Content::Bytes(bytes) = &mut pending.content {
                replace_common(bytes, pending.offset, &flipped, offset);
            }
        }
        Ok(())
    }

    pub(super) fn truncate_file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        let inode = self.inode_at(path)?;
        let mut content = std::mem::take(&mut inode.current);
        content.truncate(index_of(bytes));
        *inode = Inode::holding(content);
        Ok(())
    }

    pub(super) fn read_file(&mut self, path: &Path) -> Result<Vec<u8>> {
        Ok(self.inode_at(path)?.current.clone())
    }

    pub(super) fn write_file(&mut self, path: &Path, bytes: &[u8]) {
        let directory = parent_of(path);
        self.sync_names(&directory);
        for ancestor in directory.ancestors() {
            self.names.directories.insert(ancestor.to_owned());
            self.durable_names.directories.insert(ancestor.to_owned());
        }
        let id = self.new_inode(Inode::holding(bytes.to_vec()));
        self.names.files.insert(path.to_owned(), id);
        self.durable_names.files.insert(path.to_owned(), id);
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.files.keys().cloned().collect()
    }

    // Names.

    pub(super) fn open(&mut self, path: &Path) -> Result<FileId> {
        self.check_power("open", path)?;
        self.id_at("open", path)
    }

    pub(super) fn create(&mut self, path: &Path) -> Result<FileId> {
        let begun = self.begin(OperationKind::Create, path, 0, 0)?;
        if self.names.files.contains_key(path) || self.names.directories.contains(path) {
            return Err(Error::io("create", path, 0, io::ErrorKind::AlreadyExists.into()));
        }
        if !self.names.directories.contains(&parent_of(path)) {
            return Err(Error::io("create", path, 0, io::ErrorKind::NotFound.into()));
        }
        let id = self.new_inode(Inode::default());
        self.change_names(begun, vec![NameChange::Link { path: path.to_owned(), id }])?;
        Ok(id)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<()> {
        self.check_power("create directory", path)?;
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            if self.names.files.contains_key(ancestor) {
                let kind = io::ErrorKind::NotADirectory;
                return Err(Error::io("create directory", path, 0, kind.into()));
            }
            if !self.names.directories.contains(ancestor) {
                missing.push(NameChange::MakeDirectory { path: ancestor.to_owned() });
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.reverse();
        let begun = self.begin(OperationKind::CreateDirectory, path, 0, 0)?;
        self.change_names(begun, missing)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let begun = self.begin(OperationKind::Rename, from, 0, 0)?;
        let id = self.id_at("rename", from)?;
        if !self.names.directories.contains(&parent_of(to)) {
            return Err(Error::io("rename", to, 0, io::ErrorKind::NotFound.into()));
        }
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned(), id };
        self.change_names(begun, vec![change])
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        let begun = self.begin(OperationKind::Remove, path, 0, 0)?;
        self.id_at("remove", path)?;
        self.change_names(begun, vec![NameChange::Unlink { path: path.to_owned() }])
    }

    pub(super) fn list(&self, directory: &Path) -> Result<Vec<String>> {
        self.check_power("list", directory)?;
        self.check_directory("list", directory)?;
        let inside = self.names.files.keys().filter(|path| parent_of(path) == directory);
        let name_of = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        let mut names = inside.filter_map(name_of).collect::<Vec<_>>();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn exists(&self, path: &Path) -> Result<bool> {
        self.check_power("look up", path)?;
        Ok(self.names.files.contains_key(path) || self.names.directories.contains(path))
    }

    pub(super) fn sync_dir(&mut self, directory: &Path) -> Result<()> {
        let begun = self.begin(OperationKind::SyncDirectory, directory, 0, 0)?;
        self.check_directory("sync directory", directory)?;
        match begun {
            Begun::Normal => self.sync_names(directory),
            Begun::Failed(error) | Begun::InFlight(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, path: &Path) -> Result<()> {
        self.check_power("lock", path)?;
        if !self.names.files.contains_key(path) {
            self.create(path)?;
        }
        if !self.locks.insert(path.to_owned()) {
            return Err(Error::Locked { path: path.to_owned() });
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self, path: &Path) {
        self.locks.remove(path);
    }

    // Files.

    pub(super) fn file_len(&self, target: Target<'_>) -> Result<u64> {
        self.check_power("look up", target.path)?;
        Ok(self.inode(target.id).current.len() as u64)
    }

    pub(super) fn read_at(
        &mut self,
        target: Target<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<()> {
        self.check_power("read", target.path)?;
        if let Some(error) = self.take_fault(OperationKind::Read, target.path, offset) {
            return Err(error);
        }
        let current = &self.inode(target.id).current;
        let start = index_of(offset);
        let bytes = start.checked_add(buffer.len()).and_then(|end| current.get(start..end));
        let Some(bytes) = bytes else {
            let kind = io::ErrorKind::UnexpectedEof;
            return Err(Error::io("read", target.path, offset, kind.into()));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn write_at(&mut self, target: Target<'_>, bytes: &[u8], offset: u64) -> Result<()> {
        let Target { id, path, mode } = target;
        if mode == WriteMode::ReadOnly {
            return Err(Error::io("write", path, offset, io::ErrorKind::PermissionDenied.into()));
        }
        let begun = self.begin(OperationKind::Write, path, offset, bytes.len() as u64)?;
        self.check_space(target, offset + bytes.len() as u64)?;
        let order = self.last_operation();
        let inode = self.inode_mut(id);
        if mode == WriteMode::DirectDurable && matches!(begun, Begun::Normal) {
            inode.write_durably(bytes, offset);
            return Ok(());
        }
        overlay(&mut inode.current, bytes, offset);
        let content = Content::Bytes(bytes.to_vec());
        inode.push(order, offset, content, begun)
    }

    pub(super) fn reserve(&mut self, target: Target<'_>, bytes: u64) -> Result<()> {
        let before = self.inode(target.id).current.len() as u64;
        let begun =
            self.begin(OperationKind::Reserve, target.path, before, bytes.saturating_sub(before))?;
        self.check_space(target, bytes)?;
        let order = self.last_operation();
        let inode = self.inode_mut(target.id);
        grow(&mut inode.current, bytes);
        inode.push(order, before, Content::Grown(bytes), begun)
    }

    pub(super) fn sync(&mut self, target: Target<'_>) -> Result<()> {
        let begun = self.begin(OperationKind::Sync, target.path, 0, 0)?;
        let inode = self.inode_mut(target.id);
        match begun {
            Begun::Normal => inode.sync(),
            Begun::Failed(error) | Begun::InFlight(error) => {
                for pending in &mut inode.pending {
                    pending.forsaken = true;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    // Helpers.

    /// Records an operation and finds out how it will end.
    fn begin(
        &mut self,
        kind: OperationKind,
        path: &Path,
        offset: u64,
        bytes: u64,
    ) -> Result<Begun> {
        self.check_power("operation", path)?;
        self.operations.push(Operation { kind, path: path.to_owned(), offset, bytes });
        if self.power == Power::CutAt(self.last_operation()) {
            self.power = Power::Lost;
            return Ok(Begun::InFlight(power_lost("operation", path)));
        }
        match self.take_fault(kind, path, offset) {
            Some(error @ Error::NoSpace { .. }) => Err(error),
            Some(error) => Ok(Begun::Failed(error)),
            None => Ok(Begun::Normal),
        }
    }

    fn last_operation(&self) -> u64 {
        (self.operations.len() as u64).saturating_sub(1)
    }

    fn take_fault(&mut self, kind: OperationKind, path: &Path, offset: u64) -> Option<Error> {
        let name = path.to_string_lossy();
        let is_hit = |fault: &Fault| fault.kind == kind && name.ends_with(&fault.path_suffix);
        let position = self.faults.iter().position(is_hit)?;
        let fault = self.faults.remove(position);
        Some(Error::io("operation", path, offset, io::Error::from_raw_os_error(fault.errno)))
    }

    fn check_power(&self, operation: &'static str, path: &Path) -> Result<()> {
        if self.is_power_lost() { Err(power_lost(operation, path)) } else { Ok(()) }
    }

    fn check_directory(&self, operation: &'static str, directory: &Path) -> Result<()> {
        if self.names.directories.contains(directory) {
            return Ok(());
        }
        Err(Error::io(operation, directory, 0, io::ErrorKind::NotFound.into()))
    }

    /// `NoSpace` if the disk cannot hold this file with `bytes` bytes.
    fn check_space(&self, target: Target<'_>, bytes: u64) -> Result<()> {
        let before = self.inode(target.id).current.len() as u64;
        let growth = bytes.saturating_sub(before);
        let used = self.names.files.values().map(|id| self.inode(*id).current.len() as u64);
        if growth > 0 && self.space.is_some_and(|space| used.sum::<u64>() + growth > space) {
            return Err(Error::NoSpace { path: target.path.to_owned(), bytes: growth });
        }
        Ok(())
    }

    fn change_names(&mut self, begun: Begun, changes: Vec<NameChange>) -> Result<()> {
        let order = self.last_operation();
        if let Begun::Failed(error) = begun {
            return Err(error);
        }
        for change in changes {
            self.names.apply(&change);
            self.name_changes.push((order, change));
        }
        match begun {
            Begun::InFlight(error) => Err(error),
            Begun::Normal | Begun::Failed(_) => Ok(()),
        }
    }

    /// Makes the names in a directory durable, and the changes that they rest on: those of the
    /// same names, and of the directories above.
    fn sync_names(&mut self, directory: &Path) {
        let mut needed = BTreeSet::new();
        needed.extend(directory.ancestors().map(Path::to_owned));
        let mut is_covered = vec![false; self.name_changes.len()];
        for ((_, change), covered) in self.name_changes.iter().zip(&mut is_covered).rev() {
            let is_named = |path: &&Path| parent_of(path) == directory || needed.contains(*path);
            if change.paths().iter().any(is_named) {
                *covered = true;
                let names = change.paths();
                needed.extend(names.iter().flat_map(|path| path.ancestors()).map(Path::to_owned));
            }
        }
        let changes = std::mem::take(&mut self.name_changes);
        for (change, covered) in changes.into_iter().zip(is_covered) {
            if covered {
                self.durable_names.apply(&change.1);
            } else {
                self.name_changes.push(change);
            }
        }
    }

    fn new_inode(&mut self, inode: Inode) -> FileId {
        let id = self.next_id;
        self.next_id += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn id_at(&self, operation: &'static str, path: &Path) -> Result<FileId> {
        let missing = || Error::io(operation, path, 0, io::ErrorKind::NotFound.into());
        self.names.files.get(path).copied().ok_or_else(missing)
    }

    fn inode_at(&mut self, path: &Path) -> Result<&mut Inode> {
        let id = self.id_at("look up", path)?;
        Ok(self.inode_mut(id))
    }

    fn inode(&self, id: FileId) -> &Inode {
        self.inodes.get(&id).expect("invariant: inodes are never removed")
    }

    fn inode_mut(&mut self, id: FileId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("invariant: inodes are never removed")
    }
}

fn power_lost(operation: &'static str, path: &Path) -> Error {
    Error::io(operation, path, 0, io::Error::other("power lost"))
}

fn parent_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
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
fn replace_common(older: &mut [u8], older_offset: u64, newer: &[u8], newer_offset: u64) {
    let start = older_offset.max(newer_offset);
    let end = (older_offset + older.len() as u64).min(newer_offset + newer.len() as u64);
    if start < end {
        let to = index_of(start - older_offset)..index_of(end - older_offset);
        let from = index_of(start - newer_offset)..index_of(end - newer_offset);
        older[to].copy_from_slice(&newer[from]);
    }
}
