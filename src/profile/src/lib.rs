//! Profiles of the running program in pprof's format: `-cpuprofile` and `-memprofile`. A program
//! starts them first of all and writes them at its end; SIGUSR1 begins a CPU profile, or ends the one
//! that runs, at any time between. `sampling` takes one as bytes, for whoever asks over the network.
//! Programs and `server` call it; it calls nothing of ours.
//!
//! - I1: Without the flags and the signal nothing is sampled. Heap sampling must be on when the
//!   allocator starts, so `-memprofile` starts the program anew with the allocator's variable set
//!   (same process id), instead of compiling it in and paying for it in every allocation of every run.
//! - I2: A path that cannot be written is an error at the start, not after a day of measuring.
//! - I3: A profile appears whole or not at all: written beside its place, synced, renamed.
//! - I4: No profile takes the place of another of the same run: the first goes to the flag's FILE,
//!   further ones to FILE.2, FILE.3 ...; without the flag to PROGRAM-PID-cpu.pb in the current folder.

mod sampling;

use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use sampling::{CpuSampling, heap_profile};

/// How long a word on stderr may take.
const TELL_TIME_MAX: Duration = Duration::from_secs(1);
/// The allocator's variable, and what switches on a sample about every 512 KiB.
const ALLOCATOR_VARIABLE: &str = "_RJEM_MALLOC_CONF";
const ALLOCATOR_SETTINGS: &str = "prof:true,prof_active:true,lg_prof_sample:19";

/// Why a profile cannot be taken or written.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be made or written.
    #[error("-{flag} {}: the profile cannot be written", path.display())]
    Write {
        /// The flag, without dashes.
        flag: &'static str,
        /// Where the profile was to go.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The CPU profiler refused.
    #[error("-cpuprofile: the profiler does not work here")]
    Cpu {
        /// Its reason.
        source: pprof::Error,
    },
    /// Another CPU profile of this process is being taken.
    #[error("a CPU profile is being taken already")]
    Running,
    /// The signals that begin and end profiles cannot be taken.
    #[error("signals for profiles cannot be taken")]
    Signals {
        /// The operating system's word.
        source: io::Error,
    },
    /// The program cannot be started anew with heap sampling.
    #[error("-memprofile: the program cannot be started with heap sampling")]
    Restart {
        /// The operating system's word.
        source: io::Error,
    },
    /// The allocator did not take its variable, or could not tell what it holds.
    #[error("-memprofile: the allocator takes no heap profile: {reason}")]
    Heap {
        /// Its reason.
        reason: String,
    },
}

/// The profiles of this run.
#[expect(missing_debug_implementations, reason = "the profiler's guard has none")]
pub struct Profiles {
    state: Arc<Mutex<State>>,
}

struct State {
    cpu: Option<RunningCpu>,
    heap: Option<Pending>,
    /// Where the first CPU profile goes.
    cpu_path: PathBuf,
    /// How many CPU profiles were begun.
    cpu_count: u32,
    is_finished: bool,
}

struct RunningCpu {
    pending: Pending,
    sampling: CpuSampling,
}

impl Profiles {
    /// Begins to sample what was asked for, and to listen to SIGUSR1. With a heap profile this may
    /// not return: the program starts anew, so call it before anything else is open or running.
    ///
    /// # Errors
    /// A path that cannot be written, a profiler that does not work here.
    pub fn start(cpu: Option<&Path>, heap: Option<&Path>) -> Result<Profiles, ProfileError> {
        let heap = heap.map(start_heap).transpose()?;
        let cpu_path = cpu.map_or_else(unasked_path, Path::to_owned);
        let mut state = State { cpu: None, heap, cpu_path, cpu_count: 0, is_finished: false };
        if cpu.is_some() {
            state.begin_cpu()?;
        }
        let profiles = Profiles { state: Arc::new(Mutex::new(state)) };
        let state = profiles.state.clone();
        listen(&[SignalKind::user_defined1()], move |_| state.lock().toggle_cpu())?;
        Ok(profiles)
    }

