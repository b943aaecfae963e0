//! The rules of the house that neither the compiler nor clippy checks. No rule here needs to be
//! read twice: a failing one prints file, line and what to do.
#![allow(clippy::unwrap_used, reason = "a broken tree may stop the test anyhow")]

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/citations.rs"]
mod citations;
#[path = "tidy/hosts.rs"]
mod hosts;
#[path = "tidy/signatures.rs"]
mod signatures;
#[path = "tidy/walks.rs"]
mod walks;

use std::collections::BTreeSet;
use std::path::Path;

/// Most lines of a file before its tests.
const FILE_LINES_MAX: usize = 600;
const README_LINES_MAX: usize = 150;
const ARCHITECTURE_LINES_MAX: usize = 300;
const SCRIPT_LINES_MAX: usize = 40;

/// The only files that may opt out of `unsafe_code = "deny"`.
const UNSAFE_FILES: &[&str] = &["storage/src/disk/map.rs"];

/// A new dependency is an architecture change: it is written here, and argued in its commit.
const NODE_DEPENDENCIES: &[&str] = &[
    "anyhow",
    "axum",
    "base64",
    "bytes",
    "clap",
    "crc32fast",
    "diskstore-flags",
    "diskstore-profile",
    "diskstore-proto",
    "diskstore-storage",
    "futures-util",
    "getrandom",
    "hdrhistogram",
    "humantime",
    "hyper",
    "hyper-util",
    "indicatif",
    "openraft",
    "opentelemetry",
    "opentelemetry-otlp",
    "opentelemetry_sdk",
    "parking_lot",
    "percent-encoding",
    "prometheus-client",
    "ratatui-core",
    "rcgen",
    "rustix",
    "rustls",
    "rustyline",
    "sd-notify",
    "serde",
    "serde-saphyr",
    "serde_json",
    "sha2",
    "siphasher",
    "smallvec",
    "subtle",
    "thiserror",
    "tikv-jemallocator",
    "tokio",
    "tokio-rustls",
    "toml",
    "tonic",
    "tonic-health",
    "tonic-reflection",
    "tonic-types",
    "tracing",
    "tracing-opentelemetry",
    "tracing-subscriber",
    "x509-parser",
];
const STORAGE_DEPENDENCIES: &[&str] =
    &["bincode", "bytes", "crc32fast", "libc", "memmap2", "parking_lot", "rustix", "thiserror"];

const PROTO_DEPENDENCIES: &[&str] = &["prost", "prost-types", "tonic", "tonic-prost"];
const FLAGS_DEPENDENCIES: &[&str] = &["clap", "clap_complete", "clap_mangen"];
const PROFILE_DEPENDENCIES: &[&str] =
    &["futures-util", "jemalloc_pprof", "parking_lot", "pprof", "thiserror", "tokio"];
const MONIT_DEPENDENCIES: &[&str] = &[
    "anyhow",
    "clap",
    "diskstore-flags",
    "diskstore-profile",
    "thiserror",
    "tikv-jemallocator",
    "tokio",
];

/// A file of the repository.
struct Source {
    /// Path from the root, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers, comments left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn lines_before_tests(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            // A module that has a file of its own ends nothing here.
            pair[0].starts_with("#[cfg(test)]")
                && pair[1].trim_start().starts_with("mod ")
                && pair[1].ends_with('{')
        });
        tests.unwrap_or(lines.len())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with one of these endings, outside of build products and hidden folders but `.ci`.
fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".ci";
            if path.is_dir() {
                if !hidden && name != "target" && !name.ends_with("store-data") {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(read(&path));
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {endings:?}");
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn read(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    Source { path, text }
}

/// Fails with every complaint at once.
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// True if the word stands in the line on its own.
fn names(line: &str, word: &str) -> bool {
    let part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_none_or(|char| !part(char));
        let after = line[at + word.len()..].chars().next().is_none_or(|char| !part(char));
        before && (after || word.ends_with(':'))
    })
}

