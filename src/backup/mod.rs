//! The sub-commands `backup`, `restore` and `recover`: a backup is taken off a running node, read and
//! checked, and put into a new directory; or a new directory is made of that of a member whose cluster has
//! lost its majority. `main.rs` calls [`run`].
//!
//! `fetch` takes a backup off a node, `files` reads those on the disk and checks that they belong
//! together, `restore` makes a node's directory of them, and `recover` of a member's; what both have in
//! common is in `fresh`. Invariants:
//!
//! - I1: a file gets its name only when it is whole, checked and durable.
//! - I2: nothing is written to a directory before all files were read to their ends and found good.
//! - I3: a directory whose restore was not finished says so to every start.

mod fetch;
mod files;
mod fresh;
mod recover;
mod restore;
mod survey;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use diskstore_storage::backup::{BackupHeader, BackupSummary, ChainError};
use diskstore_storage::disk::{Disk, RealDisk};
use diskstore_storage::identity::MachineKind;
use serde::Serialize;

use crate::cli::{BackupFlags, Number, RecoverFlags, RestoreFlags, Task};
use crate::client::ClientError;
use crate::config::{ConfigError, row};
use crate::host::Host;
use fetch::Fetched;
use recover::Upto;
pub use restore::{Order, Restored, restore};
use survey::Told;

/// What the file is called until it is whole.
const PART_SUFFIX: &str = ".part";
/// Writes to the standard output instead of a file.
const STDOUT: &str = "-";
/// The word that has files checked instead.
const VERIFY: &str = "verify";

/// Why a backup was not taken, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Wrong usage; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A flag out of bounds; exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token that was to be presented.
    #[error(transparent)]
    Token(#[from] ClientError),
    /// What is to be made is there already; exit code 2.
    #[error("{} is there already; {what}", path.display())]
    Taken {
        /// What is in the way.
        path: PathBuf,
        /// What to do.
        what: &'static str,
    },
    /// A file or directory of this machine, or a backup with something wrong in it.
    #[error(transparent)]
    Storage(#[from] diskstore_storage::Error),
    /// Files that do not belong together, or in another order; exit code 2.
    #[error("{} does not belong there", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ChainError,
    },
    /// Another program's backup or directory; exit code 2.
    #[error("{} is {form} of {actual}; give -program {program}", path.display())]
    OtherProgram {
        /// The file or directory.
        path: PathBuf,
        /// What kind of thing it is.
        form: &'static str,
        /// What it holds.
        actual: &'static str,
        /// Whose it is.
        program: &'static str,
    },
    /// An index at which the files do not know the state; exit code 2.
    #[error("-to {to}: the last of these files knows the state at index {from} to {end}")]
    NotWithin {
        /// What was asked for.
        to: u64,
        /// The first index.
        from: u64,
        /// The last.
        end: u64,
    },
    /// No node could be reached.
    #[error("no node answers ({}); name one that runs: -addr HOST:PORT", tried.join("; "))]
    NoNode {
        /// Each address, and why it did not answer.
        tried: Vec<String>,
    },
    /// The node refused.
    #[error("{address} says: {message}")]
    Refused {
        /// The node.
        address: String,
        /// Its words.
        message: String,
    },
    /// What answers is no node of ours.
    #[error("{address} answers with something else than a backup; is it a diskstore client port?")]
    Foreign {
        /// The address.
        address: String,
    },
    /// The node broke the backup off.
    #[error("{address} cannot finish the backup: {reason}")]
    Broken {
        /// The node.
        address: String,
        /// Its words.
        reason: String,
    },
    /// The connection was lost in the middle.
    #[error("the backup of {address} broke off in the middle")]
    Lost {
        /// The node.
        address: String,
        /// What happened.
        source: diskstore_storage::Error,
    },
    /// Something on this machine failed.
    #[error("{what} failed")]
    Local {
        /// What was tried.
        what: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// A directory of which no new cluster can be made.
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Some of the files are bad.
    #[error("{count} of the files are no whole backup")]
    Bad {
        /// How many.
        count: usize,
    },
}

impl ArchiveError {
    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            ArchiveError::Usage(_)
            | ArchiveError::Config(_)
            | ArchiveError::Taken { .. }
            | ArchiveError::Chain { .. }
            | ArchiveError::OtherProgram { .. }
            | ArchiveError::NotWithin { .. } => 2,
            ArchiveError::Token(error) => error.exit_code(),
            _ => 1,
        }
    }
}

fn local(what: impl Into<String>) -> impl FnOnce(io::Error) -> ArchiveError {
    let what = what.into();
    move |source| ArchiveError::Local { what, source }
}

/// Runs `backup`, `restore` or `recover`; `None` for any other task.
pub fn run(task: &Task, out: &mut dyn Write) -> Option<Result<(), ArchiveError>> {
    match task {
        Task::Backup(flags) => Some(run_backup(flags, out)),
        Task::Restore(flags) => Some(run_restore(flags, out)),
        Task::Recover(flags) => Some(run_recover(flags, out)),
        _ => None,
    }
}