    /// Has SIGINT, SIGTERM and SIGQUIT write the profiles and end the program, with the exit code of a program
    /// that such a signal has ended: for one that does not take them itself.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish_at_signals(&self) -> Result<(), ProfileError> {
        let state = self.state.clone();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
        listen(&kinds, move |signal| {
            if let Err(error) = state.lock().finish() {
                tell(&chain(&error));
            }
            std::process::exit(128 + signal.as_raw_value());
        })
    }

    /// Writes the profiles; after `Ok` they are complete under their names.
    ///
    /// # Errors
    /// A disk that is full or failing, an allocator that does not answer.
    pub fn finish(self) -> Result<(), ProfileError> {
        self.state.lock().finish()
    }
}

impl State {
    fn begin_cpu(&mut self) -> Result<(), ProfileError> {
        let count = self.cpu_count + 1;
        let mut path = self.cpu_path.clone().into_os_string();
        if count > 1 {
            path.push(format!(".{count}")); // I4
        }
        self.cpu = Some(RunningCpu::start(Path::new(&path))?);
        self.cpu_count = count;
        Ok(())
    }

    /// What SIGUSR1 does.
    fn toggle_cpu(&mut self) {
        let done = match self.cpu.take() {
            _ if self.is_finished => return,
            Some(running) => {
                let path = running.pending.path.clone();
                running.write().map(|()| format!("CPU profile written to {}", path.display()))
            }
            None => self.begin_cpu().map(|()| "CPU profile begun, SIGUSR1 ends it".to_owned()),
        };
        tell(&done.unwrap_or_else(|error| chain(&error)));
    }

    fn finish(&mut self) -> Result<(), ProfileError> {
        self.is_finished = true;
        if let Some(running) = self.cpu.take() {
            running.write()?;
        }
        if let Some(pending) = self.heap.take() {
            let reason = || "it does not sample".to_owned();
            let profile = heap_profile()?.ok_or_else(|| ProfileError::Heap { reason: reason() })?;
            pending.write(&profile)?;
        }
        Ok(())
    }
}

impl RunningCpu {
    fn start(path: &Path) -> Result<RunningCpu, ProfileError> {
        let pending = Pending::create("cpuprofile", path)?;
        Ok(RunningCpu { pending, sampling: CpuSampling::begin()? })
    }

    fn write(self) -> Result<(), ProfileError> {
        self.pending.write(&self.sampling.pprof()?)
    }
}

/// Where a CPU profile goes that only a signal asked for.
fn unasked_path() -> PathBuf {
    PathBuf::from(format!("{}-{}-cpu.pb", program(), std::process::id()))
}

