//! The table "Arrows" of `docs/architecture.md` against the code: who may name whom.

use std::collections::BTreeSet;

use super::{Source, assert_none, read, root, sources};

const DOCUMENT: &str = "docs/architecture.md";
const HEADING: &str = "### Arrows";
/// Packages whose code is looked at, by the beginnings of their paths.
const PACKAGES: &[&str] = &[
    "src/",
    "storage/src/",
    "src/flags/src/",
    "src/profile/src/",
    "proto/src/",
    "monit/src/",
    "benches/compare/src/",
    "benches/experiment/src/",
    "benches/process/src/",
];
/// Crates that count as rooms, and what the table calls them. Every other crate may be named.
const CRATES: &[(&str, &str)] = &[
    ("openraft", "openraft"),
    ("tokio", "tokio"),
    ("std::net", "std::net"),
    ("diskstore", "diskstore"),
    ("diskstore_storage", "storage"),
    ("diskstore_flags", "flags"),
    ("diskstore_profile", "profile"),
    ("diskstore_proto", "proto"),
    ("diskstore_process", "process"),
];

/// What lists rooms and is none.
const LISTS: &[&str] = &["src/lib.rs", "storage/src/lib.rs"];

/// A row of the table.
struct Row {
    line: usize,
    /// Folders end in a slash.
    places: Vec<String>,
    names: BTreeSet<String>,
}

fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn rows() -> Vec<Row> {
    let document = read(&root().join(DOCUMENT));
    let lines = document.text.lines().enumerate();
    let table = lines.skip_while(|(_, line)| *line != HEADING).skip(1);
    let table = table.take_while(|(_, line)| !line.starts_with('#'));
    let rows = table.filter_map(|(index, line)| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let places = quoted(&format!("`{}", cells.next()?)).collect();
        Some(Row { line: index + 1, places, names: quoted(cells.next()?).collect() })
    });
    rows.collect()
}

/// All places of the table, the highest first.
pub(super) fn places() -> Vec<String> {
    rows().into_iter().flat_map(|row| row.places).collect()
}

/// The row that a file belongs to, and the place there: the longest that fits.
fn place_of<'a>(rows: &'a [Row], path: &str) -> Option<(usize, &'a str)> {
    let places = rows
        .iter()
        .enumerate()
        .flat_map(|(at, row)| row.places.iter().map(move |place| (at, place.as_str())));
    let is_in = |place: &str| path == place || (place.ends_with('/') && path.starts_with(place));
    places.filter(|(_, place)| is_in(place)).max_by_key(|(_, place)| place.len())
}

/// The folder of a file's package: the longest that fits.
fn package_of(path: &str) -> Option<&'static str> {
    PACKAGES.iter().copied().filter(|package| path.starts_with(package)).max_by_key(|of| of.len())
}

fn is_part(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

fn first_word(text: &str) -> &str {
    text.split(|char| !is_part(char)).next().unwrap_or_default()
}

/// What follows `prefix::`: one name, or those at the beginnings of the items in braces.
fn names_behind<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, found) in text.match_indices(&format!("{prefix}::")) {
        let rest = &text[at + found.len()..];
        if text[..at].ends_with(|char| is_part(char) || char == ':') {
            continue; // the end of a longer name
        }
        match rest.strip_prefix('{') {
            Some(group) => names.extend(beginnings(group)),
            None => names.push(first_word(rest)),
        }
    }
    names
}