#[test]
fn files_are_short_enough_to_read() {
    let too_long: Vec<String> = sources(&[".rs"])
        .into_iter()
        .filter(|file| !file.path.starts_with("tests/") && !file.path.contains("/tests"))
        .filter(|file| file.lines_before_tests() > FILE_LINES_MAX)
        .map(|file| {
            format!("{}: {} lines before tests, split it", file.path, file.lines_before_tests())
        })
        .collect();
    assert_none(&too_long);
}

#[test]
fn documents_and_scripts_stay_short() {
    let limit = |path: &str| match path {
        "README.md" => README_LINES_MAX,
        "docs/architecture.md" => ARCHITECTURE_LINES_MAX,
        path if path.starts_with("scripts/") || path.starts_with(".ci/") => SCRIPT_LINES_MAX,
        _ => usize::MAX,
    };
    let mut files = sources(&[".md", ".sh"]);
    for folder in ["scripts", ".ci"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file())
                .map(|path| read(&path)),
        );
    }
    let too_long = files.iter().filter(|file| file.text.lines().count() > limit(&file.path));
    let words = |file: &Source| format!("{}: over {} lines", file.path, limit(&file.path));
    assert_none(&too_long.map(words).collect::<Vec<_>>());
}

#[test]
fn unsafe_code_stays_where_it_is() {
    let mut complaints = Vec::new();
    let mut opted_out = BTreeSet::new();
    for file in sources(&[".rs"]) {
        for (number, line) in file.code() {
            if line.contains("(unsafe_code") && file.path != "tests/tidy.rs" {
                opted_out.insert(file.path.clone());
            }
            let is_code =
                ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|form| line.contains(form));
            if is_code
                && !UNSAFE_FILES.contains(&file.path.as_str())
                && file.path != "tests/tidy.rs"
            {
                complaints.push(format!("{}:{number}: unsafe code", file.path));
            }
        }
    }
    assert_none(&complaints);
    assert_eq!(opted_out.iter().map(String::as_str).collect::<Vec<_>>(), UNSAFE_FILES);
}

#[test]
fn dependencies_are_the_ones_written_here() {
    let listed = |manifest: &str| -> Vec<String> {
        let table: toml::Table = read(&root().join(manifest)).text.parse().unwrap();
        table["dependencies"].as_table().unwrap().keys().cloned().collect()
    };
    assert_eq!(listed("Cargo.toml"), NODE_DEPENDENCIES);
    assert_eq!(listed("storage/Cargo.toml"), STORAGE_DEPENDENCIES);
    assert_eq!(listed("proto/Cargo.toml"), PROTO_DEPENDENCIES);
    assert_eq!(listed("src/flags/Cargo.toml"), FLAGS_DEPENDENCIES);
    assert_eq!(listed("src/profile/Cargo.toml"), PROFILE_DEPENDENCIES);
    assert_eq!(listed("monit/Cargo.toml"), MONIT_DEPENDENCIES);
}

/// No other step of the gate reads that file, and `scripts/fuzz` builds nothing with an old one.
#[test]
fn the_lock_file_of_the_fuzzers_knows_all_dependencies_of_ours() {
    let lock: toml::Table = read(&root().join("fuzz/Cargo.lock")).text.parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let mut complaints = Vec::new();
    for manifest in ["", "storage/", "proto/", "src/flags/", "src/profile/"] {
        let manifest = format!("{manifest}Cargo.toml");
        let table: toml::Table = read(&root().join(&manifest)).text.parse().unwrap();
        let is_it = |package: &&toml::Value| package["name"] == table["package"]["name"];
        let known = packages.iter().find(is_it).unwrap()["dependencies"].as_array().unwrap();
        // A name, and behind it the version where there are several.
        let known: Vec<_> = known.iter().map(|it| it.as_str().unwrap().split(' ').next()).collect();
        let parts = ["dependencies", "build-dependencies"].map(|part| table.get(part));
        for (name, of) in parts.into_iter().flatten().flat_map(|part| part.as_table().unwrap()) {
            let is_optional = of.get("optional").is_some();
            if !is_optional && !known.contains(&Some(name.as_str())) {
                let what = "run `cargo metadata --manifest-path fuzz/Cargo.toml`";
                complaints.push(format!("fuzz/Cargo.lock lacks {name} of {manifest}: {what}"));
            }
        }
    }
    assert_none(&complaints);
}

