//! A log in a `BTreeMap`, and a driver that runs the same steps on it and on the real log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    missing_docs,
    reason = "two test programs share it, each uses a part"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::SimDisk;
use diskstore_storage::wal::{
    Entry, EntryKind, Nonces, Options, Position, Recovery, SealedBatch, Wal,
};
use diskstore_storage::{Error, LogId, MemberId, Result, Term, Vote};

pub const DATA: &str = "/data";
pub const DIRECTORY: &str = "/data/wal";
pub const ASIDE: &str = "/data/tmp";

/// Small segments, a tail that soon lets go, two segments to be used again.
pub fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        tail_bytes_max: 4 << 10,
        unsynced_bytes_max: 1 << 20,
        recycle_count_max: 2,
        ..Options::new(Nonces::counted())
    }
}

pub fn open_on(disk: &SimDisk, options: &Options) -> Result<(Wal, Recovery)> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIRECTORY), Path::new(ASIDE), options)
}

pub fn open(disk: &SimDisk) -> Result<(Wal, Recovery)> {
    open_on(disk, &options())
}

/// An entry whose payload says which one it is.
pub fn entry(term: u64, index: u64, payload_bytes: usize) -> Entry {
    let seed = term.wrapping_mul(31).wrapping_add(index.wrapping_mul(7));
    let payload: Vec<u8> =
        (0..payload_bytes as u64).map(|at| (seed + at * at).to_le_bytes()[0]).collect();
    let kind = match index % 5 {
        0 => EntryKind::Blank,
        1 => EntryKind::Membership,
        _ => EntryKind::Normal,
    };
    Entry {
        log_id: LogId { term: Term::new(term), index },
        kind,
        payload: Bytes::from(payload).into(),
    }
}

/// What the log should say.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Model {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub entries: BTreeMap<u64, Entry>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<String> =
            self.entries.values().map(|entry| entry.log_id.to_string()).collect();
        let (vote, committed, purged) = (&self.vote, &self.committed, &self.purged);
        write!(formatter, "vote {vote:?} committed {committed:?} purged {purged:?} {ids:?}")
    }
}

impl Model {
    pub fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn clamped_committed(&self) -> Option<LogId> {
        let committed = self.committed?;
        self.last().map(|last| if committed.index > last.index { last } else { committed })
    }

    /// Everything that the log says, read back from it.
    pub fn of(wal: &Wal) -> Result<Model> {
        let state = wal.state();
        let mut entries = BTreeMap::new();
        let mut next = state.first_index;
        let end = state.last.map_or(next, |last| last.index + 1).max(next);
        while next < end {
            let read = wal.read(next..end, 3000)?;
            assert!(!read.is_empty(), "a range of live entries gives at least one: {next}..{end}");
            for entry in read {
                assert_eq!(entry.log_id.index, next, "entries come in order, without a hole");
                assert_eq!(wal.log_id_at(next), Some(entry.log_id));
                assert!(wal.position_of(next).is_some());
                entries.insert(next, entry);
                next += 1;
            }
        }
        Ok(Model { vote: state.vote, committed: state.committed, purged: state.purged, entries })
    }

    /// The same with `committed` as a reader sees it.
    pub fn as_read(&self) -> Model {
        Model { committed: self.clamped_committed(), ..self.clone() }
    }
}

/// One step of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Append `count` entries of `bytes`.
    Append { count: u64, bytes: usize },
    /// A vote in the next term, which later entries carry.
    Vote,
    /// Everything in the log is committed.
    Commit,
    /// Drop the newest `count` entries.
    Truncate { count: u64 },
    /// Purge all but the newest `keep` entries.
    Purge { keep: u64 },
    /// Purge this far beyond the last entry, as an installed snapshot does.
    PurgeBeyond { by: u64 },
    /// Drop the log and purge it to this far beyond its last entry.
    DropAll { by: u64 },
    /// Seal a batch and leave it in flight over the next steps.
    Seal,
    /// Write what is in flight, then all that is pending.
    Sync,
    /// The empty batch of an idle node.
    Claim,
    /// Make the next segment.
    Prepare,
    /// Give back what was purged.
    Reclaim,
    /// Everything is applied: the tail may let go.
    Release,
    /// Close and open again, after a sync.
    Reopen,
}

/// Runs steps on the log and on the model, and keeps what is acknowledged.
#[derive(Debug)]
pub struct Driver {
    pub disk: SimDisk,
    pub wal: Wal,
    options: Options,
    in_flight: Option<(SealedBatch, Model)>,
    /// What each batch that is not sealed yet makes of the log.
    pending: BTreeMap<Position, Model>,
    /// What the calls so far should have made of the log.
    pub model: Model,
    /// What a completed write made durable.
    pub acknowledged: Model,
    /// What the write that was in flight when it ended would have made durable.
    pub unknown: Option<Model>,
    term: u64,
}

impl Driver {
    pub fn new(disk: &SimDisk, options: &Options) -> Result<Driver> {
        let (wal, _) = open_on(disk, options)?;
        let model = Model::of(&wal)?;
        Ok(Driver {
            disk: disk.clone(),
            wal,
            options: options.clone(),
            in_flight: None,
            pending: BTreeMap::new(),
            acknowledged: model.clone(),
            term: model.vote.map_or(1, |vote| vote.term.get()),
            model,
            unknown: None,
        })
    }