/// The name of this program.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Calls `react` with every signal of these kinds, on a thread of its own that ends with the process.
fn listen(
    kinds: &[SignalKind],
    react: impl Fn(SignalKind) + Send + 'static,
) -> Result<(), ProfileError> {
    let signals_error = |source| ProfileError::Signals { source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(signals_error)?;
    let entered = runtime.enter();
    let signals: io::Result<Vec<(SignalKind, Signal)>> =
        kinds.iter().map(|kind| Ok((*kind, signal(*kind)?))).collect();
    let mut signals = signals.map_err(signals_error)?;
    drop(entered);
    let wait = move || {
        runtime.block_on(async {
            loop {
                let arrivals = signals.iter_mut().map(|(kind, signal)| {
                    Box::pin(async {
                        signal.recv().await;
                        *kind
                    })
                });
                react(futures_util::future::select_all(arrivals).await.0);
            }
        });
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(signals_error)
}

/// An error with its causes, outermost first, in one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Says on stderr what became of a profile; that nobody reads it is no reason to fail, nor to wait
/// for long: a program may be about to end.
fn tell(text: &str) {
    let line = format!("{}: {text}\n", program());
    let (said, is_said) = std::sync::mpsc::channel::<Infallible>();
    let saying = std::thread::Builder::new().name("last-words".into()).spawn(move || {
        drop(io::stderr().write_all(line.as_bytes()));
        drop(said); // whoever waits sees that it is gone
    });
    if saying.is_ok()
        && let Ok(never) = is_said.recv_timeout(TELL_TIME_MAX)
    {
        match never {}
    }
}

fn start_heap(path: &Path) -> Result<Pending, ProfileError> {
    let pending = Pending::create("memprofile", path)?;
    if jemalloc_pprof::PROF_CTL.is_some() {
        return Ok(pending);
    }
    let given = std::env::var_os(ALLOCATOR_VARIABLE).unwrap_or_default();
    if given.to_string_lossy().ends_with(ALLOCATOR_SETTINGS) {
        let reason = format!("{ALLOCATOR_VARIABLE} is set and had no effect");
        return Err(ProfileError::Heap { reason });
    }
    let source = start_anew(with_sampling(given));
    Err(ProfileError::Restart { source })
}

/// What the variable holds already stays in force.
fn with_sampling(mut given: OsString) -> OsString {
    if !given.is_empty() {
        given.push(",");
    }
    given.push(ALLOCATOR_SETTINGS);
    given
}

/// Replaces this program by itself; returns only if that fails.
fn start_anew(allocator_settings: OsString) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(ALLOCATOR_VARIABLE, allocator_settings).exec()
}

/// A profile that is not there yet: an open file beside its place.
struct Pending {
    flag: &'static str,
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Pending {
    fn create(flag: &'static str, path: &Path) -> Result<Pending, ProfileError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let (path, temporary) = (path.to_owned(), PathBuf::from(temporary));
        let made = if path.is_dir() {
            Err(io::Error::from(io::ErrorKind::IsADirectory))
        } else {
            File::create(&temporary)
        };
        match made {
            Ok(file) => Ok(Pending { flag, path, temporary, file }),
            Err(source) => Err(ProfileError::Write { flag, path, source }),
        }
    }

    fn write(mut self, bytes: &[u8]) -> Result<(), ProfileError> {
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(|source| ProfileError::Write { flag: self.flag, path: self.path, source })
    }
}

#[cfg(test)]
mod tests {
    use pprof::protos::Message;

    use super::*;

    #[test]
    fn a_cpu_profile_holds_samples_that_name_functions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpu.pb");
        let profiles = Profiles::start(Some(&path), None).unwrap();
        assert!(!path.exists());
        let is_empty = || {
            let state = profiles.state.lock();
            state.cpu.as_ref().unwrap().sampling.report().unwrap().data.is_empty()
        };
        let mut sum = 0_u64;
        while is_empty() {
            sum = (0..1_000_000).fold(sum, |sum, next| std::hint::black_box(sum ^ next));
        }
        // One at a time, whoever takes it.
        assert!(matches!(CpuSampling::begin().err(), Some(ProfileError::Running)));
        let picture = profiles.state.lock().cpu.as_ref().unwrap().sampling.flamegraph().unwrap();
        assert!(picture.starts_with(b"<?xml") && picture.trim_ascii_end().ends_with(b"</svg>"));
        profiles.finish().unwrap();
        let profile = pprof::protos::Profile::decode(&*std::fs::read(&path).unwrap()).unwrap();
        let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
        let types: Vec<_> = profile.sample_type.iter().map(|kind| text(kind.ty)).collect();
        assert_eq!(types, ["samples", "cpu"]);
        assert!(!profile.sample.is_empty());
        assert!(profile.function.iter().any(|function| !text(function.name).is_empty()));
        let locations: Vec<u64> = profile.location.iter().map(|location| location.id).collect();
        let sampled = profile.sample.iter().flat_map(|sample| &sample.location_id);
        assert!(sampled.into_iter().all(|id| locations.contains(id)));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), PathBuf::from("/nowhere/cpu.pb")] {
            let error = Profiles::start(Some(&path), None).err().unwrap();
            assert!(matches!(error, ProfileError::Write { flag: "cpuprofile", .. }), "{error}");
            let error = Profiles::start(None, Some(&path)).err().unwrap();
            assert!(matches!(error, ProfileError::Write { flag: "memprofile", .. }), "{error}");
        }
    }

    #[test]
    fn allocator_settings_of_the_user_stay_in_force() {
        assert_eq!(with_sampling(OsString::new()), ALLOCATOR_SETTINGS);
        let both = with_sampling("narenas:1".into());
        assert_eq!(both, OsString::from(format!("narenas:1,{ALLOCATOR_SETTINGS}")));
    }
}
