//! What shells and `man` are told: completions that complete, and pages without complaints.

use std::process::Command;

use crate::harness::{run, stdout};
use crate::installed::is_installed;
use crate::skipped::note_skipped;

/// What bash offers behind these words.
fn offered(script: &str, program: &str, words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let (current, before) = (words[last], words[last - 1]);
    let list = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let asked = format!(
        "{script}\nCOMP_WORDS=({list}) COMP_CWORD={last}\n\
         _{program} {program} '{current}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    );
    let output = Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_flags_with_one_dash_and_sub_commands() {
    let completions = |more: &[&str]| {
        let output = run(&[&["completions", "bash"], more].concat());
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let script = completions(&[]);
    let offered = |words: &[&str]| offered(&script, "diskstore", words);
    assert_eq!(offered(&["diskstore", "-hj"]), ["-hjoin"]);
    assert_eq!(offered(&["diskstore", "stat"]), ["status"]);
    assert_eq!(offered(&["diskstore", "-id", "a", "-value-s"]), ["-value-size"]);
    assert_eq!(offered(&["diskstore", "status", "-ad"]), ["-addr"]);
    assert_eq!(offered(&["diskstore", "transfer-leader", "-j"]), ["-json"]);
    assert_eq!(offered(&["diskstore", "completions", "f"]), ["fish"]);
    assert!(!offered(&["diskstore", "-insecure", "-"]).is_empty());
    let all = offered(&["diskstore", "-"]);
    assert!(all.iter().all(|flag| flag.starts_with('-') && !flag.starts_with("--")), "{all:?}");
    let kvstore = completions(&["-program", "kvstore"]);
    assert_eq!(
        self::offered(&kvstore, "kvstore", &["kvstore", "-value-"]),
        ["-value-size", "-value-max"]
    );
    let leaderless = completions(&["-program", "leaderless"]);
    let offered = |words: &[&str]| self::offered(&leaderless, "leaderless", words);
    assert_eq!(offered(&["leaderless", "-rep"]), ["-replicas"]);
    assert_eq!(offered(&["leaderless", "bench", "-lev"]), ["-level"]);
    assert_eq!(offered(&["leaderless", "stat"]), ["status"]);
}

#[test]
fn every_sub_command_has_a_page_that_man_can_show() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("man1");
    let output = run(&["man", "-o", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let help = stdout(&run(&["help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.map_while(|line| line.split_whitespace().next());
    let mut pages: Vec<_> = commands.map(|command| format!("diskstore-{command}.1")).collect();
    assert!(pages.contains(&"diskstore-doctor.1".to_owned()), "{pages:?}");
    pages.extend(
        ["diskstore.1", "kvstore.1", "leaderless.1", "leaderless-bench.1"].map(str::to_owned),
    );
    let text = |page: &str| std::fs::read_to_string(folder.join(page)).unwrap();
    assert!(text("diskstore.1").contains("\\-hjoin"));
    assert!(text("leaderless-bench.1").contains("127.0.0.1:8001"));
    if is_installed(Command::new("groff").arg("--version")) {
        let paths = pages.iter().map(|page| folder.join(page));
        let checked =
            Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).args(paths).output();
        let checked = checked.unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    } else {
        note_skipped("groff is not installed: nothing says whether man can show the pages");
    }
}
