//! What was typed: how long, how often, and which of it all.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::engines::{ENGINES, Engine};
use crate::rows::Loads;
use crate::trials::{TRIALS, Trial};

pub(crate) const USAGE: &str = "Usage: scripts/compare [-seconds N] [-rounds N] [-only NAME,...] \
                                [-data DIR] [-away SECONDS] [-long] [-json]\n\n\
    -seconds  how long each load is measured [default: 3]\n\
    -rounds   how often every engine takes its turn [default: 2]\n\
    -only     engines: diskstore, diskstore-lease, diskstore-local, kvstore, etcd, zookeeper,\n          \
              redis, redis-replicated; sustained (the long loads of all engines, or of those\n          \
              named, and what these are compared with);\n          \
              rows of diskstore alone: background, restart, catch-up, growth, nodes;\n          \
              of leaderless: leaderless-grpc, leaderless-sets, leaderless-kill, leaderless-return\n\
    -data     an empty directory for all data (scripts/compare makes one)\n\
    -away     how long a node of leaderless-return misses writes [default: 60, with -long 600]\n\
    -long     also the sustained loads, and the other rows in full length\n\
    -json     prints JSON\n\n\
    A row compares what was measured in the same round; of several rounds it shows medians. It is met or\n\
    missed by its bound, and told if it has none; a horizon is what is wanted one day. SERVER US is CPU\n\
    of all nodes, and WRITTEN KiB to the disk of each, for an operation: MSET of 16 keys is one.\n";
/// The long loads, where a name is wanted.
const SUSTAINED: &str = "sustained";

/// What to do.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How long a load is measured.
    pub(crate) seconds: u64,
    /// Turns of every engine.
    pub(crate) rounds: u64,
    /// Engines that take turns.
    pub(crate) engines: Vec<Engine>,
    /// What they do.
    pub(crate) loads: Loads,
    /// What is measured of diskstore alone.
    pub(crate) trials: Vec<&'static Trial>,
    /// Whether these take their time.
    pub(crate) is_long: bool,
    /// How long a node is away.
    pub(crate) away: Duration,
    /// Where data goes.
    pub(crate) data: PathBuf,
    /// Whether JSON is printed.
    pub(crate) is_json: bool,
}

/// Reads flags; `None`: help was asked for.
///
/// # Errors
/// Wrong usage.
pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        seconds: 3,
        rounds: 2,
        engines: ENGINES.to_vec(),
        loads: Loads::Short,
        trials: TRIALS.iter().collect(),
        is_long: false,
        away: Duration::ZERO,
        data: PathBuf::new(),
        is_json: false,
    };
    let (mut only, mut away) = (None, None);
    while let Some(argument) = arguments.next() {
        let flag = argument.trim_start_matches('-');
        let (flag, mut joined) = match flag.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            let value = joined.take().or_else(|| arguments.next());
            value.with_context(|| format!("-{flag} wants a value"))
        };
        match flag {
            "h" | "help" => return Ok(None),
            "json" => settings.is_json = true,
            "long" => settings.is_long = true,
            "seconds" => settings.seconds = at_least_one(flag, &value()?)?,
            "rounds" => settings.rounds = at_least_one(flag, &value()?)?,
            "away" => away = Some(at_least_one(flag, &value()?)?),
            "data" => settings.data = PathBuf::from(value()?),
            "only" => only = Some(value()?),
            _ => bail!("{argument} is no flag\n{USAGE}"),
        }
    }
    if settings.data.as_os_str().is_empty() {
        bail!("-data is missing\n{USAGE}");
    }
    settings.data = std::path::absolute(&settings.data)?;
    let away = away.unwrap_or(if settings.is_long { 600 } else { 60 });
    settings.away = Duration::from_secs(away);
    settings.loads = if settings.is_long { Loads::Both } else { Loads::Short };
    if let Some(only) = only {
        select(&mut settings, &only)?;
    }
    Ok(Some(settings))
}

fn at_least_one(flag: &str, value: &str) -> Result<u64> {
    let number = value.parse().ok().filter(|number| (1..=86_400).contains(number));
    number.with_context(|| format!("-{flag} {value}: give 1 to 86400"))
}

/// Leaves out what was not named.
fn select(settings: &mut Settings, only: &str) -> Result<()> {
    let names: Vec<&str> = only.split(',').collect();
    for name in &names {
        let is_known = *name == SUSTAINED
            || ENGINES.iter().any(|engine| engine.name() == *name)
            || TRIALS.iter().any(|trial| trial.name == *name);
        anyhow::ensure!(is_known, "-only {name}: there is nothing of that name\n{USAGE}");
    }
    settings.trials.retain(|trial| names.contains(&trial.name));
    settings.engines.retain(|engine| names.contains(&engine.name()));
    let has_engines = !settings.engines.is_empty();
    if names.contains(&SUSTAINED) {
        settings.loads = Loads::Sustained;
        if !has_engines {
            settings.engines = ENGINES.to_vec();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Settings {
        let words = format!("-data /d {line}");
        read(words.split_whitespace().map(str::to_owned)).unwrap().unwrap()
    }

    fn trials(settings: &Settings) -> Vec<&str> {
        settings.trials.iter().map(|trial| trial.name).collect()
    }

    #[test]
    fn without_names_all_but_the_sustained_loads_are_measured() {
        let settings = typed("");
        assert_eq!((settings.engines.len(), settings.trials.len()), (ENGINES.len(), TRIALS.len()));
        assert!(settings.loads == Loads::Short && !settings.is_long);
        assert_eq!(typed("-long").loads, Loads::Both);
        let away = |line| typed(line).away.as_secs();
        assert_eq!([away(""), away("-long"), away("-away 5 -long")], [60, 600, 5]);
    }

    #[test]
    fn a_name_leaves_out_all_others() {
        let settings = typed("-only restart,growth");
        assert_eq!(trials(&settings), ["restart", "growth"]);
        assert!(settings.engines.is_empty());
        let settings = typed("-only=etcd");
        assert_eq!(settings.engines, [Engine::Etcd]);
        assert!(settings.trials.is_empty() && settings.loads == Loads::Short);
    }

    #[test]
    fn sustained_is_for_all_engines_or_for_those_named() {
        let settings = typed("-only sustained");
        assert_eq!(settings.engines.len(), ENGINES.len());
        assert!(settings.loads == Loads::Sustained && settings.trials.is_empty());
        assert_eq!(typed("-only zookeeper,sustained").engines, [Engine::ZooKeeper]);
    }

    #[test]
    fn unknown_names_and_flags_are_refused() {
        for line in ["-data /d -only nobody", "-data /d -x", "-seconds 3", "-data /d -rounds 0"] {
            assert!(read(line.split_whitespace().map(str::to_owned)).is_err(), "{line}");
        }
        assert!(read(["-help".to_owned()].into_iter()).unwrap().is_none());
    }
}
