//! What the parameters of functions must say, tests left out.

use super::{assert_none, sources};

/// Names of what has a type of its own in `storage/src/types.rs`, by kind.
const NUMBERS: &[&[&str]] = &[
    &["slot", "key"],
    &["index", "entry", "log_index"],
    &["term"],
    &["member", "member_id", "node_id"],
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

/// The parameters of a function, from the text behind its `fn`.
fn parameters(text: &str) -> Option<Vec<&str>> {
    let open = text.find(['(', '<'])?;
    let generics =
        if text[open..].starts_with('<') { end_of_bracket(&text[open..])? + 1 } else { 0 };
    let list = &text[open + generics..];
    let list = list.starts_with('(').then(|| &list[1..end_of_bracket(list).unwrap_or(1)])?;
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

/// The kind of number that a bare `u64` parameter is by its name.
fn kind_of(parameter: &str) -> Option<usize> {
    let name = parameter.strip_suffix(": u64")?;
    NUMBERS.iter().position(|names| names.contains(&name))
}

fn complaint(parameters: &[&str]) -> Option<&'static str> {
    if parameters.iter().any(|parameter| parameter.starts_with('(') && !parameter.starts_with("()"))
    {
        return Some("a nameless tuple: make it two parameters, or a struct with names");
    }
    let mut kinds: Vec<_> = parameters.iter().filter_map(|parameter| kind_of(parameter)).collect();
    kinds.dedup();
    (kinds.len() > 1).then_some("bare numbers of two kinds: see storage/src/types.rs")
}

#[test]
fn parameters_say_what_they_are() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        let is_ours = file.path.starts_with("src/") || file.path.starts_with("storage/src/");
        if !is_ours || file.path.contains("test") {
            continue;
        }
        let line_count = file.lines_before_tests();
        let code: Vec<_> = file.code().take_while(|(number, _)| *number <= line_count).collect();
        for (nth, (number, line)) in code.iter().enumerate() {
            let Some(at) = line.find("fn ").filter(|at| !line[..*at].contains(['"', '/'])) else {
                continue;
            };
            let rest = code[nth + 1..].iter().take(20).map(|(_, line)| *line);
            let text: Vec<_> = std::iter::once(&line[at + 3..]).chain(rest).collect();
            let text = text.join("\n");
            if let Some(words) = parameters(&text).and_then(|found| complaint(&found)) {
                complaints.push(format!("{}:{number}: {words}", file.path));
            }
        }
    }
    assert_none(&complaints);
}
