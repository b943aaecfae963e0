//! What is known of a write that was carried out: where its entry is, who holds it, and where its time
//! went. `Cluster::receipt` fills it in, every protocol carries it as one JSON value on request
//! (`docs/requests.md`), and `diskstore set -receipt` prints it. Depends on nothing.
//!
//! - I1: what nobody knows is left out; it is never guessed. Fields are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most versions that a receipt names: those of more keys stand in the answer itself.
pub const RECEIPT_VERSION_COUNT_MAX: usize = 64;

/// The receipt of one write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteReceipt {
    /// The log index of its entry.
    pub index: u64,
    /// The election term of its entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// True if an earlier entry carried the request out, which `index` is that of.
    #[serde(skip_serializing_if = "is_false")]
    pub repeat: bool,
    /// The versions of the first [`RECEIPT_VERSION_COUNT_MAX`] keys, in the order of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<u64>,
    /// Who says the following: the member that led then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The members that the leader knew to hold the entry durably when it said so, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<Vec<String>>,
    /// Where the time went at the leader, if it proposed the entry, lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<ReceiptStages>,
}

/// How long an entry, or the batch that it was part of, spent in each stage, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiptStages {
    /// From the first command of its batch that came until the batch was proposed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<u64>,
    /// Putting it into the leader's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_us: Option<u64>,
    /// Writing and syncing the leader's log; the followers do the same meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_us: Option<u64>,
    /// From there, the append, until it was known that a majority holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_us: Option<u64>,
    /// Changing the leader's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_us: Option<u64>,
}

impl WriteReceipt {
    /// As one line of JSON in plain ASCII, so that it fits into a header too.
    ///
    /// # Panics
    /// Never: every field is a string, a number or a list of them.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self);
        let json = json.expect("invariant: numbers and strings always have a JSON form");
        if json.is_ascii() {
            return json;
        }
        let mut ascii = String::with_capacity(json.len() * 2);
        for char in json.chars() {
            if char.is_ascii() {
                ascii.push(char);
            } else {
                let units = &mut [0; 2];
                let escaped = char.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}"));
                ascii.extend(escaped);
            }
        }
        ascii
    }

    /// The receipt of this JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(json: &[u8]) -> Result<WriteReceipt, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl ReceiptStages {
    /// Each stage by its name, in the order in which a write goes through them.
    pub fn named(&self) -> [(&'static str, Option<u64>); 5] {
        let ReceiptStages { queue_us, append_us, sync_us, commit_us, apply_us } = *self;
        [
            ("queue", queue_us),
            ("append", append_us),
            ("sync", sync_us),
            ("commit", commit_us),
            ("apply", apply_us),
        ]
    }
}

/// As a person reads it, in lines.
impl fmt::Display for WriteReceipt {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "index {}", self.index)?;
        if let Some(term) = self.term {
            write!(to, ", term {term}")?;
        }
        if self.repeat {
            to.write_str(", carried out before")?;
        }
        if let Some(leader) = &self.leader {
            write!(to, ", leader {leader}")?;
        }
        let versions: Vec<String> = self.versions.iter().map(u64::to_string).collect();
        if !versions.is_empty() {
            write!(to, "\nversion {}", versions.join(" "))?;
        }
        match &self.durable {
            Some(names) => write!(to, "\ndurable at {}", names.join(" "))?,
            None => to.write_str("\nthe leader does not say who holds it")?,
        }
        let Some(stages) = self.stages else {
            return to.write_str("\nthe time of its stages is not known");
        };
        to.write_str("\ntime")?;
        for (name, us) in stages.named() {
            match us {
                Some(us) => write!(to, " {name} {us} us")?,
                None => write!(to, " {name} unknown")?,
            }
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields by reference")]
fn is_false(it: &bool) -> bool {
    !*it
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> WriteReceipt {
        WriteReceipt {
            index: 12,
            term: Some(3),
            versions: vec![12],
            leader: Some("knot\u{e9}\u{1f980}".to_owned()),
            durable: Some(vec!["node1".to_owned()]),
            stages: Some(ReceiptStages { queue_us: Some(5), ..ReceiptStages::default() }),
            ..WriteReceipt::default()
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_the_rest_is_plain_ascii() {
        let json = receipt().to_json();
        assert_eq!(
            json,
            r#"{"index":12,"term":3,"versions":[12],"leader":"knot\u00e9\ud83e\udd80","durable":["node1"],"stages":{"queue_us":5}}"#
        );
        assert_eq!(WriteReceipt::from_json(json.as_bytes()).unwrap(), receipt());
        let bare = WriteReceipt { index: 7, ..WriteReceipt::default() };
        assert_eq!(bare.to_json(), r#"{"index":7}"#);
    }

    #[test]
    fn a_person_reads_what_is_known_and_what_is_not() {
        let bare = WriteReceipt { index: 7, repeat: true, ..WriteReceipt::default() };
        assert_eq!(
            bare.to_string(),
            "index 7, carried out before\nthe leader does not say who holds it\nthe time of its \
             stages is not known"
        );
        let text = receipt().to_string();
        assert!(text.contains("\nversion 12\ndurable at node1\ntime queue 5 us append"), "{text}");
    }
}
