//! The body that the programs share: runs a node from its configuration to its exit code, and sets
//! up signals, logging and the terminal for every program.
//!
//! Called by `main.rs` and `bin/`; calls everything. Exit codes: 0 a clean stop, 2 wrong usage, 130
//! a second signal while stopping, a node's own code when it had to stop, 1 everything else.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::banner;
use crate::config::{Address, Config, LogFormat, LogLevel};
use crate::descriptors::{self, DESCRIPTOR_COUNT_MIN, DESCRIPTOR_COUNT_WANTED};
use crate::fault::{self, Fault};
use crate::host::{Clock, Host, Listener};
use crate::lines::{self, Said};
use crate::node::{self, Node, StartError};
use crate::profile::Profiles;
use crate::progress::Progress;
use crate::raft::CLEAN_STOP_TARGETS;
use crate::server::{Access, START_PATIENCE, Server, tell_starting};
use crate::throughput::ThroughputFile;
use crate::tls::{self, Tls, TlsError};

/// Exit code of wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// Exit code after a second signal.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;
/// How long blocking work may go on after the node has stopped.
pub(crate) const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1);
/// How often, and how many times at most, a new node looks for its leader before it introduces
/// itself without one: five seconds, longer than an election.
const ROLE_POLL: Duration = Duration::from_millis(20);
const ROLE_POLLS_MAX: u32 = 250;
/// Most processors on which one thread runs all sessions: the log and the slots have threads of
/// their own, and on few processors a second one for sessions costs more than it brings.
const SINGLE_THREAD_PROCESSORS_MAX: usize = 4;
/// How often new certificates are looked for.
const CERTIFICATES_PAUSE: Duration = Duration::from_secs(10);
/// From so few days on an operator is told when a certificate ends.
const CERTIFICATE_DAYS_FEW: i64 = 14;

/// True once lines on stderr are JSON, those of [`tell`] too.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// A failure, with what the program exits with.
pub type Failed = (u8, Box<dyn Error>);

/// What a program's `main` ends with: a failure is told on stderr, and what was said before is
/// written, within a bound.
pub fn exit(name: &str, outcome: Result<ExitCode, Failed>) -> ExitCode {
    let exit_code = outcome.unwrap_or_else(|(exit_code, error)| {
        tell(&format!("{name}: {}\n", fault::chain(error.as_ref())));
        ExitCode::from(exit_code)
    });
    #[cfg(feature = "otel")]
    crate::traces::finish();
    lines::flush();
    exit_code
}

/// Runs a node until it stops, and writes its profiles.
///
/// # Errors
/// Why it did not start or stop as it should, with the exit code.
pub fn run_node(config: Config) -> Result<ExitCode, Failed> {
    let profiles = Profiles::start(config.cpu_profile.as_deref(), config.mem_profile.as_deref())
        .map_err(failed)?;
    start_logging(config.log_level, config.log_format);
    prepare_descriptors(1).map_err(failed)?;
    diskstore_storage::disk::report_bus_errors().map_err(failed)?;
    say(&banner::head(&config));
    let runtime = runtime().map_err(failed)?;
    let outcome = runtime.block_on(serve(config));
    // What is left is blocking work that an early signal or a fault has made pointless.
    runtime.shutdown_timeout(SHUTDOWN_TIME_MAX);
    let exit_code = outcome?;
    if exit_code == 0 {
        profiles.finish().map_err(failed)?;
    }
    Ok(ExitCode::from(exit_code))
}

/// Raises the limit of open files to what so many nodes of this process want, as far as the system
/// allows, and divides it among them.
///
/// # Errors
/// They would have too few to run with.
pub(crate) fn prepare_descriptors(nodes: usize) -> Result<(), String> {
    let wanted = (DESCRIPTOR_COUNT_WANTED * nodes) as u64;
    let allowed = match crate::load::raise_descriptor_limit(wanted) {
        Ok(allowed) => allowed,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            return Ok(());
        }
    };
    descriptors::divide_among(nodes);
    let needed = (DESCRIPTOR_COUNT_MIN * nodes) as u64;
    if allowed < needed {
        return Err(format!(
            "the system allows {allowed} open files, and at least {needed} are needed: raise the \
             limit (ulimit -Hn)"
        ));
    }
    Ok(())
}

