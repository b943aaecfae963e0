//! What `recover` says: of the directory that is left, and of the new one.
//!
//! Filled in by `recover`; printed by the sub-command, as words or as JSON.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use diskstore_storage::slots::DAMAGED_COUNT_MAX;
use serde::Serialize;

/// Damaged slots that words name.
const NAMED_COUNT_MAX: usize = 16;

/// What is said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Survey {
    /// Its directory.
    pub(super) directory: String,
    /// Its name.
    pub(super) id: String,
    /// The program that it is a node of.
    pub(super) program: &'static str,
    pub(super) cluster_id: String,
    pub(super) member_id: String,
    /// `voter`, `standby`, `learner` or `removed`, as its own log has it.
    pub(super) role: &'static str,
    /// The highest term that it took part in.
    pub(super) term: u64,
    /// The last entry of its log, and the term of the leader that wrote it.
    pub(super) last: u64,
    pub(super) last_term: u64,
    /// The last entry of which it knows that it was committed.
    pub(super) committed: u64,
    /// Entries behind that one.
    pub(super) uncertain: u64,
    pub(super) checkpoint: u64,
    pub(super) readable_from: u64,
    /// When its log was written last, in seconds since 1970, and how long ago that is.
    pub(super) written_s: Option<u64>,
    pub(super) age_s: Option<u64>,
    /// Bytes at the end of its log that were being written when it stopped.
    pub(super) torn_bytes: u64,
    pub(super) slots: u64,
    pub(super) value_bytes: u32,
    /// How many slots or keys hold a value as of the checkpoint.
    pub(super) live: Option<u64>,
    /// Slots whose checksum is wrong, as far as they are remembered.
    pub(super) damaged_slots: Vec<u64>,
    pub(super) members: Vec<Known>,
    /// Why -unsafe would refuse it.
    pub(super) refusal: Option<String>,
}

/// A member of the old cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) votes: bool,
    pub(super) raft_address: String,
    pub(super) client_address: String,
}

/// What was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Remade {
    /// The new directory.
    pub(super) directory: String,
    pub(super) cluster_id: String,
    /// The state is that of this index of the old cluster.
    pub(super) index: u64,
    /// The log of the new cluster goes on behind this index.
    pub(super) checkpoint: u64,
    /// How many slots or keys hold a value.
    pub(super) live: u64,
    /// Entries that were applied and may never have been committed.
    pub(super) uncertain: u64,
    /// Slots that stay damaged until they are set.
    pub(super) damaged_slots: Vec<u64>,
}

/// All of it, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    #[serde(flatten)]
    pub(super) survey: &'a Survey,
    /// What was made of it, if anything.
    pub(super) made: Option<&'a Remade>,
}

impl Survey {
    /// All of it in words.
    pub(super) fn words(&self) -> String {
        let Survey { directory, id, program, role, cluster_id, member_id, .. } = self;
        let mut text = format!(
            "{directory}: node {id} ({role}, {program}, member {member_id}) of cluster {cluster_id}\n"
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("invariant: a string takes any text");
        };
        let Survey { term, last, last_term, committed, checkpoint, .. } = self;
        line(format_args!(
            "log: last entry {last} of term {last_term}, term {term}; known to be committed up to \
             {committed}; checkpoint {checkpoint}"
        ));
        if let (Some(written), Some(age)) = (self.written_s, self.age_s) {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            let at = humantime::format_rfc3339_seconds(at);
            let age = humantime::format_duration(Duration::from_secs(age));
            line(format_args!("written last: {at}, {age} ago"));
        }
        if self.torn_bytes > 0 {
            line(format_args!(
                "at its end {} bytes were being written when it stopped: they were never \
                 acknowledged, and are left out",
                self.torn_bytes
            ));
        }
        let live = self.live.unwrap_or_default();
        line(format_args!(
            "content at the checkpoint: {live} values{}",
            of_damage(&self.damaged_slots)
        ));
        let members = self.members.iter().map(|known| {
            let vote = if known.votes { "votes" } else { "no vote" };
            format!("{} ({vote}, {})", known.id, known.raft_address)
        });
        line(format_args!("members: {}", members.collect::<Vec<_>>().join(", ")));
        self.put_losses(&mut line);
        text
    }

    /// What may be lost, and what may come that nobody was promised.
    fn put_losses(&self, line: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
        let Survey { last, committed, uncertain, .. } = self;
        if let Some(refusal) = &self.refusal {
            return line(format_args!("not to be recovered: {refusal}"));
        }
        line(format_args!(
            "with -unsafe everything behind entry {last} is lost, also what was acknowledged; this \
             directory cannot say how much that is. Of several survivors recover the one whose last \
             entry has the highest term, and among those the highest index"
        ));
        if *uncertain > 0 {
            line(format_args!(
                "entries {} to {last} ({uncertain}) may never have been committed: writes may come \
                 to be of which clients were told that they failed, or told nothing. -committed \
                 leaves them out, and with them what was acknowledged among them",
                committed + 1
            ));
        }
        line(format_args!(
            "start none of the old directories again once the new cluster takes writes: with a \
             majority of them the old cluster would go on beside it"
        ));
    }
}

fn of_damage(slots: &[u64]) -> String {
    if slots.is_empty() {
        return String::new();
    }
    let named = slots.iter().take(NAMED_COUNT_MAX).map(u64::to_string).collect::<Vec<_>>();
    let more = if slots.len() > NAMED_COUNT_MAX { " and more" } else { "" };
    let at_least = if slots.len() >= DAMAGED_COUNT_MAX { "at least " } else { "" };
    format!("; {at_least}{} damaged slots: {}{more}", slots.len(), named.join(", "))
}

impl Remade {
    /// What was made, and how to go on.
    pub(super) fn words(&self, survey: &Survey) -> String {
        let Remade { directory, cluster_id, index, live, uncertain, damaged_slots, .. } = self;
        let Survey { id, program, .. } = survey;
        let damage = of_damage(damaged_slots);
        let kept = match uncertain {
            0 => String::new(),
            count => format!(", {count} entries among them that may never have been committed"),
        };
        format!(
            "{directory}: node {id} of a new cluster, {cluster_id}, with the state at entry \
             {index}{kept} ({live} values{damage})\nstart it with: {program} -id {id} -data \
             {directory}\nand further members with empty directories and -join\n"
        )
    }
}
