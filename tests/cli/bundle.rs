//! Folders for the nodes of a cluster, made out of the file that lists its members.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Node, Place, host, refused, run, stderr, stdout};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A file of three members of their own addresses, and where their folders go.
fn three(place: &Place) -> (String, PathBuf) {
    let file = place.file("cluster.yml");
    let hosts = NAMES.map(|name| (name, host()));
    let lines = |port: u16| {
        hosts.iter().fold(String::new(), |mut lines, (name, host)| {
            writeln!(lines, "  {name}: {host}:{port}").unwrap();
            lines
        })
    };
    let text = format!("servers:\n{}httpServers:\n{}", lines(12000), lines(11000));
    std::fs::write(&file, text).unwrap();
    (file, place.directory.path().join("output"))
}

fn client_of(node: &Path) -> String {
    let text = std::fs::read_to_string(node.join("cluster.yml")).unwrap();
    let clients = text.split("httpServers:").nth(1).unwrap();
    let name = node.file_name().unwrap().to_str().unwrap();
    let line = clients.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
    line.unwrap().to_owned()
}

#[test]
fn started_folders_are_a_cluster_wherever_they_were_brought() {
    let place = Place::new();
    let (file, made) = three(&place);
    let shared = place.file("all.toml");
    std::fs::write(&shared, "slots = 4096 # as all\nlogfolder = \"log\"\n").unwrap();
    let output = made.display().to_string();
    let ended = run(&["bundle", &file, "-o", &output, "-config", &shared, "-json"]);
    assert!(ended.status.success(), "{}", stderr(&ended));
    let told: serde_json::Value = serde_json::from_str(&stdout(&ended)).unwrap();
    assert_eq!(told["nodes"][2]["name"], "c");
    assert_eq!(told["nodes"][2]["folder"], made.join("c").display().to_string());
    let mut names: Vec<_> =
        made.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, NAMES, "nothing else is left there");

    let elsewhere = place.directory.path().join("else where");
    std::fs::rename(&made, &elsewhere).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut nodes: Vec<Node> = NAMES
        .iter()
        .rev()
        .map(|name| {
            Node::spawn(Command::new(elsewhere.join(name).join("start.sh")).current_dir("/"))
        })
        .collect();
    for node in &mut nodes {
        node.wait_for("next: ");
    }
    let ask = |node: &str, arguments: &[&str]| {
        let address = client_of(&elsewhere.join(node));
        let ended = run(&[arguments, &["-addr", &address]].concat());
        assert!(ended.status.success(), "{}", stderr(&ended));
        stdout(&ended)
    };
    ask("a", &["set", "4095", "hello"]);
    assert_eq!(ask("c", &["get", "4095"]), "hello\n");
    for (node, name) in nodes.into_iter().zip(NAMES.iter().rev()) {
        node.stop(); // the script is the node: it hears the signal
        let folder = elsewhere.join(name);
        assert!(folder.join("data/IDENTITY").exists() && folder.join("log").is_dir());
    }
}

#[test]
fn nothing_is_written_where_a_node_could_not_start_or_a_folder_is_there() {
    let place = Place::new();
    let (file, made) = three(&place);
    let output = made.display().to_string();
    let bundle = |more: &[&str]| refused(2, &[&["bundle", &file, "-o", &output], more].concat());
    let shared = place.file("all.toml");
    for (settings, words) in [
        ("id = \"a\"", "`id` differs between nodes"),
        ("port = \"127.0.0.1:11000\"", "`port` differs between nodes"),
        ("slotz = 5", "slotz"),
        ("slots = 0", "-slots"),
        ("value-max = 5", "-value-max"),
        ("slots = ", "TOML"),
    ] {
        std::fs::write(&shared, settings).unwrap();
        let said = bundle(&["-config", &shared]);
        assert!(said.contains(words), "{settings}: {said}");
    }
    assert!(bundle(&["-program", "/bin/sh"]).contains("it is called diskstore or kvstore"));
    assert!(bundle(&["-program", "/nowhere/kvstore"]).contains("/nowhere/kvstore"));
    assert!(bundle(&["-at", "opt"]).contains("whole path"));
    let open = place.file("open.yml");
    std::fs::write(&open, "servers:\n  a: 10.0.0.1:12000\n").unwrap();
    let said = refused(2, &["bundle", &open, "-o", &output]);
    assert!(said.contains("-insecure"), "{said}");
    assert!(refused(2, &["bundle", &place.file("no.yml"), "-o", &output]).contains("no.yml"));
    assert!(!made.exists());

    std::fs::create_dir_all(made.join("b")).unwrap();
    std::fs::write(made.join("b/mine"), "mine").unwrap();
    assert!(bundle(&[]).contains("is there already"));
    assert!(!made.join("a").exists() && made.join("b/mine").exists());
}

#[test]
fn unit_runs_the_folder_with_its_files_in_a_directory_of_its_own() {
    let place = Place::new();
    let (file, made) = three(&place);
    let output = made.display().to_string();
    let ended = run(&["bundle", &file, "-o", &output, "-at", "/srv/50% \"of\" it"]);
    assert!(ended.status.success(), "{}", stderr(&ended));
    let unit = std::fs::read_to_string(made.join("b/diskstore-b.service")).unwrap();
    let at = r#""/srv/50%% \"of\" it/b/"#;
    let start = format!(
        "ExecStart={at}diskstore\" -config {at}diskstore.toml\" -cluster {at}cluster.yml\"\n"
    );
    for line in [&start, "WorkingDirectory=%S/diskstore-b\n", "StateDirectory=diskstore-b\n"] {
        assert!(unit.contains(line), "{line}: {unit}");
    }
    assert!(unit.contains("ProtectSystem=strict\n") && !unit.contains("/usr/local/bin"), "{unit}");
}
