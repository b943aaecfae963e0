//! A configuration as flags, for whoever asks a running node what it runs with.

use std::path::Path;

use super::{Address, Config, Listed, LogLevel, MIB, row};
use crate::command::ReadLevel;

/// Parts with commas between them; `None` if there are none.
fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

impl Listed {
    fn shown(&self) -> String {
        format!("{}={}", self.name, self.raft)
    }
}

impl Config {
    /// Every flag that is set, by its name without the dash, as it could be typed; in the order of
    /// the help. Numbers that follow from the machine or the cluster are not among them.
    #[expect(clippy::too_many_lines, reason = "a line for each flag, and nothing else")]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        // Taken apart, so that whoever adds a field says here how it is shown.
        let Config {
            machine,
            is_learner: _, // the program says so
            id,
            client_address,
            has_client_port,
            raft_address,
            join_address,
            join_targets,
            listed,
            advertise_host,
            insecure,
            tls,
            tokens,
            join_tokens,
            join_token_file,
            data_dir,
            slot_count,
            value_bytes,
            read_level,
            sync,
            heartbeat_ms,
            election_ms,
            checkpoint_bytes,
            keep_bytes,
            memory_bytes,
            key_prefixes,
            log_folder,
            roll_bytes,
            recovery_address,
            throughput_folder,
            cpu_profile,
            mem_profile,
            log_level,
            log_format,
        } = self;
        let address = |address: &Option<Address>| address.as_ref().map(Address::to_string);
        let some = |is: bool, text: String| is.then_some(text);
        let value_flag = row(*machine).value_flag.trim_start_matches('-');
        let flags = [
            ("id", Some(id.clone())),
            ("port", some(*has_client_port, client_address.to_string())),
            ("raft", Some(raft_address.to_string())),
            ("join", joined(join_targets.iter().map(Address::to_string))),
            ("cluster", joined(listed.iter().map(Listed::shown))),
            ("hjoin", address(join_address)),
            ("data", Some(data_dir.display().to_string())),
            ("slots", slot_count.map(|count| count.to_string())),
            (value_flag, value_bytes.map(|bytes| bytes.to_string())),
            ("read", Some(read_word(*read_level).to_owned())),
            ("sync", Some(sync.to_string())),
            ("heartbeat-ms", Some(heartbeat_ms.to_string())),
            ("election-ms", Some(election_ms.to_string())),
            ("checkpoint-mib", checkpoint_bytes.map(mib)),
            ("keep-mib", Some(mib(*keep_bytes))),
            ("memory-mib", memory_bytes.map(mib)),
            ("key-prefixes", joined(key_prefixes.iter().cloned())),
            ("advertise", advertise_host.clone()),
            ("insecure", Some(insecure.to_string())),
            ("tls", tls.as_ref().map(|tls| tls.directory.display().to_string())),
            ("tls-mode", tls.as_ref().map(|tls| tls.mode.name().to_owned())),
            ("tokens", path(tokens.as_deref())),
            ("join-tokens", some(*join_tokens, "true".to_owned())),
            ("join-token-file", path(join_token_file.as_deref())),
            ("cpuprofile", path(cpu_profile.as_deref())),
            ("memprofile", path(mem_profile.as_deref())),
            ("logfolder", path(log_folder.as_deref())),
            ("roll-mib", Some(mib(*roll_bytes))),
            ("hrecov", address(recovery_address)),
            ("throughput-folder", path(throughput_folder.as_deref())),
            ("log", Some(log_word(*log_level).to_owned())),
            ("log-format", Some(log_format.name().to_owned())),
        ];
        flags.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn mib(bytes: u64) -> String {
    (bytes / MIB).to_string()
}

fn path(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

fn read_word(level: ReadLevel) -> &'static str {
    match level {
        ReadLevel::Linearizable => "linearizable",
        ReadLevel::Lease => "lease",
        ReadLevel::Local => "local",
        ReadLevel::Log => "log",
    }
}

fn log_word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::super::MachineKind;
    use super::*;
    use crate::cli::{self, Settings};

    fn typed(line: &str) -> Settings {
        cli::parse(line.split(' ').map(Into::into)).expect("usage is right").settings
    }

    #[test]
    fn what_is_shown_can_be_typed_and_means_the_same() {
        let line = "diskstore -id b -port 127.0.0.1:1 -raft 127.0.0.1:2 -join 127.0.0.1:3,h:4 -hjoin \
                    127.0.0.1:5 -data /d -slots 64 -value-size 32 -read lease -sync batch:5 \
                    -heartbeat-ms 120 -election-ms 3000 \
                    -checkpoint-mib 70 -keep-mib 3 -memory-mib 20 -key-prefixes key:,u -advertise \
                    localhost -insecure -tls t -tls-mode mutual -tokens s -join-tokens -join-token-file j -cpuprofile c -memprofile m -logfolder l -roll-mib 9 -hrecov \
                    127.0.0.1:6 -throughput-folder t -log warn -log-format json";
        let config = Config::new(MachineKind::Slots, typed(line)).unwrap();
        let flags = config.flags();
        let shown: Vec<String> =
            flags.iter().map(|(name, value)| format!("-{name}={value}")).collect();
        let again = typed(&format!("diskstore {}", shown.join(" ")));
        assert_eq!(Config::new(MachineKind::Slots, again).unwrap(), config);
        let names = cli::setting_names();
        let order: Vec<_> =
            flags.iter().map(|(name, _)| names.iter().position(|known| known == name)).collect();
        assert!(order.is_sorted() && order.iter().all(Option::is_some), "{order:?}");
        let missing = ["cluster", "value-max"];
        assert_eq!(flags.len() + missing.len(), names.len(), "every flag is shown");
    }
}
