//! The `logger` program: members that never vote, record every command of their clusters, and serve
//! no client; one process may run several. `src/bin/logger.rs` calls [`run`]; it calls the node.
//!
//! - I1: the lists in the flags are equally long, and their nth items belong to the nth logger.
//! - I2: all loggers of a process share its runtime; the first that cannot go on stops the others
//!   in order, and gives the exit code. One that was removed from its cluster ends alone.
//! - I3: the priority is lowered before the first thread that works is started, so that all have
//!   it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::banner;
use crate::cli::{Number, Settings};
use crate::config::{Config, ConfigError, MachineKind};
use crate::fault::EXIT_REMOVED;
use crate::node::{self, Node};
use crate::profile::Profiles;
use crate::program::{
    self, EXIT_USAGE, Failed, Reloads, Signals, failed, host_of, introduce, keep_certificates, say,
    tell,
};
use crate::server::Server;

/// Most loggers of one process.
const LOGGER_COUNT_MAX: usize = 64;
/// Nobody waits for a logger: of a machine that they share, nodes have the processors first.
const NICENESS: i32 = 10;

/// What was typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "logger",
    version,
    about = "Records every command of a cluster in the original's form, and serves none.",
    after_help = "Lists follow several clusters: logger -id 'log0,log1' -raft ':12000,:12001' \
                  -join ':13000,:13001'",
    args_override_self = true
)]
pub struct Flags {
    /// Name of this logger; of several, with commas.
    #[arg(long, value_name = "NAMES")]
    pub id: String,
    /// Address for the members of its cluster; one for each logger.
    #[arg(long, value_name = "ADDRESSES")]
    pub raft: String,
    /// A member of the cluster to follow (its -hjoin or -raft); one for each logger.
    #[arg(long, value_name = "ADDRESSES")]
    pub join: String,
    /// Records in DIR/log-file-NAME.log and the files that follow it [default: the temporary
    /// directory].
    #[arg(long, value_name = "DIR")]
    pub logfolder: Option<PathBuf>,
    /// Size at which a file goes on in a next one, MiB [default: 256].
    #[arg(long, value_name = "N")]
    pub roll_mib: Option<Number>,
    /// Address at which what is recorded is handed out to `recovery`; one for each logger.
    #[arg(long, value_name = "ADDRESSES")]
    pub hrecov: Option<String>,
    /// Address for status and INFO, which are all that is answered; one for each logger.
    #[arg(long, value_name = "ADDRESSES")]
    pub port: Option<String>,
    /// Directory of the loggers' own files, one below it for each [default: ./logger-data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// When Raft's log is synced: always, batch:MS or never [default: always].
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<String>,
    /// Raft's log between two checkpoints, MiB [default: 64].
    #[arg(long, value_name = "N")]
    pub checkpoint_mib: Option<Number>,
    /// Raft's log kept behind a checkpoint, MiB [default: 64].
    #[arg(long, value_name = "N")]
    pub keep_mib: Option<Number>,
    /// Host under which others reach the loggers [default: the host they listen on].
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Allows addresses beyond this machine although anyone who reaches them may read everything.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// Answers no client without a token of FILE, which `diskstore token` writes; read anew at SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Speaks TLS with the certificates in each DIR: ca.crt, tls.crt and tls.key, as `diskstore certs`
    /// makes them; one for each logger.
    #[arg(long, value_name = "DIRS")]
    pub tls: Option<String>,
    /// Who is taken with -tls: require, mutual or prefer, as for a node [default: require].
    #[arg(long, value_name = "MODE")]
    pub tls_mode: Option<String>,
    /// Writes a CPU profile (pprof) at a clean stop.
    #[arg(long, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at a clean stop.
    #[arg(long, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
    /// What is logged on stderr: off, error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How its lines look: text, or json, one object a line [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
}

/// Lists that do not belong together; exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Lists of different lengths.
    #[error("{lists}: give each list one item for each logger")]
    Lengths {
        /// The lists, with their lengths.
        lists: String,
    },
    /// A name twice.
    #[error("-id names `{0}` twice: their files would be the same")]
    Twice(String),
    /// More than one process follows.
    #[error("-id names {0} loggers, one process follows at most {LOGGER_COUNT_MAX}")]
    TooMany(usize),
    /// One of the items.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The configurations of all loggers that were asked for.
