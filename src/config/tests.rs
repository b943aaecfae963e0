use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::*;
use crate::cli;

fn typed(arguments: &[&str]) -> Result<Config, ConfigError> {
    let line = std::iter::once("diskstore").chain(arguments.iter().copied()).map(OsString::from);
    let typed = cli::parse(line).expect("usage is right");
    Config::load(MachineKind::Slots, typed.settings, typed.config.as_deref())
}

fn complaint(arguments: &[&str]) -> String {
    typed(arguments).expect_err("is to be refused").to_string()
}

/// What people read: the error, and what caused it.
fn told(error: &ConfigError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn with_file(text: &str, arguments: &[&str]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let mut all = vec!["-config", path.to_str().unwrap()];
    all.extend_from_slice(arguments);
    typed(&all)
}

#[test]
fn nothing_typed_gives_the_documented_defaults() {
    let config = typed(&[]).unwrap();
    assert_eq!(config.id, "node0");
    assert_eq!(config.client_address, address("127.0.0.1:11000"));
    assert_eq!(config.raft_address, address("127.0.0.1:12000"));
    assert_eq!(config.join_address, None);
    assert_eq!(config.join_targets, vec![]);
    assert_eq!(config.data_dir, Path::new("./diskstore-data/node0"));
    assert_eq!((config.slot_count, config.value_bytes), (None, None));
    assert_eq!(config.read_level, ReadLevel::Linearizable);
    assert_eq!(config.sync, SyncPolicy::Always);
    assert_eq!(config.keep_bytes, 64 << 20);
    assert_eq!(config.log_level, LogLevel::Info);
    assert!(!config.insecure);
}

#[test]
fn every_flag_arrives_in_the_configuration() {
    let line = "-id a -port :1 -raft 2 -hjoin localhost:3 -join :4,b.example:5 -data /d -slots 7 \
                -value-size 8 -read lease -sync never -heartbeat-ms 300 -election-ms 2500 -checkpoint-mib 9 -keep-mib 10 \
                -memory-mib 16 -key-prefixes key:,user -advertise h.example -cpuprofile c \
                -memprofile m -throughput-folder t -logfolder l -roll-mib 17 -hrecov :6 -log warn \
                -log-format json";
    let words: Vec<&str> = line.split_whitespace().collect();
    let expected = Config {
        is_learner: false,
        machine: MachineKind::Slots,
        id: "a".to_owned(),
        client_address: address("127.0.0.1:1"),
        has_client_port: true,
        raft_address: address("127.0.0.1:2"),
        join_address: Some(address("localhost:3")),
        join_targets: vec![address("127.0.0.1:4"), address("b.example:5")],
        listed: Vec::new(),
        advertise_host: Some("h.example".to_owned()),
        insecure: false,
        tokens: None,
        join_tokens: false,
        join_token_file: None,
        tls: None,
        data_dir: PathBuf::from("/d"),
        slot_count: Some(7),
        value_bytes: Some(8),
        read_level: ReadLevel::Lease,
        sync: SyncPolicy::Never,
        heartbeat_ms: 300,
        election_ms: 2500,
        checkpoint_bytes: Some(9 << 20),
        keep_bytes: 10 << 20,
        memory_bytes: Some(16 << 20),
        key_prefixes: vec!["key:".to_owned(), "user".to_owned()],
        log_folder: Some(PathBuf::from("l")),
        throughput_folder: Some(PathBuf::from("t")),
        roll_bytes: 17 << 20,
        recovery_address: Some(address("127.0.0.1:6")),
        cpu_profile: Some(PathBuf::from("c")),
        mem_profile: Some(PathBuf::from("m")),
        log_level: LogLevel::Warn,
        log_format: LogFormat::Json,
    };
    assert_eq!(typed(&words).unwrap(), expected);
    assert_eq!(expected.advertised_raft(), address("h.example:2"));
    assert_eq!(expected.advertised_client(), address("h.example:1"));
}

#[test]
fn state_is_handed_out_only_where_it_is_recorded() {
    let text = complaint(&["-hrecov", ":14000"]);
    assert!(text.contains("add -logfolder DIR"), "{text}");
    assert!(typed(&["-hrecov", ":14000", "-logfolder", "l"]).is_ok());
    let text = complaint(&["-hrecov", "10.0.0.1:14000", "-logfolder", "l"]);
    assert!(text.starts_with("-hrecov 10.0.0.1:14000 is reachable"), "{text}");
}

#[test]
fn the_data_directory_follows_the_name() {
    assert_eq!(typed(&["-id", "b"]).unwrap().data_dir, Path::new("./diskstore-data/b"));
}

#[test]
fn names_that_a_file_could_not_have_are_refused() {
    for name in ["", "a/b", "..", "-x", "a b", "\u{e9}", &"n".repeat(65)] {
        let text = complaint(&["-id", name]);
        assert!(text.starts_with(&format!("-id `{name}`")), "{text}");
    }
    assert!(typed(&["-id", &"n".repeat(64)]).is_ok());
}

#[test]
fn an_unknown_word_is_answered_with_the_known_ones() {
    let expected = "-read `fast`: give one of linearizable, lease, local, log";
    assert_eq!(complaint(&["-read", "fast"]), expected);
    assert_eq!(
        complaint(&["-sync", "os"]),
        "-sync `os`: give one of always, batch:MS (1 to 60000), never"
    );
    for word in ["batch", "batch:", "batch:0", "batch:60001", "batch:1s"] {
        assert!(complaint(&["-sync", word]).starts_with(&format!("-sync `{word}`")), "{word}");
    }
    let every_ten = SyncPolicy::Batch(Duration::from_millis(10));
    assert_eq!(typed(&["-sync", "batch:10"]).unwrap().sync, every_ten);
    assert_eq!(every_ten.to_string(), "batch:10");
    let expected = "-log `loud`: give one of off, error, warn, info, debug, trace";
    assert_eq!(complaint(&["-log", "loud"]), expected);
}

#[test]
fn numbers_out_of_bounds_are_refused_with_the_bounds() {
    for (flag, value, bounds) in [
        ("-slots", "0", "1 to 1099511627776"),
        ("-value-size", "0", "1 to 1048576"),
        ("-value-size", "1048577", "1 to 1048576"),
        ("-checkpoint-mib", "0", "1 to 16777216"),
        ("-memory-mib", "15", "16 to 16777216"),
        ("-keep-mib", "99999999", "0 to 16777216"),
        ("-heartbeat-ms", "9", "10 to 24000"),
        ("-election-ms", "1199", "1200 to 120000"),
        ("-election-ms", "120001", "1200 to 120000"),
    ] {
        let expected = format!("{flag} `{value}`: give a whole number from {bounds}");
        assert_eq!(complaint(&[flag, value]), expected);
    }
}

#[test]
fn a_leader_is_not_given_up_for_a_few_heartbeats() {
    let expected = "-heartbeat-ms 301 is too long for -election-ms 1500: five heartbeats have to fit in \
                    an election";
    assert_eq!(complaint(&["-heartbeat-ms", "301"]), expected);
    assert!(typed(&["-heartbeat-ms", "300"]).is_ok());
    assert!(typed(&["-heartbeat-ms", "301", "-election-ms", "1505"]).is_ok());
}

#[test]
fn what_is_no_number_is_refused_in_the_same_words() {
    for value in ["abc", "", "-5", "1e6", "1.5", "99999999999999999999", "1 000"] {
        let expected = format!("-slots `{value}`: give a whole number from 1 to 1099511627776");
        assert_eq!(complaint(&["-slots", value]), expected);
    }
    assert_eq!(typed(&["-slots", "1_048_576"]).unwrap().slot_count, Some(1 << 20));
}

#[test]
fn lists_without_items_or_with_too_many_are_refused() {
    let text = complaint(&["-key-prefixes", ","]);
    assert_eq!(text, "-key-prefixes `,`: give 1 to 64 of them, with commas between");
    assert!(complaint(&["-join", &vec!["h:1"; 65].join(",")]).contains("give 1 to 64 of them"));
}

#[test]
fn slots_that_no_file_could_hold_are_refused() {
    let expected =
        "-slots 1099511627776 of -value-size 1048576: give fewer slots or smaller values";
    let geometry = ["-slots", "1099511627776", "-value-size", "1048576"];
    assert_eq!(complaint(&geometry), expected);
    assert!(typed(&["-slots", "1000000000"]).is_ok());
}

#[test]
fn text_that_is_no_address_is_refused_with_the_reason() {
    for (flag, value, reason) in [
        ("-port", "x", "the port is no number"),
        ("-port", "70000", "the port is no number"),
        ("-raft", ":0", "port 0"),
        ("-hjoin", "::1:5", "needs brackets"),
        ("-hjoin", "[::1:5", "a bracket is missing"),
        ("-raft", "[x]:5", "no IPv6 address"),
        ("-join", "a b:5", "the host is no name"),
        ("-join", ":13000,", "the port is no number"),
    ] {
        let text = complaint(&[flag, value]);
        assert!(text.starts_with(flag) && text.contains(reason), "{text}");
        assert!(text.ends_with("give :PORT or HOST:PORT"), "{text}");
    }
}

#[test]
fn an_address_beyond_this_machine_needs_leave() {
    for (flag, value) in [("-port", "0.0.0.0:1"), ("-raft", "10.0.0.1:1"), ("-hjoin", "db:1")] {
        let text = complaint(&[flag, value]);
        assert!(text.starts_with(&format!("{flag} {value} is reachable")), "{text}");
        assert!(text.contains("use 127.0.0.1:1, or -tls"), "{text}");
        assert!(text.contains("or add -insecure"), "{text}");
        assert!(typed(&[flag, value, "-insecure", "-advertise", "db"]).is_ok());
        let text = complaint(&[flag, value, "-tokens", "tokens.toml"]);
        let reason =
            if flag == "-port" { "cross the network in the clear" } else { "add -insecure" };
        assert!(text.contains(reason), "{text}");
        // Whoever connects has to show a certificate: members always, clients where that is asked for.
        let under =
            |mode| typed(&[flag, value, "-tls", "d", "-tls-mode", mode, "-advertise", "db"]);
        assert!(under("mutual").is_ok());
        assert_eq!(under("require").is_ok(), flag != "-port");
        assert!(under("prefer").is_err());
        // Under TLS nobody on the way reads tokens.
        let tokens = ["-tls", "d", "-tokens", "t", "-advertise", "db"];
        assert!(typed(&[&[flag, value], &tokens[..]].concat()).is_ok());
    }
    assert!(complaint(&["-tls-mode", "mutual"]).contains("takes -tls DIR"));
    assert!(complaint(&["-tls", "d", "-tls-mode", "off"]).contains("require, mutual, prefer"));
    for loopback in ["127.0.0.2:1", "localhost:1", "[::1]:1", "1"] {
        assert!(typed(&["-port", loopback]).is_ok(), "{loopback}");
    }
}

#[test]
fn listening_everywhere_needs_a_host_to_tell_others() {
    let text = complaint(&["-raft", "0.0.0.0:12000", "-insecure"]);
    assert!(text.ends_with("add -advertise HOST"), "{text}");
    assert!(complaint(&["-join", "0.0.0.0:1"]).contains("no address that a member"));
    for host in ["0.0.0.0", "", "a b", "h:1"] {
        let text = complaint(&["-advertise", host]);
        assert!(text.starts_with(&format!("-advertise `{host}`: give the host name")), "{text}");
    }
}

#[test]
fn one_port_for_two_purposes_is_refused() {
    let expected = "-port and -raft both use port 12000; give each its own";
    assert_eq!(complaint(&["-port", ":12000"]), expected);
    let expected = "-raft and -hjoin both use port 12000; give each its own";
    assert_eq!(complaint(&["-hjoin", ":12000"]), expected);
    assert!(typed(&["-port", "127.0.0.2:12000"]).is_ok());
}

#[test]
fn joining_through_itself_alone_is_refused() {
    for (target, flag) in [(":12000", "-raft"), ("127.0.0.1:13000", "-hjoin")] {
        let text = complaint(&["-hjoin", ":13000", "-join", target]);
        let expected = format!("{} is this node's own {flag}; ", address(target));
        assert!(text.contains(&expected), "{text}");
    }
    // One list for all nodes, and another machine's same port.
    assert!(typed(&["-join", ":12000,:12001"]).is_ok());
    assert!(typed(&["-join", "127.0.0.2:12000"]).is_ok());
}

#[test]
fn defaults_that_follow_the_data_file_stay_in_their_bounds() {
    let config = typed(&[]).unwrap();
    let mib = 1 << 20;
    let distance =
        |config: &Config, kind, data| checkpoint_bytes(config.checkpoint_bytes, kind, data);
    for kind in [MachineKind::Slots, MachineKind::Memory] {
        assert_eq!(distance(&config, kind, mib), 256 * mib);
        assert_eq!(distance(&config, kind, 300 * mib), 300 * mib);
        assert_eq!(distance(&config, kind, 9000 * mib), 1024 * mib);
    }
    assert_eq!(distance(&config, MachineKind::Journal, mib), 64 * mib);
    assert_eq!(config.memory_bytes_for(mib, 8192 * mib), 256 * mib);
    assert_eq!(config.memory_bytes_for(1000 * mib, 8192 * mib), 1000 * mib);
    assert_eq!(config.memory_bytes_for(9000 * mib, 8192 * mib), 2048 * mib);
    let asked = typed(&["-memory-mib", "20", "-checkpoint-mib", "2"]).unwrap();
    assert_eq!(asked.memory_bytes_for(9000 * mib, 8192 * mib), 20 * mib);
    assert_eq!(distance(&asked, MachineKind::Slots, 9000 * mib), 2 * mib);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let text = "id = \"f\"\nslots = 9\nread = \"local\"\ninsecure = true\nport = \"10.0.0.1:1\"";
    let config = with_file(text, &["-slots", "5"]).unwrap();
    assert_eq!((config.id.as_str(), config.slot_count), ("f", Some(5)));
    assert_eq!(config.read_level, ReadLevel::Local);
    assert!(config.insecure);
    assert!(with_file(text, &["-insecure=false"]).is_err());
}

#[test]
fn an_unknown_name_in_the_file_is_answered_with_the_nearest() {
    let text = with_file("valuesize = 5", &[]).unwrap_err().to_string();
    assert!(text.ends_with("`valuesize` is no flag; did you mean `value-size`?"), "{text}");
    let text = with_file("[group]\nid = 1", &[]).unwrap_err().to_string();
    assert!(text.ends_with("`group` is no flag"), "{text}");
}

#[test]
fn a_file_that_is_no_toml_or_has_a_wrong_type_is_refused_with_the_line() {
    for text in ["id = ", "id = 5", "slots = -1", "slots = \"many\""] {
        let error = with_file(text, &[]).unwrap_err();
        assert!(error.to_string().ends_with("node.toml: not valid"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("line 1"), "{source}");
    }
}

#[test]
fn a_file_that_is_missing_or_endless_is_refused() {
    assert!(complaint(&["-config", "/nowhere/x"]).contains("/nowhere/x: the file cannot be read"));
    let long = "#".repeat((1 << 20) + 1);
    assert!(with_file(&long, &[]).unwrap_err().to_string().contains("too long"));
}

#[test]
fn addresses_print_as_they_are_read() {
    for text in ["127.0.0.1:5", "[::1]:5", "node1.example:12000"] {
        assert_eq!(address(text).to_string(), text);
    }
}

#[test]
fn flags_of_the_other_program_are_refused_with_what_this_one_has() {
    let refused = |machine, settings| Config::new(machine, settings).unwrap_err().to_string();
    let number = || Some(Number("5".into()));
    let settings = Settings { value_max: number(), ..Settings::default() };
    let text = refused(MachineKind::Slots, settings);
    assert_eq!(text, "-value-max is no flag of diskstore: give -value-size");
    let settings = Settings { value_size: number(), ..Settings::default() };
    let text = refused(MachineKind::Memory, settings);
    assert_eq!(text, "-value-size is no flag of kvstore: give -value-max");
    let settings = Settings { slots: number(), ..Settings::default() };
    let text = refused(MachineKind::Memory, settings);
    assert!(text.starts_with("-slots is no flag of kvstore: any bytes are a key"), "{text}");
    let settings = Settings { value_max: number(), ..Settings::default() };
    assert_eq!(Config::new(MachineKind::Memory, settings).unwrap().new_value_bytes(), 5);
    let config = Config::new(MachineKind::Memory, Settings::default()).unwrap();
    assert_eq!(config.new_value_bytes(), 1 << 20);
    assert_eq!(config.data_dir, Path::new("./kvstore-data/node0"));
}

fn with_cluster(text: &str, arguments: &[&str]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.yml");
    std::fs::write(&path, text).unwrap();
    typed(&[&["-cluster", path.to_str().unwrap()], arguments].concat())
}

const SERVERS: &str = "servers:\n  a: 127.0.0.1:1\n  b: 127.0.0.1:2\n";

#[test]
fn a_file_of_members_gives_a_node_its_addresses_and_whom_to_ask() {
    let config = with_cluster(SERVERS, &["-id", "b"]).unwrap();
    assert_eq!(config.raft_address, address("127.0.0.1:2"));
    assert_eq!(config.client_address, address("127.0.0.1:10002"));
    assert_eq!(config.join_targets, [address("127.0.0.1:1")]);
    assert_eq!(config.listed.len(), 2);
    let named = format!("{SERVERS}localServerName: a\n");
    assert_eq!(with_cluster(&named, &[]).unwrap().id, "a");
    let config = with_cluster(&named, &["-id", "b", "-port", ":7"]).unwrap();
    assert_eq!((config.id.as_str(), config.client_address.port), ("b", 7), "a flag wins");
    let text = "servers:\n  a: a.example:1\nhttpServers:\n  a: 0.0.0.0:2\n";
    let config = with_cluster(text, &["-id", "a", "-raft", "0.0.0.0:1", "-insecure"]).unwrap();
    assert_eq!(config.advertised_raft(), address("a.example:1"));
    assert_eq!(config.advertised_client(), address("a.example:2"));
    assert_eq!(config.join_targets, []);
}

#[test]
fn a_file_of_members_that_leaves_open_who_this_is_is_refused() {
    let complaint = |arguments| with_cluster(SERVERS, arguments).unwrap_err().to_string();
    let error = complaint(&[]);
    assert!(error.ends_with("give -id NAME, which of a, b this node is"), "{error}");
    let error = complaint(&["-id", "c"]);
    assert!(error.ends_with("this node is `c`, and the file lists a, b only"), "{error}");
    let error = complaint(&["-id", "a", "-join", ":9"]);
    assert!(error.starts_with("-join and -cluster"), "{error}");
    let error = told(&with_cluster("servers:\n  a:\n", &["-id", "a"]).unwrap_err());
    assert!(error.ends_with("cluster.yml: `servers.a` has no address; give HOST:PORT"), "{error}");
    assert_eq!(error.matches("servers.a").count(), 1, "said once: {error}");
    let long = format!("# {}\n", "x".repeat(1 << 20));
    let error = told(&with_cluster(&long, &["-id", "a"]).unwrap_err());
    assert!(error.starts_with("-cluster") && error.contains("are too long"), "{error}");
    let error = told(&typed(&["-cluster", "/nowhere.yml"]).unwrap_err());
    assert!(error.contains("cannot be read"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "said once: {error}");
}

#[test]
fn the_flags_of_konsen_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.yml");
    std::fs::write(&path, format!("{SERVERS}localServerName: a\n")).unwrap();
    let config =
        typed(&["--cluster_config_path", path.to_str().unwrap(), "--db_dir", "/d"]).unwrap();
    assert_eq!((config.id.as_str(), config.data_dir.as_path()), ("a", Path::new("/d")));
}

#[test]
fn the_line_of_kvstore_is_taken() {
    let line = |text: &str| {
        let words = std::iter::once("kvstore").chain(text.split_whitespace()).map(OsString::from);
        cli::parse_kvstore(words)
    };
    let settings = line("1 config.json logs data -port :7").unwrap().all_settings();
    assert_eq!(settings.id.as_deref(), Some("1"));
    assert_eq!(settings.cluster, Some(PathBuf::from("config.json")));
    assert_eq!(settings.logfolder, Some(PathBuf::from("logs")));
    assert_eq!(settings.data, Some(PathBuf::from("data")));
    assert_eq!(settings.port.as_deref(), Some(":7"));
    for wrong in ["1", "1 config.json logs", "1 c l d e", "1 c l d -id 2", "1 c l d -data e"] {
        assert_eq!(line(wrong).unwrap_err().exit_code, 2, "{wrong}");
    }
    let settings = line("-id a").unwrap().all_settings();
    assert_eq!((settings.id.as_deref(), settings.cluster), (Some("a"), None));
}
