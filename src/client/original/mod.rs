//! The `client` program: sends commands that are typed or piped, or generates the load of the
//! original's tests, over RESP or the original's own protocols. `bin/client.rs` calls [`run`].
//!
//! - I1: with any of `-clients`, `-req`, `-key`, `-time` and `-data` it is a load, without them it
//!   reads commands.

mod ask;
pub(super) mod config;
mod latency;
mod shell;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::bench::{self, refuse};
use super::dialling::Dialling;
use super::{ClientError, print};
use crate::cli::{Number, parse_boolean};
use crate::config::number;
use crate::load::{
    self, Answers, CLIENT_COUNT_MAX, Codec, Load, Original, Pace, Progress, Workload,
};
use crate::tls::Credentials;
use ask::Asker;
use config::ClientConfig;
use latency::LatencyFile;

/// What `-data` chooses from, bytes: a short message, 1 KiB and 4 KiB, as in the original's tests.
const DATA_BYTES: [usize; 3] = [128, 1024, 4096];

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "client",
    version,
    about = "Asks a cluster what is typed or piped, or puts load on it (-clients, -key, and -req or \
             -time).",
    after_help = "Flags may be written -x v, -x=v, --x v or --x=v.",
    args_override_self = true
)]
pub struct ClientFlags {
    /// Where the replicas are: rep, svrIps, localip, udpport, thinkingTimeMsec.
    #[arg(long, value_name = "FILE", default_value = "client-config.toml")]
    pub config: PathBuf,
    /// resp; or text or proto, the original's: to every replica, answered by UDP.
    #[arg(long, value_name = "NAME", default_value = "resp")]
    pub protocol: String,
    /// Clients of the load; of text and proto each has a UDP port, from udpport on.
    #[arg(long, value_name = "N")]
    pub clients: Option<Number>,
    /// Commands of each client.
    #[arg(long, value_name = "N")]
    pub req: Option<Number>,
    /// Keys are 0 to N - 1.
    #[arg(long, value_name = "N")]
    pub key: Option<Number>,
    /// How long the load lasts, seconds or 1m30s.
    #[arg(long, value_name = "TIME", value_parser = diskstore_flags::parse_duration)]
    pub time: Option<Duration>,
    /// Size of values: 0 (128 bytes), 1 (1 KiB) or 2 (4 KiB).
    #[arg(long, value_name = "CHOICE")]
    pub data: Option<Number>,
    /// Whether the latencies of the first client are written to Nc-latency.out, N being -clients.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_parser = parse_boolean)]
    pub log: bool,
    /// Where that file goes; what an earlier run left there is replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub latency_folder: PathBuf,
    /// What is done, as for diskstore bench.
    #[arg(long, value_name = "NAME", default_value = "original")]
    pub workload: String,
    /// How long an answer of the load may take; then its outcome is unknown.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = diskstore_flags::parse_duration)]
    pub timeout: Duration,
    /// What keys and the mix follow from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: Number,
    /// Prints what the load came to as JSON.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub json: bool,
    /// Presents the token in FILE to nodes with -tokens [default: that of DISKSTORE_TOKEN, if it is set].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Speaks TLS, over RESP: DIR has ca.crt, and tls.crt with tls.key where nodes ask for a client's
    /// certificate.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Writes a CPU profile (pprof) at the end; SIGUSR1 ends and begins profiles too.
    #[arg(long, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at the end.
    #[arg(long, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
}

/// How commands go to the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Resp,
    Text,
    Protobuf,
}

