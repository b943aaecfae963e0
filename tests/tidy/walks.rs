//! The tables of `docs/walks.md` against the code: their functions exist, and no stretch of a walk
//! goes up from one room to another.

use super::{arrows, assert_none, names, read, root};

const DOCUMENT: &str = "docs/walks.md";

/// The first two folders of a path, behind those of another package the third too.
fn room_of(path: &str) -> &str {
    let folders = if path.starts_with("src/") { 2 } else { 3 };
    let end = path.match_indices('/').nth(folders - 1).map_or(path.len(), |(at, _)| at + 1);
    &path[..end]
}

#[test]
fn walks_name_functions_that_exist_and_go_down() {
    let places = arrows::places();
    let height = |room: &str| places.iter().position(|place| place.starts_with(room));
    let document = read(&root().join(DOCUMENT));
    let (mut complaints, mut last, mut step_count) = (Vec::new(), None, 0);
    for (number, line) in document.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let Some(step) = line.strip_prefix("| `") else {
            last = None; // the next table is another stretch
            continue;
        };
        let place = format!("{DOCUMENT}:{number}");
        let step = step.split('|').next().unwrap_or_default();
        let mut words = step.split('`').step_by(2);
        let path = words.next().unwrap_or_default();
        let code = root().join(path).is_file().then(|| read(&root().join(path)));
        let Some(code) = code else {
            complaints.push(format!("{place}: there is no file {path}"));
            continue;
        };
        for function in words.filter(|word| !word.trim().is_empty()) {
            let is_it = |line: &str| names(line, &format!("fn {function}"));
            if !code.code().any(|(_, line)| is_it(line)) {
                complaints.push(format!("{place}: {path} has no function {function}"));
            }
        }
        let now = height(room_of(path));
        if now.is_none() || now < last {
            complaints.push(format!("{place}: {path} does not stand below the step before it"));
        }
        (last, step_count) = (now, step_count + 1);
    }
    assert!(step_count > 0, "{DOCUMENT} has no steps");
    assert_none(&complaints);
}
