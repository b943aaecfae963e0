//! Profiles as bytes: what `lib.rs` writes to files, and what a program hands out over the network.
//!
//! - I1: One CPU profile at a time in the process, whoever asked for it: the timer and its signal
//!   belong to the whole process.

use super::ProfileError;
use pprof::protos::Message;

/// CPU samples a second; a prime, so that it beats with no timer.
const CPU_SAMPLES_PER_SECOND: i32 = 99;

/// A CPU profile that is being taken. It ends when this is dropped.
#[expect(missing_debug_implementations, reason = "the profiler's guard has none")]
pub struct CpuSampling {
    guard: pprof::ProfilerGuard<'static>,
}

impl CpuSampling {
    /// Begins to sample this process.
    ///
    /// # Errors
    /// [`ProfileError::Running`] while another profile is taken; a profiler that does not work here.
    pub fn begin() -> Result<CpuSampling, ProfileError> {
        let guard = pprof::ProfilerGuardBuilder::default()
            .frequency(CPU_SAMPLES_PER_SECOND)
            // Interrupted inside these, the walk up the stack could dead-lock. System calls of libc
            // and copies of bytes are there too: what they cost is in no sample.
            .blocklist(&["libc", "libgcc", "pthread", "vdso"])
            .build();
        match guard {
            Ok(guard) => Ok(CpuSampling { guard }),
            Err(pprof::Error::Running) => Err(ProfileError::Running), // I1
            Err(source) => Err(ProfileError::Cpu { source }),
        }
    }

    /// The samples so far in pprof's format, uncompressed. Finding the names of functions takes a
    /// while: not for a thread that others wait for.
    ///
    /// # Errors
    /// The profiler does not work here.
    pub fn pprof(&self) -> Result<Vec<u8>, ProfileError> {
        let cpu_error = |source| ProfileError::Cpu { source };
        let profile = self.report()?.pprof().map_err(cpu_error)?;
        Ok(profile.encode_to_vec())
    }

    /// The samples so far as a picture, in SVG; empty if there are none. As slow as
    /// [`CpuSampling::pprof`].
    ///
    /// # Errors
    /// The profiler does not work here.
    pub fn flamegraph(&self) -> Result<Vec<u8>, ProfileError> {
        let report = self.report()?;
        let mut picture = Vec::new();
        if !report.data.is_empty() {
            report.flamegraph(&mut picture).map_err(|source| ProfileError::Cpu { source })?;
        }
        Ok(picture)
    }

    pub(super) fn report(&self) -> Result<pprof::Report, ProfileError> {
        self.guard.report().build().map_err(|source| ProfileError::Cpu { source })
    }
}

/// What the heap holds now, as a pprof profile compressed with gzip; `None` unless the allocator has
/// sampled since the start, which is what `-memprofile` has it do. Slow.
///
/// # Errors
/// The allocator does not answer.
pub fn heap_profile() -> Result<Option<Vec<u8>>, ProfileError> {
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else { return Ok(None) };
    let heap_error = |reason| ProfileError::Heap { reason };
    let mut control = control.try_lock().map_err(|_| heap_error("it is in use".to_owned()))?;
    let dumped = control.dump_pprof();
    dumped.map(Some).map_err(|error| heap_error(format!("{error:#}")))
}