///
/// # Errors
/// See [`UsageError`].
pub fn configs(flags: &Flags) -> Result<Vec<Config>, UsageError> {
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(|item| item.trim().to_owned()).collect()
    };
    let ids = list(&flags.id);
    let given = [
        ("-id", Some(&flags.id)),
        ("-raft", Some(&flags.raft)),
        ("-join", Some(&flags.join)),
        ("-hrecov", flags.hrecov.as_ref()),
        ("-port", flags.port.as_ref()),
        ("-tls", flags.tls.as_ref()),
    ];
    let given = given.map(|(flag, text)| (flag, text.map(|text| list(text))));
    let lengths = given.iter().filter_map(|(flag, list)| Some((flag, list.as_ref()?.len())));
    if lengths.clone().any(|(_, length)| length != ids.len()) {
        let words = |(flag, length)| format!("{flag} has {length}");
        let lists = lengths.map(words).collect::<Vec<_>>().join(", ");
        return Err(UsageError::Lengths { lists }); // I1
    }
    if ids.len() > LOGGER_COUNT_MAX {
        return Err(UsageError::TooMany(ids.len()));
    }
    let twice = |id: &&String| ids.iter().filter(|other| other == id).count() > 1;
    if let Some(id) = ids.iter().find(twice) {
        return Err(UsageError::Twice(id.clone()));
    }
    let [_, raft, join, hrecov, port, tls] = given.map(|(_, list)| list);
    let item = |list: &Option<Vec<String>>, nth: usize| list.as_ref()?.get(nth).cloned();
    let one = |(nth, id): (usize, &String)| {
        let settings = Settings {
            id: Some(id.clone()),
            raft: item(&raft, nth),
            join: item(&join, nth),
            hrecov: item(&hrecov, nth),
            port: item(&port, nth),
            data: flags.data.as_ref().map(|data| data.join(id)),
            logfolder: flags.logfolder.clone(),
            roll_mib: flags.roll_mib.clone(),
            sync: flags.sync.clone(),
            checkpoint_mib: flags.checkpoint_mib.clone(),
            keep_mib: flags.keep_mib.clone(),
            advertise: flags.advertise.clone(),
            insecure: flags.insecure,
            tokens: flags.tokens.clone(),
            tls: item(&tls, nth).map(PathBuf::from),
            tls_mode: flags.tls_mode.clone(),
            log: flags.log.clone(),
            log_format: flags.log_format.clone(),
            ..Settings::default()
        };
        Config::new(MachineKind::Journal, settings)
    };
    Ok(ids.iter().enumerate().map(one).collect::<Result<_, _>>()?)
}

/// Runs loggers until a signal, or until one of them cannot go on.
///
/// # Errors
/// Why one did not start or stop as it should, with the exit code.
pub fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let configs = configs(flags).map_err(|error| (EXIT_USAGE, error.into()))?;
    let profiles = Profiles::start(flags.cpuprofile.as_deref(), flags.memprofile.as_deref())
        .map_err(failed)?;
    for folder in configs.iter().filter_map(|config| config.log_folder.as_ref()) {
        // Before anybody is asked to be joined.
        std::fs::create_dir_all(folder)
            .map_err(|error| failed(format!("-logfolder {}: {error}", folder.display())))?;
    }
    let lowered = rustix::process::nice(NICENESS); // I3: what is said has threads too
    if let Some(first) = configs.first() {
        program::start_logging(first.log_level, first.log_format);
    }
    if let Err(error) = lowered {
        tracing::warn!(%error, "the priority stays as it is");
    }
    for words in configs.iter().filter_map(loss_of_records) {
        tracing::warn!("{words}");
    }
    program::prepare_descriptors(configs.len()).map_err(failed)?;
    let runtime = program::runtime().map_err(failed)?;
    let outcome = runtime.block_on(follow_all(configs));
    runtime.shutdown_timeout(program::SHUTDOWN_TIME_MAX);
    let exit_code = outcome?;
    if exit_code == 0 {
        profiles.finish().map_err(failed)?;
    }
    Ok(ExitCode::from(exit_code))
}

/// What is to be said of a logger whose records may be swept away.
fn loss_of_records(config: &Config) -> Option<String> {
    let folder = config.log_folder.as_ref()?;
    let is_temporary = folder.starts_with(std::env::temp_dir());
    is_temporary.then(|| {
        format!(
            "{} records in {}, below the temporary directory, which systems empty: give another \
             -logfolder",
            config.id,
            folder.display()
        )
    })
}

/// Runs all of them until none is left, and stops all once one cannot go on (I2).
async fn follow_all(configs: Vec<Config>) -> Result<u8, Failed> {
    let (stop, stopping) = watch::channel(false);
    let mut signals = Signals::new().map_err(failed)?;
    let mut running = JoinSet::new();
    for config in configs {
        let stopping = stopping.clone();
        running.spawn(async move {
            let id = config.id.clone();
            follow(config, stopping).await.map_err(|(code, text)| (code, format!("{id}: {text}")))
        });
    }
    let mut outcome = Ok(0);
    loop {
        tokio::select! {
            () = signals.next() => {
                if *stop.borrow() {
                    tell("logger: second signal, stopping at once; the next start goes on\n");
                    program::interrupted();
                }
            }
            ended = running.join_next() => match ended {
                None => return outcome,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err((EXIT_REMOVED, text)))) if !running.is_empty() => {
                    tell(&format!("logger: {text}\n"));
                    continue;
                }
                Some(Ok(Err((code, text)))) if outcome.is_ok() => outcome = Err((code, text.into())),
                Some(Ok(Err((_, text)))) => tell(&format!("logger: {text}\n")),
                Some(Err(error)) => outcome = Err(failed(error)),
            },
        }
        stop.send_replace(true);
    }
}