/// Does what the flags ask for.
///
/// # Errors
/// Everything that kept it from that.
pub fn run(flags: &ClientFlags, out: &mut dyn Write) -> Result<(), ClientError> {
    let protocol = match flags.protocol.as_str() {
        "resp" => Protocol::Resp,
        "text" => Protocol::Text,
        "proto" => Protocol::Protobuf,
        other => return Err(refuse("protocol", other, "give one of resp, text, proto")),
    };
    if flags.token_file.is_some() && protocol != Protocol::Resp {
        return Err(refuse("token-file", "", "text and proto carry no token; leave -protocol out"));
    }
    if flags.tls.is_some() && protocol != Protocol::Resp {
        return Err(refuse("tls", "", "text and proto are answered by UDP; leave -protocol out"));
    }
    let is_load = flags.time.is_some()
        || [&flags.clients, &flags.req, &flags.key, &flags.data].iter().any(|flag| flag.is_some()); // I1
    let shape = is_load.then(|| Shape::new(flags, protocol)).transpose()?;
    let config = config::read(&flags.config)?;
    if let Some(shape) = shape {
        return put_load(flags, &shape, &config, out);
    }
    let mut asker = Asker::new(&config, protocol, flags.token_file.clone(), flags.tls.clone())?;
    if std::io::stdin().is_terminal() {
        let ClientConfig { replicas, udp_port, .. } = &config;
        let (rep, list) = (replicas.len(), replicas.join(" "));
        let head = format!("rep: {rep}\nsvrIps: [{list}]\nudpaddr: {udp_port}\n");
        print(out, head.as_bytes())?;
    }
    shell::run(&mut asker, out)
}

/// What the flags of a load come to.
struct Shape {
    protocol: Protocol,
    clients: u64,
    requests: Option<u64>,
    keys: u64,
    value_bytes: usize,
    workload: Workload,
    seed: u64,
}

impl Shape {
    fn new(flags: &ClientFlags, protocol: Protocol) -> Result<Shape, ClientError> {
        let needed = |flag: &str, reason: &str| refuse(flag, "", reason);
        let bounded = |flag, value: &Option<Number>, max| match value {
            Some(value) => Ok(number(flag, value.clone(), 1, max)?),
            None => Err(needed(flag, "a load needs -clients, -key, -data, and -req or -time")),
        };
        let clients = bounded("clients", &flags.clients, CLIENT_COUNT_MAX)?;
        let keys = bounded("key", &flags.key, u64::MAX >> 1)?;
        let each = flags.req.as_ref().map(|_| bounded("req", &flags.req, u64::MAX >> 20));
        if flags.req.is_none() && flags.time.is_none() {
            return Err(needed("req", "a load needs -req, -time, or both"));
        }
        if flags.time.is_some_and(|time| time.is_zero() || time > load::DURATION_MAX) {
            return Err(refuse("time", "", "give up to 24h, and not 0"));
        }
        let choice = match &flags.data {
            Some(choice) => number("data", choice.clone(), 0, 2)?,
            None => return Err(needed("data", "give 0 (128 bytes), 1 (1 KiB) or 2 (4 KiB)")),
        };
        let names: Vec<&str> =
            load::WORKLOADS.iter().filter_map(|workload| workload.name).collect();
        let unknown = format!("give one of {}", names.join(", "));
        Ok(Shape {
            protocol,
            clients,
            requests: each.transpose()?.map(|each| each * clients),
            keys,
            value_bytes: DATA_BYTES[usize::try_from(choice).unwrap_or_default()],
            workload: Workload::named(&flags.workload)
                .ok_or_else(|| refuse("workload", &flags.workload, &unknown))?,
            seed: number("seed", flags.seed.clone(), 0, u64::MAX)?,
        })
    }

    /// Where answers come, if they do so by UDP.
    fn answers(&self, config: &ClientConfig) -> Result<Option<Answers>, ClientError> {
        if self.protocol == Protocol::Resp {
            return Ok(None);
        }
        let ports = u64::from(u16::MAX - config.udp_port) + 1;
        if config.udp_port > 0 && self.clients > ports {
            let reason = format!(
                "from udpport {} on there are {ports} ports for answers; udpport = 0 takes any",
                config.udp_port
            );
            return Err(refuse("clients", &self.clients.to_string(), &reason));
        }
        Ok(Some(Answers { local: config.local, port: config.udp_port }))
    }
}

