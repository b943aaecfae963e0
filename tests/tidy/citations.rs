//! Whether what is cited leads somewhere: codes of `docs/contract.md`, invariants of files, decisions
//! and documents; and whether the contract names the tests that there are.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, assert_none, read, root, sources};

const CONTRACT: &str = "docs/contract.md";
/// Letters of the codes that the contract defines.
const SERIES: [char; 3] = ['C', 'F', 'H'];
/// What hazards and faults were cited by before they stood in the contract.
const FORMER: [&str; 2] = [concat!("PIT", "FALLS"), concat!("TRU", "ST")];
/// Folders of the repository whose files are named from its root.
const FOLDERS: [&str; 7] =
    ["src/", "storage/", "tests/", "docs/", "monit/", "benches/", "scripts/"];
/// How the names of files end.
const CODE: &str = ".rs";
const DOCUMENT: &str = ".md";

/// A rule, a fault or a hazard of the contract.
struct Item {
    line: usize,
    code: String,
    /// Where a test is, and its name.
    tests: Vec<(String, String)>,
    is_untested: bool,
}

/// A function that is a test, with the comment before it.
struct Test {
    path: String,
    name: String,
    comment: String,
}

fn contract() -> Source {
    read(&root().join(CONTRACT))
}

/// Items begin with a hyphen and their code in bold, and go on as long as lines are indented.
fn items() -> Vec<Item> {
    let mut items: Vec<(usize, String)> = Vec::new();
    let mut is_open = false;
    for (index, line) in contract().text.lines().enumerate() {
        let begins = line.starts_with("- **");
        is_open = begins || (is_open && line.starts_with("  "));
        match items.last_mut() {
            _ if begins => items.push((index + 1, line.to_owned())),
            Some((_, text)) if is_open => text.push_str(&line[1..]),
            _ => {}
        }
    }
    items.into_iter().filter_map(|(line, text)| item(line, &text)).collect()
}

fn item(line: usize, text: &str) -> Option<Item> {
    let code = codes(text.strip_prefix("- **")?.split_once(". ")?.0).next()?.to_owned();
    let (words, tests) = text.split_once(" Tests: ").unwrap_or((text, ""));
    let mut file = "";
    let mut named = Vec::new();
    for word in tests.split('`').skip(1).step_by(2) {
        if word.ends_with(CODE) {
            file = word;
        } else {
            named.push((file.to_owned(), word.to_owned()));
        }
    }
    Some(Item { line, code, tests: named, is_untested: words.contains(" No test: ") })
}

/// Words of one capital letter and one or two digits.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words.filter(|word| {
        let digits = word.get(1..).unwrap_or_default();
        word.starts_with(|char: char| char.is_ascii_uppercase())
            && (1..=2).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_of_contract(code: &str) -> bool {
    code.starts_with(SERIES)
}

/// What stands behind the slashes of a comment; `None` if the line has none.
fn comment(line: &str) -> Option<&str> {
    let (_, comment) = line.split_once("//")?;
    Some(comment.trim_start_matches(['/', '!']).trim())
}

/// Lines in words with their numbers, each with the beginning of the next behind it: the comments of
/// code, and everything in a document.
fn prose(file: &Source) -> Vec<(usize, String, String)> {
    let is_code = file.path.ends_with(CODE);
    let words = |line| if is_code { comment(line) } else { Some(str::trim(line)) };
    let mut lines: Vec<(usize, String, String)> = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let Some(words) = words(line) else { continue };
        if let Some((_, _, next)) = lines.last_mut().filter(|(number, ..)| *number == index) {
            words.clone_into(next);
        }
        lines.push((index + 1, words.to_owned(), String::new()));
    }
    lines
}

/// Invariants that the header of a file declares.
fn declared(file: &Source) -> BTreeSet<&str> {
    let header = file.text.lines().filter_map(|line| line.trim().strip_prefix("//! - "));
    header.filter_map(|line| codes(line.split_once(':')?.0).next()).collect()
}

fn all_tests(files: &[Source]) -> Vec<Test> {
    let mut tests = Vec::new();
    for file in files {
        let (mut words, mut is_test) = (String::new(), false);
        for line in file.text.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("///") {
                words.push_str(more);
            } else if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else {
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some((name, _)) = name.and_then(|name| name.split_once('(')) {
                    let (path, comment) = (file.path.clone(), std::mem::take(&mut words));
                    tests.extend(is_test.then(|| Test { path, name: name.to_owned(), comment }));
                }
                (words, is_test) = (String::new(), false);
            }
        }
    }
    tests
}

#[test]
fn every_code_that_is_cited_leads_somewhere() {
    let known: BTreeSet<String> = items().into_iter().map(|item| item.code).collect();
    let files = sources(&[CODE, DOCUMENT]);
    let by_path: BTreeMap<&str, &Source> =
        files.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut complaints = Vec::new();
    for file in &files {
        let own = declared(file);
        for (number, line, next) in prose(file) {
            let place = format!("{}:{number}", file.path);
            let text = format!("{line} {next}");
            for word in FORMER.iter().filter(|word| super::names(&line, word)) {
                complaints
                    .push(format!("{place}: {word}: cite a code of {CONTRACT}, as in \"H8\""));
            }
            for code in codes(&line).filter(|code| !own.contains(code) && !known.contains(*code)) {
                if is_of_contract(code) {
                    complaints.push(format!("{place}: {code} is not in {CONTRACT}"));
                } else if file.path.ends_with(CODE) && !is_of_another(file, code, &text, &by_path) {
                    complaints.push(format!(
                        "{place}: {code} is not declared in this file's header, which would be \
                         `//! - {code}: ...`; of another file say \"{code} of `path`\""
                    ));
                }
            }
        }
    }
    assert_none(&complaints);
}