/// What is tested is what runs: a test gives smaller bounds from outside.
#[test]
fn no_bound_differs_under_test() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        let is_looked_at = ["src/", "storage/"].iter().any(|room| file.path.starts_with(room));
        for (number, line) in file.code().filter(|_| is_looked_at) {
            if line.contains("cfg!(test)") {
                let what = "make it a field of what its owner is made with";
                complaints.push(format!("{}:{number}: {what}", file.path));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn what_is_left_to_do_names_an_issue() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs", ".md", ".toml"]) {
        for (number, line) in file.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
                let issue = line.split('#').nth(1).and_then(|rest| rest.chars().next());
                if names(line, word) && !issue.is_some_and(|char| char.is_ascii_digit()) {
                    complaints.push(format!("{}:{number}: {word} without #issue", file.path));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn text_is_ascii() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs", ".md", ".sh", ".toml", ".txt"]) {
        for (index, line) in file.text.lines().enumerate() {
            if !line.is_ascii() || line.contains('\t') {
                complaints.push(format!("{}:{}: {line}", file.path, index + 1));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn no_test_is_ignored_and_every_name_is_a_sentence() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        for (number, line) in file.code() {
            let line = line.trim_start();
            if line.starts_with(concat!("#[", "ignore")) {
                complaints.push(format!("{}:{number}: fix it or delete it", file.path));
            }
            if line.starts_with(concat!("fn ", "test_")) {
                complaints.push(format!("{}:{number}: say what holds: {line}", file.path));
            }
        }
    }
    assert_none(&complaints);
}

/// Nouns that say little: of the program's types one at most bears each.
const LONE_NAMES: &[&str] = &["State", "Shared", "Reply", "Round", "Step", "Kind", "Setup"];

#[test]
fn types_do_not_share_a_name_that_says_little() {
    let mut complaints = Vec::new();
    let files = sources(&[".rs"]);
    let is_of_program = |file: &&Source| {
        file.path.starts_with("src/")
            && !["src/flags/", "src/profile/"].iter().any(|other| file.path.starts_with(other))
            && !file.path.contains("tests")
    };
    for name in LONE_NAMES {
        let defines = |line: &str| {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            words.any(|word| matches!(word, "struct" | "enum" | "trait" | "type"))
                && words.next() == Some(name)
        };
        let defined = |file: &&Source| file.code().any(|(_, line)| defines(line));
        let at: Vec<_> = files.iter().filter(is_of_program).filter(defined).collect();
        if at.len() > 1 {
            let paths: Vec<_> = at.iter().map(|file| file.path.as_str()).collect();
            complaints.push(format!(
                "{name} is the name of {} types: {}",
                at.len(),
                paths.join(" ")
            ));
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_file_of_code_is_a_module_of_its_folder() {
    let files = sources(&[".rs"]);
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.contains("src/")) {
        let path = Path::new(&file.path);
        let (folder, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let (folder, name) = match stem {
            "main" | "lib" => continue,
            _ if folder.ends_with("bin") => continue,
            "mod" => (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap()),
            _ => (folder, stem),
        };
        let owners = ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name));
        let declared = files
            .iter()
            .filter(|file| owners.iter().any(|owner| Path::new(&file.path) == owner))
            .any(|file| {
                file.code().any(|(_, line)| line.trim_end().ends_with(&format!("mod {name};")))
            });
        if !declared {
            complaints.push(format!("{}: nobody declares `mod {name};`", file.path));
        }
    }
    assert_none(&complaints);
}
