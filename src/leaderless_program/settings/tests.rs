//! What is typed, what files say, and what the environment says, together; and what is refused.

use std::ffi::OsString;

use super::*;
use crate::cli::parse_leaderless;

const NODE: &str = "node:\n  id: 1\n  local_address: localhost:8001\n  badger_db_folder: DIR/d\n";
const CLUSTER: &str = "cluster:\n  replica_count: 2\n  nodes:\n    1: {remote_address: localhost:8001}\n    \
                       2: {remote_address: localhost:8002}\n";
const STORAGE: &str = "storage_node:\n  id: 2\n  bind_address: localhost:81\n  badger_db_folder: DIR/s\n  \
                       level: one\n  bind_metrics_address: localhost:91\n";
const COORDINATOR: &str = "coordinator_node:\n  replication_level: 2\n  bind_address: localhost:80\n  \
                           storage_node_ids: [1, 2]\n  static_service_discovery: {1: localhost:81, 2: \
                           localhost:82}\n";

/// A folder with all files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("node", NODE),
            ("cluster", CLUSTER),
            ("storage", STORAGE),
            ("coordinator", COORDINATOR),
        ];
        for (name, text) in files {
            let text = text.replace("DIR", folder.path().to_str().unwrap());
            std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
        }
        Folder(folder)
    }

    /// What a line comes to, `%` being the folder, with these variables.
    fn resolve_with(&self, line: &str, variables: &[(&str, &str)]) -> Result<Resolved> {
        let line = line.replace('%', &format!("{}/", self.0.path().display()));
        let words = ["leaderless"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        resolve(parse_leaderless(words).expect("usage is right"), &variable)
    }

    fn resolve(&self, line: &str) -> Result<Resolved> {
        self.resolve_with(line, &[])
    }

    fn node(&self, line: &str) -> RegistersConfig {
        let Role::Node(config) = self.resolve(line).unwrap().role else { panic!("{line}") };
        config
    }
}

#[test]
fn files_of_both_ages_make_nodes_and_coordinators() {
    let folder = Folder::new();
    let node = folder.node("%node.yml %cluster.yml");
    assert_eq!((node.id.as_str(), node.layout.nodes().len()), ("1", 2));
    assert_eq!(node.directory, folder.0.path().join("d"));
    assert_eq!(folder.node("%cluster.yml %node.yml").layout, node.layout, "in any order");
    let storage = folder.resolve("%storage.yml %coordinator.yml").unwrap();
    assert_eq!((storage.level, storage.metrics.unwrap().port), (Level::One, 91));
    let resolved = folder.resolve("%coordinator.yml -port localhost:70").unwrap();
    let Role::Coordinator(coordinator) = resolved.role else { panic!("no coordinator") };
    let Role::Node(storage) = storage.role else { panic!("no node") };
    assert_eq!(coordinator.layout.hash(), storage.layout.hash(), "they place keys alike");
    assert_eq!(resolved.listen.port, 70);
    let alone = folder.resolve("%storage.yml").unwrap();
    assert!(alone.notes[0].starts_with("this node is alone"), "{:?}", alone.notes);
    let Role::Node(alone) = alone.role else { panic!("no node") };
    assert_eq!((alone.layout.nodes().len(), alone.layout.replica_count()), (1, 1));
}

#[test]
fn flags_count_before_variables_and_those_before_files() {
    let folder = Folder::new();
    let variables = [("NODE_ID", "1"), ("BIND_ADDRESS", "localhost:88"), ("BADGERDB_FOLDER", "/v")];
    let line = "%storage.yml %coordinator.yml";
    let resolved = folder.resolve_with(line, &variables).unwrap();
    let Role::Node(config) = resolved.role else { panic!("no node") };
    assert_eq!((config.id.as_str(), resolved.listen.port), ("1", 88));
    assert_eq!(config.directory, Path::new("/v"));
    let typed =
        format!("{line} -id 2 -port localhost:99 -dir /f -level all -value-max 10 -sync batch:5");
    let resolved = folder.resolve_with(&typed, &variables).unwrap();
    let Role::Node(config) = resolved.role else { panic!("no node") };
    assert_eq!((config.id.as_str(), resolved.listen.port, resolved.level), ("2", 99, Level::All));
    assert_eq!((config.directory.as_path(), config.value_bytes_max), (Path::new("/f"), 10));
    // Without a file these variables are somebody else's.
    let error = folder.resolve_with("-nodes 1=h:1", &variables).unwrap_err().to_string();
    assert!(error.contains("give NODE.yml and CLUSTER.yml"), "{error}");
}

#[test]
fn a_cluster_can_be_typed_and_stand_in_a_file_of_flags() {
    let folder = Folder::new();
    let line = "-id b -nodes a=localhost:1*3@x,b=localhost:2@y,c=localhost:3 -replicas 2 -seed 7 -dir %b \
                -forget-after 1h -accept-loss";
    let node = folder.node(line);
    assert_eq!((node.layout.seed(), node.layout.replica_count()), (7, 2));
    let first = node.layout.node("a").unwrap();
    assert_eq!((first.weight, first.zone.as_deref()), (3, Some("x")));
    assert_eq!((node.forget_after, node.accepts_loss), (Duration::from_hours(1), true));
    let resolved = folder.resolve(line).unwrap();
    assert_eq!(resolved.listen.port, 2, "where the others dial it");
    let toml = "id = \"b\"\nnodes = \"a=localhost:1,b=localhost:2\"\nmemory-mib = 32\nlog-level = \"warn\"\n";
    std::fs::write(folder.0.path().join("f.toml"), toml).unwrap();
    let resolved = folder.resolve("-config %f.toml -dir %b").unwrap();
    assert_eq!(resolved.log, LogLevel::Warn);
    let Role::Node(config) = resolved.role else { panic!("no node") };
    assert_eq!((config.memory_bytes_max, config.layout.replica_count()), (32 << 20, 2));
}

