//! Redis' patterns for names: `*`, `?`, `[a-z]`, `[^x]`, and `\` before a byte that stands for
//! itself. Pure.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

/// Whether all of `text` matches `pattern`. Takes time of at most their lengths multiplied.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on after the last star: behind it, with one more byte of text swallowed.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(behind) = pattern.strip_prefix(b"*") {
            retry = Some((behind, text));
            pattern = behind;
            continue;
        }
        let step = match (pattern.is_empty(), text.split_first()) {
            (true, None) => return true,
            (false, Some((byte, rest))) => match_one(pattern, *byte).map(|behind| (behind, rest)),
            _ => None,
        };
        if let Some(next) = step {
            (pattern, text) = next;
            continue;
        }
        let Some((behind, swallowed)) = retry else { return false };
        let Some((_, rest)) = swallowed.split_first() else { return false };
        retry = Some((behind, rest));
        (pattern, text) = (behind, rest);
    }
}

/// The pattern behind its first element, if that matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', behind @ ..] => Some(behind),
        [b'[', class @ ..] => match_class(class, byte),
        [b'\\', escaped, behind @ ..] => (*escaped == byte).then_some(behind),
        [plain, behind @ ..] => (*plain == byte).then_some(behind),
        [] => None,
    }
}

/// The pattern behind a class, if that holds `byte`. A class without an end goes to the end.
fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => return (found != negated).then_some(class),
            [b']', behind @ ..] => return (found != negated).then_some(behind),
            [b'\\', escaped, behind @ ..] => {
                found |= *escaped == byte;
                behind
            }
            [low, b'-', high, behind @ ..] if *high != b']' => {
                found |= (*low.min(high)..=*high.max(low)).contains(&byte);
                behind
            }
            [plain, behind @ ..] => {
                found |= *plain == byte;
                behind
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes = [
            ("*", ""),
            ("*", "42"),
            ("4?", "42"),
            ("4*2", "4002"),
            ("*a*b*", "xxaxxbxx"),
            ("[0-4]2", "42"),
            ("[^5]2", "42"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("[4", "4"),
            ("", ""),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        let no = [("", "a"), ("?", ""), ("4", "42"), ("*b", "abc"), ("[5-9]2", "42"), ("\\*", "a")];
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = b"*a".repeat(200);
        assert!(!matches(&pattern, &b"a".repeat(199)));
        assert!(matches(&pattern, &b"a".repeat(4000)));
    }
}
