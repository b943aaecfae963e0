//! The calls on a simulated disk: power, faults and space, and what each does to the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::super::WriteMode;
use super::inode::{Content, Inode, PendingWrite, index_of};
use super::names::{NameChange, NameSpace, parent_of};
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
    /// A file made shorter.
    Cut,
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

impl OperationKind {
    /// The word for it in an error.
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Cut => "cut",
            Self::Sync => "sync",
            Self::Reserve => "reserve",
            Self::Create => "create",
            Self::CreateDirectory => "create directory",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDirectory => "sync directory",
        }
    }
}

/// One line of the write log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What was asked for.
    pub kind: OperationKind,
    /// The file or directory, for a rename the old name.
    pub path: PathBuf,
    /// First byte of a write, first new byte of a reservation, size after a cut, else 0.
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

#[derive(Debug, Clone)]
struct Fault {
    kind: OperationKind,
    path_suffix: String,
    /// So many operations that it would hit pass first.
    passed_count: u32,
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
    pub(super) names: NameSpace,
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
            names: NameSpace::new(),
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
            next_id: self.next_id,
            space: self.space,
            ..Self::new(self.seed)
        }
    }

    // Power, faults and space.

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

    pub(super) fn fail_after(
        &mut self,
        passed_count: u32,
        kind: OperationKind,
        path_suffix: &str,
        errno: i32,
    ) {
        let path_suffix = path_suffix.to_owned();
        self.faults.push(Fault { kind, path_suffix, passed_count, errno });
    }

    pub(super) fn set_space(&mut self, bytes: u64) {
        self.space = Some(bytes);
    }

    // Names.

    pub(super) fn open(&mut self, path: &Path) -> Result<FileId> {
        self.check_power("open", path)?;
        self.id_at("open", path)
    }

    pub(super) fn create(&mut self, path: &Path) -> Result<FileId> {
        let begun = self.begin(OperationKind::Create, path, 0, 0)?;
        if self.names.current.files.contains_key(path)
            || self.names.current.directories.contains(path)
        {
            return Err(Error::io("create", path, 0, io::ErrorKind::AlreadyExists.into()));
        }
        if !self.names.current.directories.contains(&parent_of(path)) {
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
            if self.names.current.files.contains_key(ancestor) {
                let kind = io::ErrorKind::NotADirectory;
                return Err(Error::io("create directory", path, 0, kind.into()));
            }
            if !self.names.current.directories.contains(ancestor) {
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
        if !self.names.current.directories.contains(&parent_of(to)) {
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
        let inside = self.names.current.files.keys().filter(|path| parent_of(path) == directory);
        let name_of = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        let mut names = inside.filter_map(name_of).collect::<Vec<_>>();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn exists(&self, path: &Path) -> Result<bool> {
        self.check_power("look up", path)?;
        Ok(self.names.current.files.contains_key(path)
            || self.names.current.directories.contains(path))
    }

    pub(super) fn sync_dir(&mut self, directory: &Path) -> Result<()> {
        let begun = self.begin(OperationKind::SyncDirectory, directory, 0, 0)?;
        self.check_directory("sync directory", directory)?;
        match begun {
            Begun::Normal => self.names.sync(directory),
            Begun::Failed(error) | Begun::InFlight(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, path: &Path) -> Result<()> {
        self.check_power("lock", path)?;
        if !self.names.current.files.contains_key(path) {
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
        match begun {
            Begun::Normal if mode == WriteMode::DirectDurable => {
                inode.write_durably(bytes, offset);
                Ok(())
            }
            begun => {
                push(inode, begun, PendingWrite::new(order, offset, Content::Bytes(bytes.to_vec())))
            }
        }
    }

    pub(super) fn cut(&mut self, target: Target<'_>, bytes: u64) -> Result<()> {
        let Target { id, path, mode } = target;
        if mode == WriteMode::ReadOnly {
            return Err(Error::io("cut", path, bytes, io::ErrorKind::PermissionDenied.into()));
        }
        if self.inode(id).current.len() as u64 <= bytes {
            return self.check_power("cut", path);
        }
        let begun = self.begin(OperationKind::Cut, path, bytes, 0)?;
        let order = self.last_operation();
        push(self.inode_mut(id), begun, PendingWrite::new(order, bytes, Content::Cut(bytes)))
    }

    pub(super) fn reserve(&mut self, target: Target<'_>, bytes: u64) -> Result<()> {
        let before = self.inode(target.id).current.len() as u64;
        let begun =
            self.begin(OperationKind::Reserve, target.path, before, bytes.saturating_sub(before))?;
        self.check_space(target, bytes)?;
        let order = self.last_operation();
        let pending = PendingWrite::new(order, before, Content::Grown(bytes));
        push(self.inode_mut(target.id), begun, pending)
    }

    pub(super) fn sync(&mut self, target: Target<'_>) -> Result<()> {
        let begun = self.begin(OperationKind::Sync, target.path, 0, 0)?;
        let inode = self.inode_mut(target.id);
        match begun {
            Begun::Normal => inode.sync(),
            Begun::Failed(error) | Begun::InFlight(error) => {
                inode.forsake();
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
        self.check_power(kind.verb(), path)?;
        self.operations.push(Operation { kind, path: path.to_owned(), offset, bytes });
        if self.power == Power::CutAt(self.last_operation()) {
            self.power = Power::Lost;
            return Ok(Begun::InFlight(power_lost(kind.verb(), path)));
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
        if let Some(passed_count) = self.faults[position].passed_count.checked_sub(1) {
            self.faults[position].passed_count = passed_count;
            return None;
        }
        let fault = self.faults.remove(position);
        Some(Error::io(kind.verb(), path, offset, io::Error::from_raw_os_error(fault.errno)))
    }

    fn check_power(&self, operation: &'static str, path: &Path) -> Result<()> {
        if self.is_power_lost() { Err(power_lost(operation, path)) } else { Ok(()) }
    }

    fn check_directory(&self, operation: &'static str, directory: &Path) -> Result<()> {
        if self.names.current.directories.contains(directory) {
            return Ok(());
        }
        Err(Error::io(operation, directory, 0, io::ErrorKind::NotFound.into()))
    }

    /// `NoSpace` if the disk cannot hold this file with `bytes` bytes.
    fn check_space(&self, target: Target<'_>, bytes: u64) -> Result<()> {
        let before = self.inode(target.id).current.len() as u64;
        let growth = bytes.saturating_sub(before);
        let used = self.names.current.files.values().map(|id| self.inode(*id).current.len() as u64);
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
            self.names.change(order, change);
        }
        match begun {
            Begun::InFlight(error) => Err(error),
            Begun::Normal | Begun::Failed(_) => Ok(()),
        }
    }

    pub(super) fn new_inode(&mut self, inode: Inode) -> FileId {
        let id = self.next_id;
        self.next_id += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn id_at(&self, operation: &'static str, path: &Path) -> Result<FileId> {
        let missing = || Error::io(operation, path, 0, io::ErrorKind::NotFound.into());
        self.names.current.files.get(path).copied().ok_or_else(missing)
    }

    pub(super) fn inode_at(&mut self, path: &Path) -> Result<&mut Inode> {
        let id = self.id_at("look up", path)?;
        Ok(self.inode_mut(id))
    }

    pub(super) fn inode(&self, id: FileId) -> &Inode {
        self.inodes.get(&id).expect("invariant: inodes are never removed")
    }

    fn inode_mut(&mut self, id: FileId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("invariant: inodes are never removed")
    }
}

/// Applies a change that is not durable, and says how its operation ended.
fn push(inode: &mut Inode, begun: Begun, mut pending: PendingWrite) -> Result<()> {
    pending.forsaken = !matches!(begun, Begun::Normal);
    inode.push(pending);
    match begun {
        Begun::Normal => Ok(()),
        Begun::Failed(error) | Begun::InFlight(error) => Err(error),
    }
}

fn power_lost(operation: &'static str, path: &Path) -> Error {
    Error::io(operation, path, 0, io::Error::other("power lost"))
}