/// Runs one logger until it is told to stop.
async fn follow(config: Config, mut stopping: watch::Receiver<bool>) -> Result<(), (u8, String)> {
    let words = |error: &dyn std::error::Error| (1, crate::fault::chain(error));
    say(&banner::head(&config));
    let host = host_of(&config).map_err(|error| words(&error))?;
    let _certificates = keep_certificates(&host);
    let access = program::access(&config, &host)
        .map_err(|(code, error)| (code, crate::fault::chain(error.as_ref())))?;
    let mut reloads = Reloads::new().map_err(|error| words(&error))?;
    let listener = if config.has_client_port {
        let listener = program::listen(&host, &config.client_address).await;
        Some(listener.map_err(|error| words(&error))?)
    } else {
        None
    };
    let mut stopped = stopping.clone();
    let node = tokio::select! {
        started = node::start(&host, config, Box::new(|_, _| {})) => {
            started.map_err(|error| (error.exit_code(), crate::fault::chain(&error)))?
        }
        _ = stopping.wait_for(|stop| *stop) => return Ok(()),
    };
    node.lock_until_exit();
    let server = Server::new(Arc::clone(&node), &[], Arc::clone(&access));
    let sessions = async {
        match listener {
            Some(listener) => server.run(listener, stopped.clone()).await,
            None => drop(stopped.wait_for(|stop| *stop).await),
        }
    };
    let mut sessions = std::pin::pin!(sessions);
    tokio::select! {
        fault = node.wait_fault() => {
            if fault.exit_code == EXIT_REMOVED {
                node.stop().await; // others of this process may go on for long
            }
            return Err((fault.exit_code, fault.reason));
        }
        never = introduce(&node) => match never {},
        never = reloads.reload(&access) => match never {},
        () = &mut sessions => {}
    }
    stop(&node).await
}

async fn stop(node: &Node) -> Result<(), (u8, String)> {
    tokio::select! {
        fault = node.wait_fault() => Err((fault.exit_code, fault.reason)),
        () = node.stop() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Vec<Config>, String> {
        let words = std::iter::once("logger").chain(line.split(' ')).map(Into::into);
        let flags: Flags = diskstore_flags::parse(words).map_err(|refusal| refusal.text)?;
        configs(&flags).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_make_a_logger_for_each_cluster() {
        let line = "-id log0,log1 -raft :12000,:12001 -join :13000,:13001 -data /d";
        let configs = typed(line).unwrap();
        let shown = configs.iter().map(|config| {
            let joins: Vec<String> = config.join_targets.iter().map(ToString::to_string).collect();
            (config.id.clone(), config.raft_address.port, joins.join(","), config.data_dir.clone())
        });
        let expected = [
            ("log0".to_owned(), 12000, "127.0.0.1:13000".to_owned(), PathBuf::from("/d/log0")),
            ("log1".to_owned(), 12001, "127.0.0.1:13001".to_owned(), PathBuf::from("/d/log1")),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
        let folders = configs.iter().map(|config| config.log_folder.clone());
        assert!(folders.into_iter().all(|folder| folder == Some(std::env::temp_dir())));
        assert!(configs.iter().all(|config| !config.has_client_port));
    }

    #[test]
    fn records_below_the_temporary_directory_are_warned_of() {
        let words = |line: &str| loss_of_records(&typed(line).unwrap()[0]);
        let text = words("-id log0 -raft :1 -join :3").unwrap();
        assert!(text.starts_with("log0 records in ") && text.contains("-logfolder"), "{text}");
        let below = std::env::temp_dir().join("records");
        assert!(
            words(&format!("-id a -raft :1 -join :3 -logfolder {}", below.display())).is_some()
        );
        assert_eq!(words("-id a -raft :1 -join :3 -logfolder /srv/records"), None);
    }

    #[test]
    fn lists_that_do_not_belong_together_are_named_with_their_lengths() {
        let text = typed("-id a,b -raft :1 -join :3,:4").unwrap_err();
        assert_eq!(
            text,
            "-id has 2, -raft has 1, -join has 2: give each list one item for each logger"
        );
        let text = typed("-id a -raft :1 -join :3 -hrecov :4,:5").unwrap_err();
        assert!(text.starts_with("-id has 1, -raft has 1, -join has 1, -hrecov has 2:"), "{text}");
        assert!(typed("-id a,a -raft :1,:2 -join :3,:4").unwrap_err().contains("`a` twice"));
        assert!(typed("-id a, -raft :1,:2 -join :3,:4").unwrap_err().contains("-id ``"));
        assert!(typed("-id a -raft :1").unwrap_err().contains("-join"));
        assert!(typed("-id a -raft 10.0.0.1:1 -join :3").unwrap_err().contains("-insecure"));
    }
}