/// True of a code that is followed by "of" and the path of a file that declares it.
fn is_of_another(file: &Source, code: &str, text: &str, by_path: &BTreeMap<&str, &Source>) -> bool {
    let named = text.split_once(&format!("{code} of `"));
    let Some(named) = named.and_then(|(_, rest)| rest.split('`').next()) else { return false };
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let places = [folder, "src", "storage/src"].map(|folder| format!("{folder}/{named}"));
    places
        .iter()
        .any(|place| by_path.get(place.as_str()).is_some_and(|file| declared(file).contains(code)))
}

#[test]
fn every_item_of_the_contract_is_held() {
    let files = sources(&[CODE]);
    let tests = all_tests(&files);
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for item in items() {
        let place = format!("{CONTRACT}:{}: {}", item.line, item.code);
        if !is_of_contract(&item.code) || !seen.insert(item.code.clone()) {
            complaints.push(format!("{place}: a second one, or of no series"));
        }
        if item.tests.is_empty() != item.is_untested {
            complaints
                .push(format!("{place}: either \"Tests: `file`: `test`.\" or \"No test: why.\""));
        }
        for (path, name) in &item.tests {
            if !tests.iter().any(|test| test.path == *path && test.name == *name) {
                complaints.push(format!("{place}: there is no test `{name}` in `{path}`"));
            }
        }
    }
    assert!(!seen.is_empty(), "{CONTRACT} has no items");
    assert_none(&complaints);
}

#[test]
fn tests_that_cite_the_contract_are_named_by_it() {
    let items = items();
    let mut complaints = Vec::new();
    for test in all_tests(&sources(&[CODE])) {
        for item in items.iter().filter(|item| codes(&test.comment).any(|code| code == item.code)) {
            let names = |(path, name): &(String, String)| *path == test.path && *name == test.name;
            if !item.tests.iter().any(names) {
                let (path, name, code) = (&test.path, &test.name, &item.code);
                complaints.push(format!("{path}: {name} cites {code}, which does not name it"));
            }
        }
    }
    assert_none(&complaints);
}

/// Numbers behind the word, where that stands in the first of two lines: "decision 4", "decisions 4
/// and 5", "`decisions.md` 4".
fn decisions_cited(line: &str, next: &str) -> Vec<u32> {
    let text = format!("{line} {next}").to_lowercase();
    let mut numbers = Vec::new();
    for (at, word) in text.match_indices("decision").filter(|(at, _)| *at < line.len()) {
        let rest = text[at + word.len()..].trim_start_matches('s');
        let rest = rest.strip_prefix(".md`").unwrap_or(rest);
        if rest.starts_with(char::is_whitespace) {
            let words = rest.split_whitespace().map(|word| word.trim_matches([',', '.', ';', ')']));
            let listed =
                words.filter(|word| *word != "and").map_while(|word| word.parse::<u32>().ok());
            numbers.extend(listed);
        }
    }
    numbers
}

#[test]
fn every_decision_that_is_cited_was_taken() {
    let decisions = read(&root().join("docs/decisions.md"));
    let headings = decisions.text.lines().filter_map(|line| line.strip_prefix("## "));
    let taken: Vec<u32> =
        headings.map(|line| line.split_once(". ").unwrap().0.parse().unwrap()).collect();
    assert!(taken.is_sorted_by(|one, next| one < next), "decisions are out of order: {taken:?}");
    let mut complaints = Vec::new();
    for file in sources(&[CODE, DOCUMENT]) {
        for (number, line, next) in prose(&file) {
            for cited in decisions_cited(&line, &next).iter().filter(|cited| !taken.contains(cited))
            {
                complaints.push(format!("{}:{number}: there is no decision {cited}", file.path));
            }
        }
    }
    assert_none(&complaints);
}

/// Paths in a text. What goes on as a pattern is none.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let part = |char: char| char.is_ascii_alphanumeric() || "./_-*{<".contains(char);
    let words = text.split(move |char| !part(char)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| !word.contains(['*', '{', '<']))
}

#[test]
fn every_document_and_every_path_that_is_named_is_here() {
    let mut complaints = Vec::new();
    for file in sources(&[CODE, DOCUMENT]) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line, _) in prose(&file) {
            let is_path = |word: &str| FOLDERS.iter().any(|folder| word.starts_with(folder));
            let is_document = |word: &str| word.len() > 3 && word.ends_with(DOCUMENT);
            for path in paths(&line).filter(|word| is_path(word) || is_document(word)) {
                let places = [folder, "", "docs"].map(|place| root().join(place).join(path));
                if !places.iter().any(|place| place.exists()) {
                    complaints.push(format!("{}:{number}: {path} is not here", file.path));
                }
            }
        }
    }
    assert_none(&complaints);
}
