//! What the parameters of functions and the fields of types must say, tests left out.

use std::collections::BTreeSet;

use super::{assert_none, sources};

const TWO_KINDS: &str = "bare numbers of two kinds: see storage/src/types.rs";

/// Names of what has a type of its own in `storage/src/types.rs`, by kind.
const NUMBERS: &[&[&str]] = &[
    &["slot", "key"],
    &[
        "index",
        "entry",
        "log_index",
        "first_index",
        "last_index",
        "version",
        "applied",
        "committed",
        "checkpoint",
        "purged",
        "last_log",
        "matched",
        "readable_from",
        "horizon",
    ],
    &["term"],
    &["member", "member_id", "node_id", "leader", "voter"],
];

/// Types in which bare numbers of two kinds stay.
const BARE: &[(&str, &str)] = &[
    ("src/backup/mod.rs", "About"),     // JSON for programs of any version
    ("src/backup/survey.rs", "Survey"), // the same
    ("src/command/mod.rs", "Failure"),  // `command` names no other part, `storage` neither
    ("src/receipt.rs", "WriteReceipt"), // JSON for programs of any version
    ("src/status.rs", "Status"),        // JSON for programs of any version; depends on nothing
];

/// Where the bracket that `text` begins with is closed. Arrows are no brackets.
fn end_of_bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut last = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' | '<' => depth += 1,
            '>' if last == '-' || last == '=' => {}
            ')' | ']' | '}' | '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
        last = letter;
    }
    None
}

/// What stands behind a name and its generics, from the text behind the keyword.
fn behind_name(text: &str) -> Option<&str> {
    let open = text.find(['(', '<', '{', ';'])?;
    let generics =
        if text[open..].starts_with('<') { end_of_bracket(&text[open..])? + 1 } else { 0 };
    Some(text[open + generics..].trim_start())
}

/// The parameters of a function, from the text behind its `fn`.
fn parameters(text: &str) -> Option<Vec<&str>> {
    let list = behind_name(text)?;
    list.starts_with('(').then(|| items(list))?
}

/// The fields of a struct, or those of each variant of an enum, from the text behind the keyword.
/// What has no names has none to judge.
fn fields(keyword: &str, text: &str) -> Option<Vec<Vec<String>>> {
    let body = behind_name(text)?;
    let open = if body.starts_with("where") { body.find('{')? } else { 0 };
    let body = &body[open..];
    if !body.starts_with('{') {
        return Some(Vec::new());
    }
    let items = items(body)?.into_iter().map(bare_item);
    let items = items.collect::<Option<Vec<_>>>()?;
    if keyword == "struct " {
        return Some(vec![items]);
    }
    let variants = items.iter().filter_map(|item| item.find('{').map(|at| &item[at..]));
    variants.map(|fields| self::items(fields)?.into_iter().map(bare_item).collect()).collect()
}

/// A field or a variant without attributes and without who may see it.
fn bare_item(mut item: &str) -> Option<String> {
    while item.starts_with("#[") {
        item = item[end_of_bracket(&item[1..])? + 2..].trim_start();
    }
    if let Some(rest) = item.strip_prefix("pub") {
        let end = if rest.starts_with('(') { end_of_bracket(rest)? + 1 } else { 0 };
        item = rest[end..].trim_start();
    }
    Some(item.to_owned())
}

