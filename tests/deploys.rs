//! What stands under `deploys/`, as far as it can be tried without Docker, Kubernetes and systemd
//! themselves: their own checks of the files, flags that the programs must take, and the manifests'
//! pods as plain processes in networks of their own. What is not installed is skipped, see
//! `clients/installed.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(clippy::print_stderr, reason = "what was skipped is for whoever reads along")]

#[path = "clients/installed.rs"]
#[expect(dead_code, reason = "shared with the tests of real clients, which use the rest")]
mod installed;
#[path = "cluster/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use installed::{has, is_installed, python};
use skipped::note_skipped;

const DISKSTORE: &str = env!("CARGO_BIN_EXE_diskstore");
/// The program, as the unit has it.
const INSTALLED: &str = "/usr/local/bin/diskstore";
/// Ten times what `systemd-analyze security` may say of the unit: 0 is best, 100 is no protection.
const EXPOSURE_MAX: &str = "15";
/// No address of this machine: a node whose flags are right fails to listen there, and stops.
const ELSEWHERE: &str = "192.0.2.1:1";

fn deploys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploys")
}

/// A script of `tests/deploys`, by this command and with the directory of the programs.
fn script(mut command: Command, name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploys");
    command.arg(folder.join(name)).arg(Path::new(DISKSTORE).parent().unwrap());
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a command to its end; what it said on both of its streams.
fn ended(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output, said)
}

#[track_caller]
fn has_modules(modules: &str) -> bool {
    has(&format!("python with {modules}"), python().args(["-c", &format!("import {modules}")]))
}

#[test]
fn every_manifest_keeps_to_its_schema_and_every_flag_is_one_of_the_programs() {
    if has_modules("compose_spec, kubernetes_validate, yaml") {
        if !is_installed(Command::new("kubectl").args(["kustomize", "--help"])) {
            note_skipped("kubectl is not installed: nothing is compared with what it renders");
        }
        let (output, said) = ended(&mut script(python(), "manifests.py"));
        assert!(output.status.success() && said.ends_with("ok\n"), "{said}");
    }
}

#[test]
fn pods_find_each_other_by_name_and_again_at_other_addresses() {
    let mut apart = Command::new("unshare");
    apart.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let try_it = ["ip", "link", "add", "lan", "type", "bridge"];
    let mut trial = Command::new("unshare");
    if !is_installed(trial.args(apart.get_args()).args(try_it)) {
        return note_skipped(
            "no network of its own can be made for a process here (root, iproute2)",
        );
    }
    if has_modules("yaml") {
        let directory = tempfile::tempdir().unwrap();
        apart.arg(python().get_program());
        let mut pods = script(apart, "topology.py");
        let (output, said) = ended(pods.arg(directory.path()));
        assert!(output.status.success() && said.ends_with("ok\n"), "{said}");
    }
}

#[test]
fn dockerfile_has_nothing_that_hadolint_complains_of() {
    let beside_python = Path::new(python().get_program()).with_file_name("hadolint");
    if has("hadolint", Command::new(&beside_python).arg("--version")) {
        let dockerfile = deploys().join("docker/Dockerfile");
        let (output, said) = ended(Command::new(beside_python).arg(dockerfile));
        assert!(output.status.success(), "{said}");
    }
}

/// The unit, as it would be here, in a directory.
fn unit(directory: &Path) -> PathBuf {
    let text = std::fs::read_to_string(deploys().join("systemd/diskstore.service")).unwrap();
    assert!(text.contains(&format!("ExecStart={INSTALLED} ")), "{text}");
    let path = directory.join("diskstore.service");
    std::fs::write(&path, text.replace(INSTALLED, DISKSTORE)).unwrap();
    path
}

#[test]
fn systemd_takes_the_unit_and_finds_it_hardened() {
    if !is_installed(Command::new("systemd-analyze").arg("--version")) {
        return note_skipped("systemd is not installed: its unit is not looked at");
    }
    let directory = tempfile::tempdir().unwrap();
    for unit in [unit(directory.path()), bundled_unit(directory.path())] {
        let analyze = |arguments: &[&str]| {
            let mut command = Command::new("systemd-analyze");
            ended(command.env("SYSTEMD_COLORS", "0").args(arguments).arg(&unit))
        };
        let (output, said) = analyze(&["verify", "--man=no"]);
        // It may complain of other units of this machine.
        let complaint = said.lines().find(|line| line.contains("diskstore"));
        assert!(output.status.success() && complaint.is_none(), "{said}");
        let (output, said) =
            analyze(&["security", "--offline=true", &format!("--threshold={EXPOSURE_MAX}")]);
        assert!(output.status.success(), "{said}");
    }
}

/// The unit that a bundle has for a node, at a place with a blank in its path.
fn bundled_unit(directory: &Path) -> PathBuf {
    let members = directory.join("cluster.yml");
    std::fs::write(&members, "servers:\n  a: 127.0.0.1:12000\n").unwrap();
    let at = directory.join("put here");
    let mut bundle = Command::new(DISKSTORE);
    let (output, said) =
        ended(bundle.arg("bundle").arg(members).arg("-o").arg(&at).arg("-at").arg(&at));
    assert!(output.status.success(), "{said}");
    at.join("a/diskstore-a.service")
}

#[test]
fn unit_and_its_configuration_have_flags_that_the_program_takes() {
    let directory = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(deploys().join("systemd/diskstore.toml")).unwrap();
    let joining = text.replace("# join = ", "join = ");
    assert_ne!(text, joining);
    let state = directory.path().join("state").display().to_string();
    let config = directory.path().join("diskstore.toml");
    let unit = std::fs::read_to_string(unit(directory.path())).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    for text in [text, joining] {
        std::fs::write(&config, text).unwrap();
        let line = line.replace("/etc/diskstore/diskstore.toml", &config.display().to_string());
        let line = line.replace("%S/diskstore", &state);
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let (output, said) = ended(command.args(words).args(["-port", ELSEWHERE]));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(ELSEWHERE), "{said}");
    }
}
