//! What a request asks beside its path and its body: names with values behind the question mark, and how
//! fresh a read has to be. Pure, but for who leads.
//!
//! Called by every handler. Names and values are bytes until a handler says that they are text: a key
//! is any bytes.

use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode;

use super::Seat;
use super::entry::one;
use super::problem::Problem;
use crate::command::{OPERATION_COUNT_MAX, ReadLevel};

/// How fresh a read has to be, where the path does not say.
const LEVEL: HeaderName = HeaderName::from_static("diskstore-level");
/// Most names behind a question mark.
const ASKED_COUNT_MAX: usize = 16;

/// One name with its value, of a form or from behind a question mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What a request asks.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pairs: Vec<Pair>,
    /// How fresh a read has to be, if the request says so.
    pub(super) level: Option<ReadLevel>,
}

impl Asked {
    /// What a request asks, of which `names` are known beside `level` and `redirect`.
    ///
    /// # Errors
    /// A name that is unknown, or there twice; an unknown level, or two.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap, names: &[&str]) -> Result<Asked, Problem> {
        let pairs = pairs(uri.query().unwrap_or_default().as_bytes(), ASKED_COUNT_MAX)?;
        for (position, Pair { name, .. }) in pairs.iter().enumerate() {
            let is_known = |known: &&str| known.as_bytes() == name;
            let name = name.escape_ascii();
            if !names.iter().chain(&["level", "redirect"]).any(is_known) {
                return Err(Problem::wrong(format!("unknown query parameter: {name}")));
            }
            let (before, _) = pairs.split_at(position);
            if before.iter().any(|pair| pairs.get(position).is_some_and(|it| it.name == pair.name))
            {
                return Err(Problem::wrong(format!("query parameter is there twice: {name}")));
            }
        }
        let mut asked = Asked { pairs, level: None };
        let by_path = asked.value("level").map(level).transpose()?;
        let by_header = one(headers, &LEVEL)?.map(|text| level(text.as_bytes())).transpose()?;
        if by_path.is_some() && by_header.is_some() && by_path != by_header {
            return Err(Problem::wrong("two levels are asked for"));
        }
        asked.level = by_path.or(by_header);
        Ok(asked)
    }

    /// The value behind a name, if that is there.
    pub(super) fn value(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.pairs.iter();
        pairs.find(|pair| pair.name == name.as_bytes()).map(|pair| pair.value.as_slice())
    }

    /// Sends the client to the leader, where it asked for that and another member leads.
    pub(super) fn redirection(&self, seat: &Seat, uri: &Uri) -> Option<Response> {
        self.value("redirect")?;
        let node = &seat.server.node;
        if node.is_leader() {
            return None;
        }
        let status = node.status();
        let leader = status.members.into_iter().find(|member| member.role == "leader")?;
        let location = format!("{}://{}{}", seat.scheme, leader.client, uri);
        Some((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response())
    }
}

fn level(text: &[u8]) -> Result<ReadLevel, Problem> {
    Ok(match text {
        b"linearizable" => ReadLevel::Linearizable,
        b"lease" => ReadLevel::Lease,
        b"local" => ReadLevel::Local,
        b"log" => ReadLevel::Log,
        _ => return Err(Problem::wrong("level is linearizable, lease, local or log")),
    })
}

/// The pairs of a form, in order, as browsers and `curl -d` write them.
///
/// # Errors
/// More than an entry of the log may hold.
pub(super) fn form(text: &[u8]) -> Result<Vec<Pair>, Problem> {
    pairs(text, OPERATION_COUNT_MAX)
}

/// `name=value&...`, at most `count_max` of them. Libraries make text of what is none; two keys would be
/// one afterwards.
fn pairs(text: &[u8], count_max: usize) -> Result<Vec<Pair>, Problem> {
    let mut pairs = Vec::new();
    for part in text.split(|byte| *byte == b'&').filter(|part| !part.is_empty()) {
        if pairs.len() == count_max {
            return Err(Problem::too_large(format!("more than {count_max} pairs")));
        }
        let mut halves = part.splitn(2, |byte| *byte == b'=');
        let mut half = || decode(halves.next().unwrap_or_default());
        let (name, value) = (half()?, half()?);
        pairs.push(Pair { name, value });
    }
    Ok(pairs)
}

fn decode(text: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut behind_percent = text.split(|byte| *byte == b'%').skip(1);
    let is_hex =
        |rest: &[u8]| rest.get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !behind_percent.all(is_hex) {
        return Err(Problem::wrong("behind a % there are two hexadecimal digits"));
    }
    let spaced: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Ok(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(path: &str, header: Option<&'static str>) -> Result<Asked, u16> {
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|level| (LEVEL, HeaderValue::from_static(level))));
        let asked = Asked::of(&path.parse().unwrap(), &headers, &["key"]);
        asked.map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn names_and_values_are_the_bytes_that_were_meant() {
        let asked = asked("/?key=a+b%2B%ff%00=c&redirect", None).unwrap();
        assert_eq!(asked.value("key"), Some(&b"a b+\xff\0=c"[..]));
        assert_eq!(asked.value("redirect"), Some(&b""[..]));
        assert_eq!(asked.value("level"), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for path in ["/?other=1", "/?key=1&key=2", "/?level=x", "/?key=%f", "/?key=%+f", "/?KEY=1"]
        {
            assert_eq!(asked(path, None).unwrap_err(), 400, "{path}");
        }
        let many = format!("/?{}", "key=1&".repeat(ASKED_COUNT_MAX + 1));
        assert_eq!(asked(&many, None).unwrap_err(), 413);
        let many = b"a=1&".repeat(OPERATION_COUNT_MAX + 1);
        assert_eq!(form(&many).unwrap_err().status.as_u16(), 413);
        assert_eq!(form(&many[4..]).unwrap().len(), OPERATION_COUNT_MAX);
    }

    #[test]
    fn a_level_is_asked_for_by_path_or_header() {
        assert_eq!(asked("/", None).unwrap().level, None);
        assert_eq!(asked("/?level=lease", None).unwrap().level, Some(ReadLevel::Lease));
        assert_eq!(asked("/", Some("local")).unwrap().level, Some(ReadLevel::Local));
        assert_eq!(asked("/?level=log", Some("log")).unwrap().level, Some(ReadLevel::Log));
        assert_eq!(asked("/?level=log", Some("local")).unwrap_err(), 400);
        assert_eq!(asked("/", Some("fresh")).unwrap_err(), 400);
    }
}
