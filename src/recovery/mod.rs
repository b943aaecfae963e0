//! The `recovery` program: fetches the records of a logger or a node, installs them into slots or
//! keys, and prints how long both took. `src/bin/recovery.rs` calls [`run`]; it calls `oplog` and
//! `storage`.
//!
//! - I1: the directory of `-data` appears under its name only when everything is in it and synced.
//! - I2: the four lines are the original's, in its order.

mod compare;
mod fetch;
mod install;
mod store;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser;
use diskstore_storage::disk::{Disk, RealDisk};
use diskstore_storage::keys::VALUE_BYTES_MAX as KEY_VALUE_BYTES_MAX;
use diskstore_storage::slots::Geometry;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::Number;
use crate::config::{
    Address, ConfigError, SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX, VALUE_BYTES_DEFAULT, VALUE_BYTES_MAX,
    number,
};
use crate::oplog::Parts;
use crate::tls::{Credentials, Mode, TlsError};
pub use compare::{CompareError, Compared, Join};
pub use fetch::{FetchError, Fetched, Sources, fetch};
pub use install::{InstallError, Installed, install};
use store::Content;
pub use store::Store;

/// Most sources that `-recov` may name.
const SOURCE_COUNT_MAX: usize = 64;
/// Most seconds of `-after`.
const AFTER_MAX: Duration = Duration::from_hours(24);

/// What was typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "recovery",
    version,
    about = "Fetches what a logger or a node recorded (-hrecov), installs it into slots, and prints\n\
             how long that took.",
    after_help = "With several addresses the next one is asked where one breaks off.",
    args_override_self = true
)]
pub struct Flags {
    /// Where to fetch: the -hrecov of a logger or a node; several with commas.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "file", conflicts_with = "file")]
    pub recov: Option<String>,
    /// Installs from this log file, and those that follow it, instead.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Waits before it begins, such as 30 (seconds) or 1m30s.
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true,
          value_parser = diskstore_flags::parse_duration)]
    pub after: Duration,
    /// Log index to begin with [default: 1].
    #[arg(long, value_name = "INDEX")]
    pub from: Option<Number>,
    /// The program whose commands were recorded: diskstore, or kvstore, whose keys are kept in memory
    /// and know no -slots.
    #[arg(long, value_name = "NAME", default_value = "diskstore",
          value_parser = ["diskstore", "kvstore"])]
    pub program: String,
    /// Number of slots [default: 1048576].
    #[arg(long, value_name = "N")]
    pub slots: Option<Number>,
    /// Most bytes that a slot holds [default: 1024], or a key of kvstore [default: 1048576].
    #[arg(long, value_name = "BYTES")]
    pub value_size: Option<Number>,
    /// Keeps the slots in DIR, which is not there yet; otherwise they are removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Joins the cluster at -join too, as a learner: without files, and again over its files; then it
    /// leaves. Prints how long both took.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          requires_if("true", "join"))]
    pub compare: bool,
    /// A member of the cluster that -compare joins (its -hjoin or -raft).
    #[arg(long, value_name = "ADDRESS", requires = "compare")]
    pub join: Option<String>,
    /// Where the members reach the one that joins [default: a free port of 127.0.0.1].
    #[arg(long, value_name = "ADDRESS", requires = "compare")]
    pub raft: Option<String>,
    /// How long the member of -compare is away, while the cluster goes on, such as 30 or 1m30s.
    #[arg(long, value_name = "TIME", default_value = "2s",
          value_parser = diskstore_flags::parse_duration)]
    pub pause: Duration,
    /// Allows a -raft address beyond this machine.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true)]
    pub insecure: bool,
    /// Speaks TLS with the certificates in DIR: ca.crt, and a member's tls.crt and tls.key, whose name the
    /// member of -compare takes.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Prints a line of JSON too.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true)]
    pub json: bool,
    /// Writes a CPU profile (pprof) at the end.
    #[arg(long, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at the end.
    #[arg(long, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
}

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Wrong usage.
    #[error(transparent)]
    Usage(#[from] ConfigError),
    /// A time that nobody waits for.
    #[error("-after and -pause: at most {} h", AFTER_MAX.as_secs() / 3600)]
    After,
    /// The directory is in the way.
    #[error("-data {}: it is there already; give a name that is free", .0.display())]
    Taken(PathBuf),
    /// Nothing to install.
    #[error("-file {}: {source}", path.display())]
    File {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The source.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The log.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Joining as a member.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The slots.
    #[error(transparent)]
    Storage(#[from] diskstore_storage::Error),
    /// Something on this machine failed.
    #[error("{what} failed")]
    Local {
        /// What was tried.
        what: String,
        /// The operating system's word.
        source: io::Error,
    },
}

impl RecoveryError {
    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            RecoveryError::Usage(_)
            | RecoveryError::Compare(CompareError::Config(_) | CompareError::Unreachable)
            | RecoveryError::After
            | RecoveryError::Tls(_)
            | RecoveryError::Taken(_) => 2,
            RecoveryError::Fetch(FetchError::Interrupted)
            | RecoveryError::Install(InstallError::Interrupted)
            | RecoveryError::Compare(CompareError::Interrupted) => 130,
            _ => 1,
        }
    }
}