async fn serve(config: Config) -> Result<u8, Failed> {
    let program = config.program();
    // Before the node opens its files, so that neither a taken port nor an early Ctrl-C costs a
    // recovery.
    let mut signals = Signals::new().map_err(failed)?;
    let host = host_of(&config).map_err(failed)?;
    let _certificates = keep_certificates(&host);
    let access = access(&config, &host)?;
    let mut reloads = Reloads::new().map_err(failed)?;
    let listener = listen(&host, &config.client_address).await.map_err(failed)?;
    let throughput = config.throughput_folder.as_deref();
    let throughput = throughput.map(|folder| ThroughputFile::open(folder, &config.id));
    let throughput = throughput.transpose().map_err(failed)?;
    let mut progress = Progress::new();
    let report = Box::new(move |done, all| progress.report(done, all));
    let node = tokio::select! {
        started = node::start(&host, config.clone(), report) => {
            started.map_err(|error| (error.exit_code(), error.into()))?
        }
        () = signals.next() => return Ok(0),
        never = tell_starting(&listener, host.net.tls(), START_PATIENCE) => match never {},
    };
    node.lock_until_exit();
    let recording = throughput.map(|file| file.record(node.successes()));
    let _recording = recording.transpose().map_err(failed)?;
    let (stop, stopping) = watch::channel(false);
    let server = Server::new(Arc::clone(&node), &config.key_prefixes, Arc::clone(&access));
    let mut sessions = std::pin::pin!(server.run(listener, stopping));
    notify(NotifyState::Ready);
    tokio::select! {
        fault = node.wait_fault() => return Ok(told(program, &fault)),
        never = introduce(&node) => match never {},
        never = reloads.reload(&access) => match never {},
        () = signals.next() => stop_at_second(program, signals),
        () = &mut sessions => unreachable!("sessions end only when they are told to"),
    }
    notify(NotifyState::Stopping);
    // Clients first, so that nobody is told of a leader that has gone.
    stop.send_replace(true);
    let stopped = async {
        sessions.await;
        node.stop().await;
    };
    tokio::select! {
        fault = node.wait_fault() => Ok(told(program, &fault)),
        () = stopped => Ok(0),
    }
}

/// Who may do what at the client port of a node.
///
/// # Errors
/// The file of `-tokens` is wrong.
pub(crate) fn access(config: &Config, host: &Host) -> Result<Arc<Access>, Failed> {
    let access = Access::open(config.tokens.as_deref(), host.clock);
    access.map(Arc::new).map_err(|error| (EXIT_USAGE, error.into()))
}

/// What is read anew at each SIGHUP.
#[derive(Debug)]
pub(crate) struct Reloads(Signal);

impl Reloads {
    /// From here on no SIGHUP is missed.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn new() -> io::Result<Reloads> {
        Ok(Reloads(signal(SignalKind::hangup())?))
    }

    /// Has it read anew, for ever. What is wrong is logged, and stays as it was.
    pub(crate) async fn reload(&mut self, access: &Access) -> Infallible {
        loop {
            if self.0.recv().await.is_none() {
                return std::future::pending().await;
            }
            match access.reload() {
                Ok(None) => {}
                Ok(Some(tokens)) => tracing::info!(tokens, "-tokens was read anew"),
                Err(error) => {
                    let error = fault::chain(&error);
                    tracing::error!(error, "the tokens stay as they were: their file is wrong");
                }
            }
        }
    }
}

