//! The folder that an experiment's results go to.
//!
//! - I1: it belongs to one experiment, made with one build of the programs: its manifest says which.
//!   Another one is refused, and so is a folder that holds something else.
//! - I2: a result is whole or not there: it is written to another name, synced and renamed.
//! - I3: one program at a time works in it (`LOCK`).

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::result::RunResult;
use crate::surroundings::Surroundings;

const MANIFEST: &str = "manifest.json";
const LOCK: &str = "LOCK";

/// What the results were made from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) plan: Plan,
    pub(crate) is_quick: bool,
    /// How it was asked for.
    pub(crate) command: String,
    pub(crate) surroundings: Surroundings,
}

/// A folder that is ours.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// What was there first counts, date included.
    pub(crate) manifest: Manifest,
    _lock: File,
}

impl Folder {
    /// Takes an empty folder, or one that holds a part of this experiment.
    ///
    /// # Errors
    /// It holds something else, or is in use. // I1 I3
    pub(crate) fn claim(path: &Path, manifest: Manifest) -> Result<Folder> {
        let place = || path.display().to_string();
        fs::create_dir_all(path).with_context(place)?;
        let is_claimed = path.join(MANIFEST).exists();
        if !is_claimed {
            let mut entries = fs::read_dir(path).with_context(place)?;
            // A program that was killed before it wrote the manifest leaves these.
            let stray = entries.find_map(|entry| {
                let name = entry.ok()?.file_name().to_string_lossy().into_owned();
                (name != LOCK && name != format!("{MANIFEST}.part")).then_some(name)
            });
            if let Some(stray) = stray {
                bail!("{} holds {stray}, but no experiment: name another with -out", place());
            }
        }
        let lock = lock(path)?;
        let manifest = if is_claimed { compatible(path, &manifest)? } else { manifest };
        let folder = Folder { path: path.to_owned(), manifest, _lock: lock };
        if !is_claimed {
            folder.write(MANIFEST, &serde_json::to_vec_pretty(&folder.manifest)?)?;
        }
        fs::create_dir_all(path.join("runs")).with_context(place)?;
        Ok(folder)
    }

    /// Takes a folder that holds a part of any experiment, made with any build. // I3
    ///
    /// # Errors
    /// It holds none, or is in use.
    pub(crate) fn reopen(path: &Path) -> Result<Folder> {
        let manifest = manifest_of(path)?;
        Ok(Folder { path: path.to_owned(), manifest, _lock: lock(path)? })
    }

    /// Removes a folder of files that are written anew, if it is there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn clear(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The result of a run, if it is there.
    ///
    /// # Errors
    /// It cannot be read, or is that of another run.
    pub(crate) fn result(&self, run: &crate::plan::Run) -> Result<Option<RunResult>> {
        let path = self.path.join(run_name(run.number));
        if !path.exists() {
            return Ok(None);
        }
        let place = || path.display().to_string();
        let text = fs::read(&path).with_context(place)?;
        let result: RunResult = serde_json::from_slice(&text).with_context(place)?;
        ensure!(result.run == *run, "{} is the result of another run: delete it", place());
        Ok(Some(result))
    }

    /// Keeps the result of a run.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn keep(&self, result: &RunResult) -> Result<()> {
        self.write(&run_name(result.run.number), &serde_json::to_vec(result)?)
    }

    /// Writes a file as a whole, or not at all. // I2
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let part = self.path.join(format!("{name}.part"));
        let written = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or(&self.path);
            fs::create_dir_all(folder)?;
            let mut file = File::create(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(folder)?.sync_all()
        };
        written().with_context(|| path.display().to_string())
    }

    /// Keeps what a failed run left, instead of what one before left.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn keep_failed(&self, number: u64, data: &Path) -> Result<PathBuf> {
        let kept = self.path.join("failed").join(number.to_string());
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        for entry in fs::read_dir(data)? {
            let folder = entry?.path();
            let log = folder.join("log");
            if let (true, Some(name)) = (log.exists(), folder.file_name()) {
                fs::create_dir_all(&kept)?;
                fs::copy(&log, kept.join(name))?;
            }
        }
        Ok(kept)
    }
}

fn run_name(number: u64) -> String {
    format!("runs/{number:05}.json")
}

/// Holds a folder until the file is dropped. // I3
fn lock(path: &Path) -> Result<File> {
    let place = || path.display().to_string();
    let lock = File::create(path.join(LOCK)).with_context(place)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("{} is in use by another program", place()),
        Err(TryLockError::Error(error)) => Err(error).with_context(place),
    }
}

fn manifest_of(path: &Path) -> Result<Manifest> {
    let file = path.join(MANIFEST);
    let place = || file.display().to_string();
    let text = fs::read(&file).with_context(place)?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{}: no manifest of an experiment", place()))
}

/// The manifest of a folder, if it is that of the same experiment. // I1
fn compatible(path: &Path, wanted: &Manifest) -> Result<Manifest> {
    let found = manifest_of(path)?;
    let words = "name another folder with -out";
    if found.plan != wanted.plan {
        bail!("{} holds another experiment (`{}`): {words}", path.display(), found.plan.title);
    }
    if found.surroundings.programs != wanted.surroundings.programs {
        bail!("{} holds results of other builds of the programs: {words}", path.display());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(title: &str, program: &str) -> Manifest {
        let text = format!("title = '{title}'\nkind = 'load'");
        let programs = [("diskstore".to_owned(), program.to_owned())].into();
        Manifest {
            plan: Plan::parse(&text, false).unwrap(),
            is_quick: false,
            command: String::new(),
            surroundings: Surroundings { programs, ..Surroundings::default() },
        }
    }

    fn refusal(path: &Path, manifest: Manifest) -> String {
        Folder::claim(path, manifest).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_belongs_to_one_experiment_and_one_build() {
        let folder = tempfile::tempdir().unwrap();
        drop(Folder::claim(folder.path(), manifest("a", "1")).unwrap());
        drop(Folder::claim(folder.path(), manifest("a", "1")).unwrap());
        assert!(refusal(folder.path(), manifest("b", "1")).contains("another experiment (`a`)"));
        assert!(refusal(folder.path(), manifest("a", "2")).contains("other builds"));
        fs::write(folder.path().join(MANIFEST), "{\"plan\":").unwrap();
        let torn = format!("{:#}", Folder::claim(folder.path(), manifest("a", "1")).unwrap_err());
        assert!(torn.contains("no manifest"), "{torn}");
    }

    #[test]
    fn what_is_no_experiment_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        assert!(refusal(folder.path(), manifest("a", "1")).contains("thesis.tex"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_program_at_a_time_works_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Folder::claim(folder.path(), manifest("a", "1")).unwrap();
        assert!(refusal(folder.path(), manifest("a", "1")).contains("in use"));
    }

    #[test]
    fn half_a_result_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::claim(directory.path(), manifest("a", "1")).unwrap();
        let run = folder.manifest.plan.runs().remove(0);
        fs::write(directory.path().join("runs/00001.json.part"), "{").unwrap();
        assert!(folder.result(&run).unwrap().is_none());
        let result = RunResult::new(run.clone());
        folder.keep(&result).unwrap();
        assert_eq!(folder.result(&run).unwrap().unwrap().run, run);
        let other = crate::plan::Run { repetition: 2, ..run };
        assert!(folder.result(&other).unwrap_err().to_string().contains("another run"));
    }
}