/// What came of a recovery.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// From the first connection to the last byte, in ns; 0 from a file.
    pub transfer_ns: u64,
    /// From the first record to the last, in ns.
    pub install_ns: u64,
    /// Bytes of the records.
    pub state_bytes: u64,
    /// Commands.
    pub commands: u64,
    /// Highest log index.
    pub last_index: u64,
    /// Slots, or keys, that hold a value now.
    pub live_slots: u64,
    /// How often a source was asked again.
    pub resumed: u32,
    /// Making the slots of `-data` durable, in ns; 0 without.
    pub sync_ns: u64,
    /// Joining as a member instead, with `-compare`.
    #[serde(flatten)]
    pub compared: Option<Compared>,
}

impl Report {
    /// The lines that scripts of the original read (I2), and behind them those of `-compare`.
    pub fn lines(&self) -> String {
        let mut text = format!(
            "Transfer Time (ns): {}\nInstall Time (ns): {}\nState Size (bytes): {}\n\
             Num of Commands: {}\n",
            self.transfer_ns, self.install_ns, self.state_bytes, self.commands
        );
        text.extend(self.compared.iter().map(Compared::lines));
        text
    }
}

/// Recovers and prints the report. `stop` may be raised at any time.
///
/// # Errors
/// See [`RecoveryError`]; nothing stays behind.
pub fn run(flags: &Flags, stop: &AtomicBool, out: &mut dyn Write) -> Result<(), RecoveryError> {
    let wanted = Wanted::new(flags)?;
    let plan = compare::Plan::new(flags)?;
    std::thread::sleep(flags.after);
    let mut report = recover(flags, &wanted, stop)?;
    if let Some(plan) = plan {
        let work = Work::create(None)?;
        report.compared = Some(plan.run(&work.path, stop)?);
    }
    print(&report, flags.json, out).map_err(local("printing"))
}

/// Fetches and installs.
fn recover(flags: &Flags, wanted: &Wanted, stop: &AtomicBool) -> Result<Report, RecoveryError> {
    let work = Work::create(flags.data.as_deref())?;
    let spool = work.path.join("fetched.log");
    let (mut fetched, mut transfer_time) = (Fetched::default(), Duration::ZERO);
    if flags.file.is_none() {
        (fetched, transfer_time) = fetch_all(wanted, &spool, stop)?;
    }
    let file = flags.file.as_deref().unwrap_or(&spool);
    let parts = Parts::beginning_with(Arc::new(RealDisk::new()), file);
    let store = Store::create(wanted.content, &work.path)?;
    let bar = bar("installing", size_of(&parts, flags.file.as_deref())?);
    let begun = Instant::now();
    let installed =
        install(&parts, wanted.first, &store, stop, &mut |bytes| bar.set_position(bytes))?;
    let install_time = begun.elapsed();
    bar.finish_and_clear();
    if installed.torn_bytes > 0 {
        tracing::warn!(bytes = installed.torn_bytes, "the log ends in an unfinished entry");
    }
    let live_slots = store.live_count();
    let begun = Instant::now();
    if let Some(directory) = &flags.data {
        store.keep(installed.last_index)?;
        drop(store);
        remove_spool(&spool)?;
        work.keep_as(directory)?;
    }
    let sync_time = if flags.data.is_some() { begun.elapsed() } else { Duration::ZERO };
    Ok(Report {
        transfer_ns: nanoseconds(transfer_time),
        install_ns: nanoseconds(install_time),
        state_bytes: installed.bytes,
        commands: installed.commands,
        last_index: installed.last_index,
        live_slots,
        resumed: fetched.resumed,
        sync_ns: nanoseconds(sync_time),
        compared: None,
    })
}