/// What a bracket holds between its commas, from the text that begins with it.
fn items(text: &str) -> Option<Vec<&str>> {
    let list = &text[1..end_of_bracket(text)?];
    let (mut found, mut begin, mut skip) = (Vec::new(), 0, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            _ if at < skip => {}
            '(' | '[' | '{' | '<' => skip = at + end_of_bracket(&list[at..])?,
            ',' => {
                found.push(list[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(list[begin..].trim());
    Some(found)
}

/// The kind of number that a bare `u64` is by the name of its parameter or field.
fn kind_of(item: &str) -> Option<usize> {
    let name = item.strip_suffix(": u64").or_else(|| item.strip_suffix(": Option<u64>"))?;
    NUMBERS.iter().position(|names| names.contains(&name))
}

/// True if there are bare numbers of two kinds.
fn meet<'a>(items: impl IntoIterator<Item = &'a str>) -> bool {
    let kinds: BTreeSet<_> = items.into_iter().filter_map(kind_of).collect();
    kinds.len() > 1
}

fn complaint(parameters: &[&str]) -> Option<&'static str> {
    if parameters.iter().any(|parameter| parameter.starts_with('(') && !parameter.starts_with("()"))
    {
        return Some("a nameless tuple: make it two parameters, or a struct with names");
    }
    meet(parameters.iter().copied()).then_some(TWO_KINDS)
}

/// What is wrong with the fields of the type that `line` begins, `rest` being what follows.
fn complaint_of_type<'a>(
    path: &str,
    line: &'a str,
    rest: impl Iterator<Item = &'a str>,
) -> Option<&'static str> {
    let begins = |keyword: &&str| {
        line.split_once(*keyword).is_some_and(|(before, _)| {
            let before = before.trim();
            before.is_empty() || before == "pub" || before.starts_with("pub(")
        })
    };
    let keyword = ["struct ", "enum "].into_iter().find(begins)?;
    let text = line.split_once(keyword)?.1;
    let name = text.split(|letter: char| !letter.is_alphanumeric()).next()?;
    if BARE.contains(&(path, name)) {
        return None;
    }
    let text: Vec<_> = std::iter::once(text).chain(rest).collect();
    match fields(keyword, &text.join("\n")) {
        None => Some("the fields of this type cannot be told apart"),
        Some(lists) => {
            let two_meet = |list: &Vec<String>| meet(list.iter().map(String::as_str));
            lists.iter().any(two_meet).then_some(TWO_KINDS)
        }
    }
}

#[test]
fn fields_are_read_from_structs_and_variants() {
    let lists = |keyword, text| fields(keyword, text).unwrap();
    let of_struct = "Some<'a> {\n #[doc = \"{x}, \"] pub(super) key: u64,\n index: Option<u64>,\n}";
    assert_eq!(lists("struct ", of_struct), [["key: u64", "index: Option<u64>", ""]]);
    let of_enum = "E {\n One(u64),\n #[error(\"{term}\")]\n Two { term: u64, index: u64 },\n}";
    assert_eq!(lists("enum ", of_enum), [["term: u64", "index: u64"]]);
    assert!(meet(["term: u64", "index: Option<u64>"]) && !meet(["term: Term", "index: u64"]));
    assert!(lists("struct ", "Tuple(u64, u64);").is_empty());
}

#[test]
fn parameters_and_fields_say_what_they_are() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        let is_ours = file.path.starts_with("src/") || file.path.starts_with("storage/src/");
        if !is_ours || file.path.contains("test") {
            continue;
        }
        let line_count = file.lines_before_tests();
        let code: Vec<_> = file.code().take_while(|(number, _)| *number <= line_count).collect();
        for (nth, (number, line)) in code.iter().enumerate() {
            let rest = || code[nth + 1..].iter().map(|(_, line)| *line);
            if let Some(words) = complaint_of_type(&file.path, line, rest()) {
                complaints.push(format!("{}:{number}: {words}", file.path));
            }
            let Some(at) = line.find("fn ").filter(|at| !line[..*at].contains(['"', '/'])) else {
                continue;
            };
            let text: Vec<_> = std::iter::once(&line[at + 3..]).chain(rest().take(20)).collect();
            let text = text.join("\n");
            if let Some(words) = parameters(&text).and_then(|found| complaint(&found)) {
                complaints.push(format!("{}:{number}: {words}", file.path));
            }
        }
    }
    assert_none(&complaints);
}