#[test]
fn what_does_not_go_together_is_named() {
    let folder = Folder::new();
    let write = |name: &str, text: &str| std::fs::write(folder.0.path().join(name), text).unwrap();
    write("beyond.yml", &NODE.replace("localhost", "0.0.0.0"));
    write("far.yml", &CLUSTER.replace("localhost:8001", "10.0.0.1:8001"));
    write("third.yml", &NODE.replace("id: 1", "id: 01"));
    let found = "dns_service_discovery: {storage_node_domain: d, storage_node_port: 80, update_interval: 1m}";
    let dns = COORDINATOR.replace("{1: localhost:81, 2: localhost:82}", "{2: localhost:82}");
    write("dns.yml", &format!("{dns}  {found}\n"));
    write("bad.toml", "prot = 1\n");
    for (line, words) in [
        ("", "give NODE.yml and CLUSTER.yml, or -id and -nodes; or try: leaderless demo"),
        ("%none.yml", "none.yml"),
        ("%cluster.yml", "needs a node's before it"),
        ("%node.yml %storage.yml", "two files of one kind"),
        ("%cluster.yml %coordinator.yml", "two files of one kind"),
        ("%third.yml %cluster.yml", "node 01 is not among the nodes 1, 2"),
        ("%beyond.yml %cluster.yml", "is reached from other machines"),
        ("%node.yml %far.yml", "the others dial this node at 10.0.0.1:8001"),
        ("%node.yml %cluster.yml -nodes 1=h:1", "not both"),
        ("%coordinator.yml -id 1", "a coordinator takes -port"),
        ("%coordinator.yml -memory-mib 5", "a coordinator takes -port"),
        ("%node.yml %cluster.yml -replicas 1", "-replicas and -seed go with -nodes"),
        ("%storage.yml %dns.yml", "node 1 has no address"),
        ("%node.yml %cluster.yml -level two", "-level `two`: give one, quorum or all"),
        ("%node.yml %cluster.yml -memory-mib 0", "-memory-mib"),
        ("%node.yml %cluster.yml -sync now", "-sync"),
        ("%node.yml %cluster.yml -forget-after 1s", "give 10m or more"),
        ("%node.yml %cluster.yml -log loud", "-log"),
        ("-id 1 -nodes 1", "write ID=HOST:PORT"),
        ("-id 1 -nodes 1=h", "-nodes `h`"),
        ("-id 1 -nodes 1=localhost:1*33", "a weight is 1 to 32"),
        ("-id 1 -nodes 1=0.0.0.0:1", "no address that other nodes can reach"),
        ("-id 1 -nodes 1=localhost:1,1=localhost:2", "node 1 is there twice"),
        ("-id 1 -nodes 1=localhost:1,2=localhost:1", "are both at"),
        ("-id 1 -nodes 1=localhost:1 -replicas 2", "2 replicas of each key over 1 nodes"),
        ("-config %bad.toml", "prot"),
    ] {
        let error = folder.resolve(line).expect_err(line).to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
    assert!(folder.resolve("%beyond.yml %cluster.yml -insecure").is_ok());
}

#[test]
fn a_folder_of_the_original_is_refused_with_a_pointer_to_import() {
    for file in ["MANIFEST", "000001.vlog", "000002.sst", "KEYREGISTRY"] {
        let folder = Folder::new();
        std::fs::create_dir(folder.0.path().join("d")).unwrap();
        std::fs::write(folder.0.path().join("d").join(file), "x").unwrap();
        let error = folder.resolve("%node.yml %cluster.yml").unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("leaderless import -from"), "{error}");
    }
}

#[test]
fn a_clock_is_wrong_for_a_test_alone_and_says_so() {
    let folder = Folder::new();
    let line = "-id 1 -nodes 1=localhost:8001 -replicas 1 -dir %d";
    assert!(matches!(folder.resolve(line).unwrap().clock, Clock::System));
    let off = folder.resolve_with(line, &[(CLOCK_OFF, "-8000")]).unwrap();
    assert!(matches!(off.clock, Clock::Off(-8000)));
    assert!(off.notes.last().is_some_and(|note| note.contains("wrong by -8000 ms")));
    assert!(folder.resolve_with(line, &[(CLOCK_OFF, "1h")]).is_err());
    assert_eq!(folder.resolve_with(line, &[(PACE, "100")]).unwrap().pace_times, 100);
    assert!(folder.resolve_with(line, &[(PACE, "0")]).is_err());
    for line in [
        "-id 1 -nodes 1=h:8001 -replicas 1 -dir %d -port 0.0.0.0:8001 -insecure",
        "-id 1 -nodes 1=localhost:8001,2=h:8001 -replicas 1 -dir %d",
        "-id 1 -nodes 1=localhost:8001 -replicas 1 -dir %d -metrics h:9001 -insecure",
    ] {
        folder.resolve(line).unwrap();
        for name in [CLOCK_OFF, PACE] {
            let error = folder.resolve_with(line, &[(name, "7")]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("loopback"), "{error}");
        }
    }
}