fn print(report: &Report, as_json_too: bool, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(report.lines().as_bytes())?;
    if as_json_too {
        serde_json::to_writer(&mut *out, report)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn local(what: &str) -> impl FnOnce(io::Error) -> RecoveryError {
    let what = what.to_owned();
    move |source| RecoveryError::Local { what, source }
}

/// Flags that were checked.
struct Wanted {
    sources: Vec<String>,
    tls: Option<Credentials>,
    first: u64,
    content: Content,
}

impl Wanted {
    fn new(flags: &Flags) -> Result<Wanted, RecoveryError> {
        if flags.after.max(flags.pause) > AFTER_MAX {
            return Err(RecoveryError::After);
        }
        let given = |flag, value: &Option<Number>, default, max| match value {
            Some(text) => number(flag, text.clone(), 1, max),
            None => Ok(default),
        };
        let first = given("from", &flags.from, 1, u64::MAX)?;
        let slot_count = given("slots", &flags.slots, SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX)?;
        let is_kvstore = flags.program == "kvstore";
        let (default, max) = if is_kvstore {
            (KEY_VALUE_BYTES_MAX, KEY_VALUE_BYTES_MAX)
        } else {
            (VALUE_BYTES_DEFAULT, VALUE_BYTES_MAX)
        };
        let value_bytes =
            given("value-size", &flags.value_size, u64::from(default), u64::from(max))?;
        let value_bytes = u32::try_from(value_bytes).unwrap_or(max);
        let content = if is_kvstore {
            Content::Keys { value_bytes }
        } else {
            Content::Slots(Geometry::new(slot_count, value_bytes)?)
        };
        let sources: Vec<&str> = flags.recov.iter().flat_map(|list| list.split(',')).collect();
        if sources.len() > SOURCE_COUNT_MAX {
            let value = flags.recov.clone().unwrap_or_default();
            let list = ConfigError::List { flag: "recov", value, max: SOURCE_COUNT_MAX };
            return Err(list.into());
        }
        let address = |text: &&str| match Address::parse(text) {
            Ok(address) => Ok(address.to_string()),
            Err(reason) => {
                let value = (*text).to_owned();
                Err(ConfigError::Address { flag: "recov", value, reason })
            }
        };
        let sources = sources.iter().map(address).collect::<Result<_, _>>()?;
        let tls = flags.tls.as_deref().map(|directory| Credentials::read(directory, Mode::Require));
        let tls = tls.transpose()?;
        Ok(Wanted { sources, tls, first, content })
    }
}

fn fetch_all(
    wanted: &Wanted,
    spool: &Path,
    stop: &AtomicBool,
) -> Result<(Fetched, Duration), RecoveryError> {
    let mut file = File::create_new(spool).map_err(local("making a temporary file"))?;
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("fetching {bytes}, {bytes_per_sec}")
            .expect("invariant: the template is a constant"),
    );
    let begun = Instant::now();
    let sources = Sources { addresses: &wanted.sources, tls: wanted.tls.as_ref() };
    let fetched = fetch(sources, wanted.first, &mut file, stop, &mut |bytes| {
        bar.set_position(bytes);
    })?;
    bar.finish_and_clear();
    Ok((fetched, begun.elapsed()))
}

/// Bytes of all files of a log.
fn size_of(parts: &Parts, file: Option<&Path>) -> Result<u64, RecoveryError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| RecoveryError::File {
        path: file.unwrap_or(Path::new("")).to_owned(),
        source,
    };
    let count = parts.count().map_err(|error| failed(error.into()))?;
    let sizes = (1..=count.max(1)).map(|nth| fs::metadata(parts.path(nth)).map(|file| file.len()));
    sizes.sum::<io::Result<u64>>().map_err(|error| failed(error.into()))
}

fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let template = "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .expect("invariant: the template is a constant")
        .progress_chars("=> ");
    ProgressBar::new(bytes).with_style(style).with_message(what)
}

fn remove_spool(spool: &Path) -> Result<(), RecoveryError> {
    match fs::remove_file(spool) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(local("removing the temporary file")(error))
        }
        _ => Ok(()),
    }
}

/// The directory that is worked in; removed unless it is kept.
struct Work {
    path: PathBuf,
    is_kept: bool,
}

impl Work {
    fn create(data: Option<&Path>) -> Result<Work, RecoveryError> {
        let process = std::process::id();
        let path = match data {
            Some(data) if data.exists() => return Err(RecoveryError::Taken(data.to_owned())),
            Some(data) => {
                let mut name = data.as_os_str().to_owned();
                name.push(format!(".unfinished-{process}"));
                PathBuf::from(name)
            }
            None => std::env::temp_dir().join(format!("recovery-{process}")),
        };
        let what = format!("making the directory {}", path.display());
        fs::create_dir(&path).map_err(local(&what))?;
        Ok(Work { path, is_kept: false })
    }

    /// Gives the directory its name (I1).
    fn keep_as(mut self, data: &Path) -> Result<(), RecoveryError> {
        let disk = RealDisk::new();
        disk.sync_dir(&self.path)?;
        fs::rename(&self.path, data).map_err(local("naming the directory"))?;
        self.is_kept = true;
        let parent = data.parent().filter(|parent| *parent != Path::new(""));
        Ok(disk.sync_dir(parent.unwrap_or(Path::new(".")))?)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a temporary directory stays");
        }
    }
}

#[cfg(test)]
mod tests;