/// Prints the rest of the banner as soon as the role is known, and waits for ever.
pub(crate) async fn introduce(node: &Node) -> Infallible {
    for _ in 0..ROLE_POLLS_MAX {
        if node.has_leader() {
            break;
        }
        tokio::time::sleep(ROLE_POLL).await;
    }
    let program = as_started().unwrap_or_else(|| node.config().program().to_owned());
    say(&banner::tail(node.config(), &node.status(), &program, node.opening()));
    std::future::pending().await
}

/// Tells the service manager, where one started this program and wants to know; it not listening is
/// no reason to fail. Source: `sd_notify(3)`.
pub(crate) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager is not told");
    }
}

/// Exits at once when a second signal comes.
pub(crate) fn stop_at_second(program: &'static str, mut signals: Signals) {
    tokio::spawn(async move {
        signals.next().await;
        tell(&format!(
            "{program}: second signal, stopping at once; the next start replays the log\n"
        ));
        interrupted();
    });
}

/// Ends the process at once, after its last words.
pub fn interrupted() -> ! {
    lines::flush();
    std::process::exit(EXIT_INTERRUPTED);
}

/// The program as it was started, for whoever is to type it again: a path, or a name on the PATH.
pub fn as_started() -> Option<String> {
    let path = std::env::args_os().next()?.into_string().ok()?;
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if path.is_empty() {
        None
    } else if path.chars().all(is_plain) {
        Some(path)
    } else {
        Some(format!("'{}'", path.replace('\'', r"'\''")))
    }
}

/// Says why the node cannot go on.
pub(crate) fn told(program: &str, fault: &Fault) -> u8 {
    tell(&format!("{program}: {}\n", fault.reason));
    fault.exit_code
}

/// What asks a program to stop: SIGINT, SIGTERM or SIGQUIT. SIGHUP asks a node to read its files anew
/// ([`Reloads`], [`keep_certificates`]), and others for nothing: a terminal that has gone is no reason
/// to stop.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes all of them from here on; without that they end the process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> io::Result<Signals> {
        let interrupt = signal(SignalKind::interrupt())?;
        let (terminate, quit) = (signal(SignalKind::terminate())?, signal(SignalKind::quit())?);
        Ok(Signals { interrupt, terminate, quit, hang_up: signal(SignalKind::hangup())? })
    }

    /// As [`Signals::next`], for a program that is of no use once its terminal has gone.
    pub async fn next_or_hang_up(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// What a node with this configuration stands on.
///
/// # Errors
/// Its certificates, by the name of the file that is wrong.
pub(crate) fn host_of(config: &Config) -> Result<Host, TlsError> {
    Ok(match &config.tls {
        Some(files) => {
            Host::real().under(Tls::of_member(&files.directory, files.mode, &config.id)?)
        }
        None => Host::real(),
    })
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Kept(Option<JoinHandle<()>>);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Uses new certificates once they are there, until it is dropped: looks for them now and then, for
/// whoever replaces files does not always know the process; and at SIGHUP.
pub(crate) fn keep_certificates(host: &Host) -> Kept {
    let tls = host.net.tls().cloned();
    Kept(tls.map(|tls| tokio::spawn(follow_certificates(tls))))
}

async fn follow_certificates(tls: Arc<Tls>) {
    let mut hang_up = match signal(SignalKind::hangup()) {
        Ok(hang_up) => Some(hang_up),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP replaces no certificates");
            None
        }
    };
    let (mut told, mut warned) = (String::new(), None);
    loop {
        warned = warn_of_end(&tls, warned);
        let is_asked = tokio::select! {
            Some(()) = async { hang_up.as_mut()?.recv().await } => true,
            () = tokio::time::sleep(CERTIFICATES_PAUSE) => false,
        };
        let reading = tls.clone();
        let read = tokio::task::spawn_blocking(move || reading.reload()).await;
        match read {
            Ok(Ok(true)) => {
                tracing::info!("certificates were replaced; the own one ends on {}", end_of(&tls));
            }
            Ok(Ok(false)) if is_asked => tracing::info!("the certificates are the same"),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                let words = error.to_string();
                if is_asked || words != told {
                    tracing::warn!("certificates stay as they are: {words}");
                }
                told = words;
                continue;
            }
        }
        told.clear();
    }
}