    pub fn run(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Append { count, bytes } => {
                for _ in 0..count {
                    self.append(bytes)?;
                    self.note();
                }
            }
            Step::Vote => {
                self.term += 1;
                let vote = Vote {
                    term: Term::new(self.term),
                    node_id: MemberId::new(7),
                    committed: self.term.is_multiple_of(2),
                };
                self.wal.save_vote(vote);
                self.model.vote = Some(vote);
            }
            Step::Commit => {
                if let Some(last) = self.model.last() {
                    self.wal.save_committed(last);
                    self.model.committed = Some(last);
                }
            }
            Step::Truncate { count } => self.truncate(count),
            Step::Purge { keep } => self.purge(keep),
            Step::PurgeBeyond { by } => {
                let upto = LogId { term: Term::new(self.term), index: self.model.next() + by };
                self.wal.purge(upto);
                self.model.purged = Some(upto);
                self.model.entries.clear();
            }
            Step::DropAll { by } => {
                let upto = LogId { term: Term::new(self.term), index: self.model.next() + by };
                self.wal.drop_all_and_purge_to(upto);
                self.model.entries.clear();
                self.model.committed = self.model.clamped_committed();
                self.model.purged = Some(upto);
                self.model.entries.clear();
            }
            Step::Seal => {
                self.seal();
                return Ok(());
            }
            Step::Sync => self.sync()?,
            Step::Claim => {
                if self.wal.claim_due() {
                    let batch = self.wal.seal_claim().expect("it is due");
                    self.pending.clear();
                    self.write(batch, self.model.clone())?;
                }
            }
            Step::Prepare => drop(self.wal.prepare()?),
            Step::Reclaim => drop(self.wal.reclaim()?),
            Step::Release => {
                self.model.last().inspect(|last| self.wal.release(last.index));
            }
            Step::Reopen => {
                self.sync()?;
                self.wal = open_on(&self.disk, &self.options)?.0;
                // What no batch held is gone: `committed` has no sync of its own.
                self.model = self.acknowledged.clone();
            }
        }
        self.note();
        Ok(())
    }

    fn append(&mut self, bytes: usize) -> Result<()> {
        let index = self.model.next();
        let entry = entry(self.term, index, bytes + usize::try_from(index % 3).unwrap());
        self.model.entries.insert(index, entry.clone());
        let position = self.wal.append([entry])?;
        assert!(position > self.wal.durable(), "what was just appended is not durable");
        assert_eq!(self.wal.position_of(index), Some(position));
        Ok(())
    }

    /// The batch that is open holds what the model says now.
    fn note(&mut self) {
        let position = self.wal.position();
        let sealed = self.in_flight.as_ref().map_or(self.wal.durable(), |(of, _)| of.position());
        if position > sealed {
            self.pending.insert(position, self.model.clone());
        }
    }

    fn truncate(&mut self, count: u64) {
        for _ in 0..count {
            self.model.entries.pop_last();
        }
        self.model.committed = self.model.clamped_committed();
        self.wal.truncate_after(self.model.last());
    }

    fn purge(&mut self, keep: u64) {
        let mut purged = None;
        while self.model.entries.len() as u64 > keep {
            purged = self.model.entries.pop_first().map(|(_, entry)| entry.log_id);
        }
        if let Some(purged) = purged {
            self.wal.purge(purged);
            self.model.purged = Some(purged);
        }
    }

    fn seal(&mut self) {
        if self.in_flight.is_none() {
            self.in_flight = self.wal.seal().map(|batch| {
                let model = self.pending.remove(&batch.position()).expect("it was noted");
                (batch, model)
            });
        }
    }

    fn sync(&mut self) -> Result<()> {
        while {
            self.seal();
            self.in_flight.is_some()
        } {
            self.write_in_flight()?;
        }
        Ok(())
    }

    /// Writes what is in flight and nothing else.
    pub fn write_in_flight(&mut self) -> Result<()> {
        let (batch, model) = self.in_flight.take().unwrap();
        self.write(batch, model)
    }

    fn write(&mut self, batch: SealedBatch, model: Model) -> Result<()> {
        self.unknown = Some(model.clone());
        let position = self.wal.write(batch)?;
        assert_eq!(self.wal.durable(), position);
        self.acknowledged = model;
        self.unknown = None;
        Ok(())
    }

    pub fn check(&self) {
        assert_eq!(Model::of(&self.wal).unwrap(), self.model.as_read());
    }
}

/// Runs a script until the power fails, and says what may be found afterwards.
pub fn run_until_power_fails(disk: &SimDisk, script: &[Step]) -> (Model, Option<Model>) {
    let Ok(mut driver) = Driver::new(disk, &options()) else { return (Model::default(), None) };
    for &step in script {
        if driver.run(step).is_err() {
            assert!(disk.is_power_lost(), "only the power failed");
            break;
        }
        driver.check_unless(disk.is_power_lost());
    }
    (driver.acknowledged, driver.unknown)
}

impl Driver {
    fn check_unless(&self, is_power_lost: bool) {
        if !is_power_lost {
            self.check();
        }
    }
}

/// Opens what a crash left, compares it with what may be there, and goes on with it.
pub fn check_after_crash(disk: &SimDisk, acknowledged: &Model, unknown: Option<&Model>) -> Model {
    let (wal, _) = open(disk).expect("a crash leaves a log that opens");
    let found = Model::of(&wal).unwrap();
    assert!(
        found == acknowledged.as_read() || unknown.is_some_and(|model| found == model.as_read()),
        "found {found:?}\nacknowledged {acknowledged:?}\nin flight {unknown:?}"
    );
    found
}

/// The error that opening gives.
pub fn open_error(disk: &SimDisk) -> Error {
    open(disk).map(|(wal, recovery)| (wal.state(), recovery)).expect_err("it is refused")
}