/// The first word of each item, up to the brace that ends them.
fn beginnings(group: &str) -> Vec<&str> {
    let (mut names, mut depth, mut is_item) = (Vec::new(), 1, true);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => is_item = true,
            _ if is_item && is_part(char) => {
                names.push(first_word(&group[at..]));
                is_item = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// What stands for the root of a file's package in its code.
fn roots_of(path: &str, package: &str) -> Vec<String> {
    let module = path[package.len()..].trim_end_matches(".rs").trim_end_matches("/mod");
    let mut roots = vec!["crate".to_owned()];
    if package == "src/" {
        roots.push("diskstore".into()); // as the programs see their own library
    }
    if !["lib", "main"].contains(&module) {
        roots.push(vec!["super"; module.split('/').count()].join("::"));
    }
    roots
}

/// What the code of a file names before its tests: rooms of its package beside its own row, and
/// crates of the list.
fn named(file: &Source, rows: &[Row], own: usize) -> BTreeSet<String> {
    let before_tests = file.lines_before_tests();
    let lines = file.code().take_while(|(number, _)| *number <= before_tests);
    let text: String = lines.flat_map(|(_, line)| [line, "\n"]).collect();
    let package = package_of(&file.path).unwrap_or_default();
    let is_own = |name: &str| {
        let places = [format!("{package}{name}/"), format!("{package}{name}.rs")];
        file.path.starts_with(&places[0])
            || places.iter().any(|place| place_of(rows, place).is_some_and(|(at, _)| at == own))
    };
    let roots = roots_of(&file.path, package);
    let modules = roots.iter().flat_map(|root| names_behind(&text, root));
    let modules = modules.filter(|name| name.starts_with(|char: char| char.is_ascii_lowercase()));
    let modules = modules.filter(|name| !is_own(name));
    let is_named = |name: &str| {
        !roots.iter().any(|root| root == name) && !names_behind(&text, name).is_empty()
    };
    let crates = CRATES.iter().filter(|(name, _)| is_named(name)).map(|(_, name)| *name);
    modules.chain(crates).map(str::to_owned).collect()
}

/// Where the table has what a row of a package names, if it has that.
fn row_named(rows: &[Row], package: &str, name: &str) -> Option<usize> {
    let places = [
        format!("{package}{name}/"),
        format!("{package}{name}.rs"),
        format!("src/{name}/src/"),
        format!("{name}/src/"),
        format!("benches/{name}/src/"),
    ];
    let found = rows.iter().position(|row| row.places.iter().any(|place| places.contains(place)));
    let begins = |row: &Row| row.places.iter().any(|place| place.starts_with("storage/src/"));
    found.or_else(|| rows.iter().position(begins).filter(|_| name == "storage"))
}

#[test]
fn code_names_what_the_table_of_arrows_allows_and_no_less() {
    let rows = rows();
    let mut found: Vec<BTreeSet<String>> = vec![BTreeSet::new(); rows.len()];
    let mut used = BTreeSet::new();
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        let is_tests = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
        if package_of(&file.path).is_none() || is_tests || LISTS.contains(&file.path.as_str()) {
            continue;
        }
        let Some((at, place)) = place_of(&rows, &file.path) else {
            complaints.push(format!("{}: has no row in {DOCUMENT}, {HEADING}", file.path));
            continue;
        };
        used.insert(place);
        for name in named(&file, &rows, at) {
            if !rows[at].names.contains(&name) {
                complaints.push(format!(
                    "{}: names {name}, which {DOCUMENT}:{} does not allow",
                    file.path, rows[at].line
                ));
            }
            found[at].insert(name);
        }
    }
    for (at, row) in rows.iter().enumerate() {
        let line = format!("{DOCUMENT}:{}", row.line);
        for place in row.places.iter().filter(|place| !used.contains(place.as_str())) {
            complaints.push(format!("{line}: {place} is no code any more"));
        }
        for name in row.names.difference(&found[at]) {
            complaints.push(format!("{line}: nothing there names {name} any more"));
        }
    }
    assert!(!rows.is_empty(), "{DOCUMENT} has no table under {HEADING}");
    assert_none(&complaints);
}

#[test]
fn arrows_point_down_only() {
    let rows = rows();
    let mut complaints = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let package = package_of(&row.places[0]).unwrap_or_default();
        for name in &row.names {
            if row_named(&rows, package, name).is_some_and(|named| named <= at) {
                let place = row.places.join(", ");
                complaints.push(format!(
                    "{DOCUMENT}:{}: {place} names {name}, which stands above",
                    row.line
                ));
            }
        }
    }
    assert_none(&complaints);
}