fn end_of(tls: &Tls) -> String {
    tls.current().own().map_or_else(String::new, |own| tls::date(own.not_after))
}

/// Warns once a day of a certificate that ends soon; gives the days left that were told last.
fn warn_of_end(tls: &Tls, told: Option<i64>) -> Option<i64> {
    let days = tls.current().days_left()?;
    if days < CERTIFICATE_DAYS_FEW && told != Some(days) {
        let end = end_of(tls);
        tracing::warn!("the certificate of this node ends on {end}: nobody takes it from then on");
    }
    Some(days)
}

/// Listens for clients.
pub(crate) async fn listen(host: &Host, address: &Address) -> Result<Listener, StartError> {
    let address = address.to_string();
    // What a client speaks is found out from its first bytes.
    let bound = host.net.bare().listen(&address).await;
    bound.map_err(|source| StartError::Listen { flag: "port", address, source })
}

/// The runtime of a program: one thread where few processors are.
///
/// # Errors
/// The system starts no thread.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if processors <= SINGLE_THREAD_PROCESSORS_MAX {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.enable_all().build()
}

/// Logs to stderr; the consensus library only what an operator should look at.
pub fn start_logging(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // It warns of a member that is down many times a second; the network tells it once.
    let openraft_max =
        if level < LevelFilter::DEBUG { LevelFilter::ERROR } else { LevelFilter::WARN };
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    log_to_stderr(level, level.min(openraft_max), format);
}

/// Logs warnings to stderr, and nothing of the consensus library: it complains of a node that stops
/// while its process goes on.
pub fn log_warnings() {
    log_to_stderr(LevelFilter::WARN, LevelFilter::OFF, LogFormat::Text);
}

fn log_to_stderr(level: LevelFilter, openraft: LevelFilter, format: LogFormat) {
    let targets = Targets::new()
        .with_default(level)
        .with_target("openraft", openraft)
        .with_targets(CLEAN_STOP_TARGETS.map(|target| (target, LevelFilter::OFF)));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Said(lines::stderr()))
        .with_ansi(false)
        // It would be told on stderr at once, and a node must not wait for whoever reads that.
        .log_internal_errors(false);
    let all = tracing_subscriber::registry();
    #[cfg(feature = "otel")]
    let all = all.with(crate::traces::layer());
    match format {
        LogFormat::Text => all.with(lines.with_filter(targets)).init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            all.with(lines.with_filter(targets)).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => trace.to_string(),
            _ => String::new(),
        };
        tell(&format!("thread '{}' {panic}\n{trace}", thread.name().unwrap_or("?")));
        lines::flush(); // the process may be about to end
    }));
}

/// Prints on stderr, behind what was logged; that nobody reads it any more is no reason to fail, or
/// to wait.
pub fn tell(text: &str) {
    if !IS_JSON.load(Ordering::Relaxed) {
        lines::stderr().say(text.as_bytes());
        return;
    }
    let now = UNIX_EPOCH + Clock::System.wall();
    let now = humantime::format_rfc3339_micros(now).to_string();
    let (level, message) = ("ERROR", text.trim_end());
    let line = json!({"timestamp": now, "level": level, "message": message, "target": "diskstore"});
    lines::stderr().say(format!("{line}\n").as_bytes());
}

/// Prints on stdout in the same way.
pub(crate) fn say(text: &str) {
    lines::stdout().say(text.as_bytes());
}

/// A failure of the common kind.
pub fn failed(error: impl Into<Box<dyn Error>>) -> Failed {
    (1, error.into())
}
