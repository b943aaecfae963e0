//! Profiles of the running node in pprof's format: `-cpuprofile` and `-memprofile`. The program
//! starts them and writes them at a clean stop; nothing else calls this.
//!
//! - I1: Without the flags nothing is sampled. Heap sampling must be on when the allocator starts,
//!   so `-memprofile` starts the program anew with the allocator's variable set (same process
//!   id), instead of compiling it in and paying for it in every allocation of every run.
//! - I2: A path that cannot be written is an error at the start, not after a day of measuring.
//! - I3: A profile appears whole or not at all: written beside its place, synced, renamed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use pprof::protos::Message;

/// CPU samples a second; a prime, so that it beats with no timer.
const CPU_SAMPLES_PER_SECOND: i32 = 99;
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
    cpu: Option<(Pending, pprof::ProfilerGuard<'static>)>,
    heap: Option<Pending>,
}

impl Profiles {
    /// Begins to sample what was asked for. With a heap profile this may not return: the program
    /// starts anew, so call it before anything else is open or running.
    ///
    /// # Errors
    /// A path that cannot be written, a profiler that does not work here.
    pub fn start(cpu: Option<&Path>, heap: Option<&Path>) -> Result<Profiles, ProfileError> {
        let heap = heap.map(start_heap).transpose()?;
        let cpu = cpu.map(start_cpu).transpose()?;
        Ok(Profiles { cpu, heap })
    }

    /// Writes the profiles; after `Ok` they are complete under their names.
    ///
    /// # Errors
    /// A disk that is full or failing, an allocator that does not answer.
    pub fn finish(self) -> Result<(), ProfileError> {
        if let Some((pending, guard)) = self.cpu {
            let cpu_error = |source| ProfileError::Cpu { source };
            let report = guard.report().build().map_err(cpu_error)?;
            pending.write(&report.pprof().map_err(cpu_error)?.encode_to_vec())?;
        }
        if let Some(pending) = self.heap {
            pending.write(&heap_profile()?)?;
        }
        Ok(())
    }
}

fn start_cpu(path: &Path) -> Result<(Pending, pprof::ProfilerGuard<'static>), ProfileError> {
    let pending = Pending::create("cpuprofile", path)?;
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(CPU_SAMPLES_PER_SECOND)
        // Interrupted inside these, the walk up the stack could dead-lock.
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(|source| ProfileError::Cpu { source })?;
    Ok((pending, guard))
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

/// What the heap holds now, as a pprof profile compressed with gzip.
fn heap_profile() -> Result<Vec<u8>, ProfileError> {
    let reason = "it is in use".to_owned();
    let control = jemalloc_pprof::PROF_CTL.as_ref().map(|control| control.try_lock());
    let Some(Ok(mut control)) = control else { return Err(ProfileError::Heap { reason }) };
    control.dump_pprof().map_err(|error| ProfileError::Heap { reason: format!("{error:#}") })
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
    use super::*;

    #[test]
    fn a_cpu_profile_holds_samples_that_name_functions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpu.pb");
        let profiles = Profiles::start(Some(&path), None).unwrap();
        assert!(!path.exists());
        let report = || profiles.cpu.as_ref().unwrap().1.report().build().unwrap();
        let mut sum = 0_u64;
        while report().data.is_empty() {
            sum = (0..1_000_000).fold(sum, |sum, next| std::hint::black_box(sum ^ next));
        }
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