/// What is said of a backup, as JSON.
#[derive(Debug, Serialize)]
struct About {
    /// The file; empty for the standard output.
    file: String,
    /// Its size.
    bytes: u64,
    id: String,
    cluster_id: String,
    /// The program whose state it is.
    program: &'static str,
    slots: u64,
    value_bytes: u32,
    node: String,
    begun_ms: u64,
    /// True if all is in it that the cluster held.
    full: bool,
    /// Only what changed after this index is in it; 0 in a full one.
    since: u64,
    base: Option<String>,
    /// The first and the last index at which the state is known.
    exact_from: u64,
    index: u64,
    term: u64,
    /// Slots or keys, deleted ones among them.
    images: u64,
    entries: u64,
}

impl About {
    fn new(file: &str, bytes: u64, summary: &BackupSummary) -> About {
        let BackupSummary { header, end } = summary;
        About {
            file: file.to_owned(),
            bytes,
            id: format!("{:032x}", header.id),
            cluster_id: format!("{:032x}", header.cluster_id),
            program: row(header.machine).program,
            slots: header.slot_count,
            value_bytes: header.value_bytes,
            node: header.node.clone(),
            begun_ms: header.begun_ms,
            full: header.is_full(),
            since: header.since.get(),
            base: (header.base != 0).then(|| format!("{:032x}", header.base)),
            exact_from: end.exact_from.get(),
            index: end.last.index,
            term: end.last.term.get(),
            images: end.image_count,
            entries: end.entry_count,
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("invariant: numbers and strings have a JSON form") + "\n"
    }
}

/// A backup in words, without its end.
fn what_of(header: &BackupHeader) -> String {
    let content = match header.machine {
        MachineKind::Slots => {
            format!("{} slots of {} bytes", header.slot_count, header.value_bytes)
        }
        MachineKind::Memory | MachineKind::Journal => "keys of kvstore".to_owned(),
    };
    let kind = match header.since.get() {
        0 => "full".to_owned(),
        since => format!("incremental (since index {since})"),
    };
    format!("{kind} backup of {content}, by {}", header.node)
}

fn words(summary: &BackupSummary, bytes: u64) -> String {
    let BackupSummary { header, end } = summary;
    let indexes = match (end.exact_from.get(), end.last.index) {
        (from, end) if from == end => format!("index {end}"),
        (from, end) => format!("index {end} (and each from {from} on)"),
    };
    let (images, entries) = (end.image_count, end.entry_count);
    let what = if header.slot_count > 0 { "slots" } else { "keys" };
    format!(
        "{}: {images} {what} and {entries} entries, {bytes} bytes, the state at {indexes}",
        what_of(header)
    )
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), ArchiveError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(local("printing"))
}

fn run_backup(flags: &BackupFlags, out: &mut dyn Write) -> Result<(), ArchiveError> {
    if let Some((word, files)) = flags.words.split_first() {
        let paths: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        if word != VERIFY || paths.is_empty() || flags.output.is_some() || flags.since.is_some() {
            let usage =
                "diskstore backup -o FILE [-since FILE], or: diskstore backup verify FILE...";
            return Err(ArchiveError::Usage(format!("write {usage}")));
        }
        return verify(&paths, flags.form.json, out);
    }
    let Some(output) = &flags.output else {
        let what = "give -o FILE, where the backup is to be written (- for the standard output)";
        return Err(ArchiveError::Usage(what.to_owned()));
    };
    let base = flags.since.as_deref().map(files::base).transpose()?.unwrap_or_default();
    if output == Path::new(STDOUT) {
        let fetched = fetch::fetch(&flags.servers, base, out)?;
        return print(&mut io::stderr(), &told(flags.form.json, "", &fetched));
    }
    let fetched = write_file(output, |file| fetch::fetch(&flags.servers, base, file))?;
    print(out, &told(flags.form.json, &output.display().to_string(), &fetched))
}

/// What is said of a backup that was taken.
fn told(as_json: bool, file: &str, fetched: &Fetched) -> String {
    let Fetched { summary, bytes, .. } = fetched;
    if as_json {
        return About::new(file, *bytes, summary).json();
    }
    let time = format!("in {:.1?}", fetched.elapsed);
    let place = if file.is_empty() { String::new() } else { format!("{file}: ") };
    format!("{place}{}, {time}\n", words(summary, *bytes))
}

/// Has a file written by `write`, which only whoever may read the store can read (I1).
fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<Fetched, ArchiveError>,
) -> Result<Fetched, ArchiveError> {
    check_free(path)?;
    let mut part = path.as_os_str().to_owned();
    part.push(PART_SUFFIX);
    let part = PathBuf::from(part);
    let making = || local(format!("making {}", part.display()));
    let opened =
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&part);
    let mut file = opened.map_err(making())?;
    if file.try_lock().is_err() {
        let what = "another backup is being written there";
        return Err(ArchiveError::Taken { path: part, what });
    }
    check_free(path)?; // what was opened is that file, if another backup was finished meanwhile
    if file.metadata().is_ok_and(|about| about.is_file()) {
        file.set_len(0).map_err(making())?; // an interrupted one has left it
    }
    let written = write(&mut file).and_then(|fetched| {
        keep(&file, &part, path)?;
        Ok(fetched)
    });
    if written.is_err() {
        // The error that matters is the one that led here.
        drop(std::fs::remove_file(&part));
    }
    written
}