fn put_load(
    flags: &ClientFlags,
    shape: &Shape,
    config: &ClientConfig,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let answers = shape.answers(config)?;
    let list = config.replicas.join(",");
    let dialling = Dialling::read(flags.token_file.as_deref(), flags.tls.as_deref())?;
    let load = Load {
        answers,
        clients: shape.clients,
        pipeline: 1,
        threads: bench::threads_default().min(shape.clients),
        pace: Pace::Closed,
        keys: shape.keys,
        workload: shape.workload,
        think: Duration::ZERO..=config.think_max,
        value_bytes: shape.value_bytes..=shape.value_bytes,
        duration: flags.time,
        requests: shape.requests,
        warm_up: Duration::ZERO,
        seed: shape.seed,
        verify: false,
        timeout: flags.timeout.max(Duration::from_millis(1)),
        targets: bench::targets(&list)?,
        unsafe_flags: bench::unsafe_flags(&list, &dialling),
        tls: dialling.tls().map(Credentials::client_dial),
    };
    let make_codec = || -> Box<dyn Codec> {
        match shape.protocol {
            Protocol::Resp => bench::resp(&dialling),
            Protocol::Text => Box::new(Original::text()),
            Protocol::Protobuf => Box::new(Original::protobuf()),
        }
    };
    let file = flags.log.then(|| LatencyFile::create(&flags.latency_folder, shape.clients));
    let mut file = file.transpose()?;
    let progress = if file.is_some() { Progress::watching() } else { Progress::default() };
    let mut keep = || {
        if let Some(file) = &mut file {
            file.append(&progress.take_watched());
        }
    };
    let report = bench::measure(&load, &make_codec, &progress, &mut keep)?;
    keep();
    bench::print_report(&report, flags.json, out)?;
    file.map_or(Ok(()), LatencyFile::finish)?;
    if report.all.count == 0 { Err(ClientError::NothingSucceeded) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(line: &str) -> Result<Shape, ClientError> {
        let words = ["client"].into_iter().chain(line.split_whitespace());
        let flags: ClientFlags = diskstore_flags::parse(words.map(Into::into)).unwrap();
        Shape::new(&flags, Protocol::Text)
    }

    fn config(udp_port: u16) -> ClientConfig {
        let local = [127, 0, 0, 1].into();
        ClientConfig { replicas: Vec::new(), local, udp_port, think_max: Duration::ZERO }
    }

    #[test]
    fn loads_of_the_original_are_understood() {
        let shape = shape("-clients=10 -req=100 -key=50 -data=2 -log=false").unwrap();
        assert_eq!((shape.clients, shape.requests, shape.keys), (10, Some(1000), 50));
        assert_eq!((shape.value_bytes, shape.workload.name), (4096, Some("original")));
        let answers = Answers { local: [127, 0, 0, 1].into(), port: 15_000 };
        assert_eq!(shape.answers(&config(15_000)).unwrap(), Some(answers));
    }

    #[test]
    fn what_a_load_lacks_or_cannot_have_is_named() {
        for (line, words) in [
            ("-clients 1", "-key: a load needs -clients, -key, -data"),
            ("-key 1", "-clients: a load needs -clients, -key, -data"),
            ("-clients 1 -key 1 -data 0", "-req: a load needs -req, -time, or both"),
            ("-clients 1 -key 1 -req 1", "-data: give 0 (128 bytes)"),
            ("-clients 1 -key 1 -req 1 -data 3", "-data `3`: give a whole number from 0 to 2"),
            ("-clients 1 -key 1 -req 0 -data 1", "-req `0`: give a whole number from 1"),
            ("-clients 0 -key 1 -req 1 -data 1", "-clients `0`: give a whole number from 1"),
            ("-clients 1 -key 1 -time 0s -data 1", "-time: give up to 24h, and not 0"),
            ("-clients 1 -key 1 -req 1 -data 1 -workload e", "-workload `e`: give one of"),
        ] {
            let error = shape(line).err().unwrap();
            assert!(error.to_string().contains(words), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let shape = shape("-clients 10 -key 1 -req 1 -data 1").unwrap();
        let error = shape.answers(&config(65_530)).unwrap_err().to_string();
        assert!(error.contains("from udpport 65530 on there are 6 ports"), "{error}");
        assert!(shape.answers(&config(65_526)).is_ok() && shape.answers(&config(0)).is_ok());
    }
}
