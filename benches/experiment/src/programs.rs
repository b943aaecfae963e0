//! The programs that an experiment starts. They lie in one folder, that of this program unless told
//! otherwise.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::plan::{Machine, Plan, Source, Strategy};

/// Paths of programs; those that the plan does not need may be missing.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
    needed: Vec<PathBuf>,
}

impl Programs {
    /// Those of a plan.
    ///
    /// # Errors
    /// One of them is missing; all missing ones are named.
    pub(crate) fn find(folder: &Path, plan: &Plan) -> Result<Programs> {
        let mut names = vec!["diskstore", "monit"];
        if plan.sweep.machine.contains(&Machine::Memory) {
            names.push("kvstore");
        }
        if plan.sweep.strategy.contains(&Strategy::Decoupled) {
            names.push("logger");
        }
        if plan.sweep.source.contains(&Source::Records) {
            names.push("recovery");
        }
        let (needed, missing): (Vec<_>, Vec<_>) =
            names.into_iter().map(|name| folder.join(name)).partition(|path| path.is_file());
        if !missing.is_empty() {
            let names: Vec<String> =
                missing.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "missing program: {}; build all with `cargo build --release --workspace`, or name \
                 their folder with -programs",
                names.join(", ")
            );
        }
        Ok(Programs { folder: folder.to_owned(), needed })
    }

    /// All that are needed.
    pub(crate) fn all(&self) -> &[PathBuf] {
        &self.needed
    }

    /// A node.
    pub(crate) fn node(&self, machine: Machine) -> PathBuf {
        self.folder.join(match machine {
            Machine::Disk => "diskstore",
            Machine::Memory => "kvstore",
        })
    }

    /// The load generator, a command of the node's program.
    pub(crate) fn load(&self) -> PathBuf {
        self.folder.join("diskstore")
    }

    /// The monitor.
    pub(crate) fn monit(&self) -> PathBuf {
        self.folder.join("monit")
    }

    /// A logger.
    pub(crate) fn logger(&self) -> PathBuf {
        self.folder.join("logger")
    }

    /// What recovers from recorded commands.
    pub(crate) fn recovery(&self) -> PathBuf {
        self.folder.join("recovery")
    }
}
