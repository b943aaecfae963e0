//! `diskstore doctor`: asks every node, and says in words why it is slow or not healthy, and what to do.
//!
//! What was found out is one value, [`Facts`]; `members`, `node`, `speed` and `probe` turn it into findings without
//! asking anybody, so that each finding is tested by the facts that it is for. `docs/operations.md` lists
//! all of them.
//!
//! - I1: only looks: nothing in the cluster changes.
//! - I2: a node that cannot be reached is a finding; what others say goes on to be looked at.
//! - I3: what is not known is no finding: a node of an older version says less.

mod members;
mod node;
mod probe;
mod speed;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::json;

use super::health::Health;
use super::survey::{Seen, Survey};
use super::{ClientError, Dialling, print};
use crate::cli::DoctorFlags;
use crate::status::Status;
use probe::Probe;

/// What `doctor` exits with where it found an error or a warning.
const EXIT_FOUND: u8 = 1;
/// Longest time between the two looks.
const DURATION_MAX: Duration = Duration::from_hours(1);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Something is not served, or not safe, now.
    Error,
    /// It is slow, or will be an error if nothing is done.
    Warning,
    /// It is worth knowing, and may be meant.
    Note,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// What it is, for programs: docs/operations.md lists them.
    code: &'static str,
    /// The node, or the directory; `None` for the cluster as a whole.
    #[serde(rename = "where")]
    place: Option<String>,
    /// What was seen, with figures.
    seen: String,
    /// Why that matters.
    why: &'static str,
    /// What to do.
    advice: String,
}

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        place: &str,
        seen: impl Into<String>,
    ) -> Finding {
        let place = (!place.is_empty()).then(|| place.to_owned());
        Finding { severity, code, place, seen: seen.into(), why: "", advice: String::new() }
    }

    fn why(self, why: &'static str) -> Finding {
        Finding { why, ..self }
    }

    fn advice(self, advice: impl Into<String>) -> Finding {
        Finding { advice: advice.into(), ..self }
    }
}

/// All that was found out.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// The first look.
    survey: Survey,
    /// The second one: the statuses of those that answered again, by their member ids.
    later: BTreeMap<String, Status>,
    /// The time between both.
    between: Duration,
    /// This machine's clock, in seconds since 1970.
    now_s: i64,
    /// What a directory of this machine is like.
    probe: Option<Probe>,
}

impl Facts {
    /// Asks all nodes twice.
    ///
    /// # Errors
    /// Wrong usage.
    fn gather(flags: &DoctorFlags) -> Result<Facts, ClientError> {
        if flags.duration > DURATION_MAX {
            let given = format!("{}s", flags.duration.as_secs());
            return Err(ClientError::flag("duration", &given, "an hour at most"));
        }
        let dialling = Dialling::of(&flags.servers)?;
        let probe = flags.data.as_deref().map(Probe::of).transpose()?;
        let survey = Survey::of(&flags.servers.list, &dialling)?;
        let mut later = BTreeMap::new();
        if !flags.duration.is_zero() && !survey.answers().is_empty() {
            std::thread::sleep(flags.duration);
            let again = Survey::of(&flags.servers.list, &dialling)?;
            let statuses = again.answers().into_iter().map(|seen| seen.status.clone());
            later = statuses.map(|status| (status.member_id.clone(), status)).collect();
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Ok(Facts { survey, later, between: flags.duration, now_s, probe })
    }

    /// Everything that is wrong, the worst first.
    fn findings(&self) -> Vec<Finding> {
        let mut found = members::findings(self);
        for seen in self.survey.answers() {
            found.extend(node::findings(&seen.status, self.now_s));
        }
        found.extend(speed::findings(self));
        found.extend(self.probe.iter().flat_map(Probe::findings));
        found.sort_by_key(|finding| finding.severity); // the order of each kind stays
        found
    }

    /// The newest word of a node: that of the second look, if it answered.
    fn newest<'a>(&'a self, seen: &'a Seen) -> &'a Status {
        self.later.get(&seen.status.member_id).unwrap_or(&seen.status)
    }

    /// The leader's status, if it answered: of several the one of the newest term.
    fn leader(&self) -> Option<&Seen> {
        self.survey.leader()
    }

    fn health(&self) -> Health {
        self.survey.health()
    }
}

/// `diskstore doctor`. Returns what the program exits with.
///
/// # Errors
/// Wrong usage.
pub(super) fn run(flags: &DoctorFlags, out: &mut dyn Write) -> Result<u8, ClientError> {
    let facts = Facts::gather(flags)?;
    let findings = facts.findings();
    let summary = facts.health().summary;
    let is_healthy = findings.iter().all(|finding| finding.severity == Severity::Note);
    if flags.form.json {
        let answered = facts.survey.answers().len();
        let report = json!({
            "is_healthy": is_healthy,
            "summary": summary,
            "answered": answered,
            "findings": findings,
        });
        print(out, format!("{report}\n").as_bytes())?;
    } else {
        print(out, told(&summary, &findings, facts.probe.as_ref()).as_bytes())?;
    }
    Ok(if is_healthy { 0 } else { EXIT_FOUND })
}

fn told(summary: &str, findings: &[Finding], probe: Option<&Probe>) -> String {
    let mut text = format!("health   {summary}\n");
    if let Some(probe) = probe {
        line(&mut text, "disk", &probe.summary());
    }
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let place = finding.place.as_ref().map_or(String::new(), |place| format!("{place}: "));
        line(&mut text, "", "");
        line(&mut text, severity, &format!("{place}{} [{}]", finding.seen, finding.code));
        line(&mut text, "", finding.why);
        line(&mut text, "", &format!("-> {}", finding.advice));
    }
    if findings.is_empty() {
        line(&mut text, "findings", "none");
    }
    text
}

fn line(text: &mut String, head: &str, words: &str) {
    // Names and reasons are what nodes say: none of it reaches into the terminal, or makes a line.
    let words = words.replace(char::is_control, "\u{fffd}");
    let line = format!("{head:<8} {words}");
    writeln!(text, "{}", line.trim_end()).expect("invariant: a String takes every write");
}

#[cfg(test)]
mod tests;