fn check_free(path: &Path) -> Result<(), ArchiveError> {
    let what = "give a name that is free";
    if RealDisk::new().exists(path)? {
        return Err(ArchiveError::Taken { path: path.to_owned(), what });
    }
    Ok(())
}

fn keep(file: &File, part: &Path, path: &Path) -> Result<(), ArchiveError> {
    file.sync_all().map_err(local(format!("syncing {}", part.display())))?;
    let disk = RealDisk::new();
    disk.rename(part, path)?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    Ok(disk.sync_dir(parent.unwrap_or(Path::new(".")))?)
}

/// Reads files to their ends and says what is in each.
fn verify(paths: &[PathBuf], as_json: bool, out: &mut dyn Write) -> Result<(), ArchiveError> {
    let mut bad = 0;
    for path in paths {
        let shown = path.display();
        match files::check(path) {
            Ok(files::Checked { summary, bytes }) if as_json => {
                print(out, &About::new(&shown.to_string(), bytes, &summary).json())?;
            }
            Ok(files::Checked { summary, bytes }) => {
                print(out, &format!("{shown}: {}\n", words(&summary, bytes)))?;
            }
            Err(error) => {
                bad += 1;
                print(&mut io::stderr(), &format!("{}\n", crate::fault::chain(&error)))?;
            }
        }
    }
    if bad > 0 { Err(ArchiveError::Bad { count: bad }) } else { Ok(()) }
}

fn run_restore(flags: &RestoreFlags, out: &mut dyn Write) -> Result<(), ArchiveError> {
    let started = Instant::now();
    let wanted = restore::Wanted::new(flags)?;
    let checked = files::check_chain(&flags.files)?;
    wanted.check(&flags.files, &checked)?;
    if flags.check {
        for (path, files::Checked { summary, bytes }) in flags.files.iter().zip(&checked) {
            let shown = path.display().to_string();
            let text = if flags.form.json {
                About::new(&shown, *bytes, summary).json()
            } else {
                format!("{shown}: {}\n", words(summary, *bytes))
            };
            print(out, &text)?;
        }
        return Ok(());
    }
    let Some(directory) = &flags.data else {
        let what = "give -data DIR and -id NAME, the directory and the name of the new node";
        return Err(ArchiveError::Usage(what.to_owned()));
    };
    fresh::check_directory(directory)?;
    let restored = restore(&wanted.order(directory, &flags.files, &checked))?;
    let text = if flags.form.json {
        serde_json::to_string(&restored).expect("invariant: it has a JSON form") + "\n"
    } else {
        let Restored { directory, id, cluster_id, index, live, program, .. } = &restored;
        format!(
            "{directory}: node {id} of a new cluster, {cluster_id}, with the state at index {index} \
             ({live} values), in {:.1?}\nstart it with: {program} -id {id} -data {directory}\n",
            started.elapsed()
        )
    };
    print(out, &text)
}

fn run_recover(flags: &RecoverFlags, out: &mut dyn Write) -> Result<(), ArchiveError> {
    let target = match (flags.is_unsafe, &flags.out) {
        (false, None) if !flags.committed => None,
        (true, Some(directory)) => Some(directory),
        (true, None) => {
            let what = "-unsafe needs -out DIR, a new or empty directory for the new node; what is in \
                        -data stays as it is";
            return Err(ArchiveError::Usage(what.to_owned()));
        }
        (false, _) => {
            let what = "-out and -committed say what -unsafe makes; without it nothing is made";
            return Err(ArchiveError::Usage(what.to_owned()));
        }
    };
    target.map_or(Ok(()), |directory| fresh::check_directory(directory))?;
    let written = recover::last_written(&flags.data);
    let survivor = recover::Survivor::open(&Host::real(), flags)?;
    let survey = survivor.survey(written);
    if !flags.form.json {
        print(out, &survey.words())?;
    }
    let upto = if flags.committed { Upto::Committed } else { Upto::Last };
    let made = target.map(|directory| survivor.remake(directory, upto)).transpose()?;
    if flags.form.json {
        let told = Told { survey: &survey, made: made.as_ref() };
        let text = serde_json::to_string(&told).expect("invariant: it has a JSON form");
        return print(out, &(text + "\n"));
    }
    made.map_or(Ok(()), |made| print(out, &made.words(&survey)))
}

/// The kind of machine that a program of this name has.
fn kind_named(program: &str) -> MachineKind {
    let kinds = [MachineKind::Slots, MachineKind::Memory];
    let kind = kinds.into_iter().find(|kind| row(*kind).program == program);
    kind.unwrap_or(MachineKind::Slots)
}

/// A number of a flag, if it was given.
fn given(
    flag: &'static str,
    number: Option<&Number>,
    max: u64,
) -> Result<Option<u64>, ConfigError> {
    number.map(|number| crate::config::number(flag, number.clone(), 1, max)).transpose()
}

#[cfg(test)]
mod tests;
