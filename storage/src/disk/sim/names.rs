//! The names of files on a simulated disk: the durable ones, and the changes that are not durable
//! yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::state::FileId;

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

/// Names as the users of the disk see them, and as a power loss would leave them.
#[derive(Debug, Clone)]
pub(super) struct NameSpace {
    pub(super) current: Names,
    pub(super) durable: Names,
    /// What is not durable, with the numbers of the operations, in order.
    pub(super) pending: Vec<(u64, NameChange)>,
}

impl NameSpace {
    pub(super) fn new() -> Self {
        Self { current: Names::new(), durable: Names::new(), pending: Vec::new() }
    }

    pub(super) fn change(&mut self, order: u64, change: NameChange) {
        self.current.apply(&change);
        self.pending.push((order, change));
    }

    /// The names with what is not durable of the operations before `cut`.
    pub(super) fn before(&self, cut: u64) -> Names {
        let mut names = self.durable.clone();
        for (_, change) in self.pending.iter().filter(|(order, _)| *order < cut) {
            names.apply(change);
        }
        names
    }

    /// Makes the names in a directory durable, and the changes that they rest on: those of the
    /// same names, and of the directories above.
    pub(super) fn sync(&mut self, directory: &Path) {
        let mut needed = BTreeSet::new();
        needed.extend(directory.ancestors().map(Path::to_owned));
        let mut is_covered = vec![false; self.pending.len()];
        for ((_, change), covered) in self.pending.iter().zip(&mut is_covered).rev() {
            let is_named = |path: &&Path| parent_of(path) == directory || needed.contains(*path);
            if change.paths().iter().any(is_named) {
                *covered = true;
                let names = change.paths();
                needed.extend(names.iter().flat_map(|path| path.ancestors()).map(Path::to_owned));
            }
        }
        let changes = std::mem::take(&mut self.pending);
        for (change, covered) in changes.into_iter().zip(is_covered) {
            if covered {
                self.durable.apply(&change.1);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Gives a file a name durably, and with it the directories above.
    pub(super) fn set_durably(&mut self, path: &Path, id: FileId) {
        let directory = parent_of(path);
        self.sync(&directory);
        for names in [&mut self.current, &mut self.durable] {
            names.directories.extend(directory.ancestors().map(Path::to_owned));
            names.files.insert(path.to_owned(), id);
        }
    }
}

/// The directory that holds a name.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}
