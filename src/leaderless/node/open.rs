//! Opens or makes the directory of a node: its records, its log, and the numbers that it keeps.
//!
//! Called by `mod` at a start, on a thread that may block; calls `storage`. Invariants:
//!
//! - I1: a directory of another node, another layout or another program is refused by name, and nothing in it is
//!   touched.
//! - I2: a directory whose log or records are missing is refused: it has lost what it acknowledged. An
//!   empty one counts as a lost disk (`founding.rs` has the exception).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::{Disk, Lock};
use diskstore_storage::identity;
use diskstore_storage::keys::{self, KeyImage, Keys, SNAPSHOT_FILE};
use diskstore_storage::wal::{self, Seen, Wal};
use sha2::{Digest, Sha256};

use super::records::{Kept, Recorded, put_kept, put_kept_record, read_kept, read_record};
use super::store::{Overview, Store, log_id};
use super::{RegistersConfig, RegistersStartError};
use crate::command::cursor::Cursor;
use crate::config::SyncPolicy;
use crate::fault::Faults;
use crate::host::Host;
use crate::leaderless::clock::{NodeNumber, Version};
use crate::leaderless::layout::{Layout, hex};
use crate::leaderless::replica::{Lost, Numbers};
use crate::replica::Syncer;

/// Directory of the log in a node's directory.
const WAL_NAME: &str = "wal";

/// Bytes of a segment: a batch with the largest value fits in half of one.
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;

/// What was opened.
#[derive(Debug)]
pub(super) struct OpenedStore {
    pub(super) store: Store,
    /// Held as long as the node runs.
    pub(super) lock: Box<dyn Lock>,
}

/// What is to be opened, and on what.
pub(super) struct Opening<'a> {
    pub(super) host: &'a Host,
    pub(super) config: &'a RegistersConfig,
    pub(super) own: NodeNumber,
    pub(super) faults: Faults,
    /// Bytes of a segment of the log.
    pub(super) segment_bytes: u64,
}

/// The cluster that begins with a layout.
pub(super) fn cluster_id_of(layout: &Layout) -> u128 {
    let mut digest = Sha256::new();
    digest.update(b"diskstore leaderless cluster 1\n");
    digest.update(layout.hash());
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

impl Opening<'_> {
    /// Opens the directory, or makes it.
    pub(super) fn run(self) -> Result<OpenedStore, RegistersStartError> {
        let directory = &self.config.directory;
        let disk = self.host.disk.clone();
        self.refuse_others(&*disk)?;
        let lock = identity::open_directory(&*disk, directory)?;
        let (has_keys, has_wal) =
            (disk.exists(&directory.join(SNAPSHOT_FILE))?, disk.exists(&directory.join(WAL_NAME))?);
        if has_keys && !has_wal {
            return Err(self.other(
                "the log (wal/) is missing, and with it writes that were acknowledged. To have this node copy all keys from the others, start it with an empty directory",
            ));
        }
        let options = keys::Options::new(self.config.memory_bytes_max);
        let keys = if has_keys {
            Some(Keys::open_registers(disk.clone(), directory, options)?)
        } else {
            None
        };
        let checkpoint = keys.as_ref().and_then(Keys::durable).map_or(0, |it| it.log_id.index);
        let mut replay = Replay {
            keys: keys.as_ref(),
            kept: None,
            checkpoint,
            failure: None,
            deleted: None,
            bytes: 0,
        };
        let aside = directory.join(identity::TMP_NAME);
        let (wal, _) = Wal::open_following(
            disk.clone(),
            &directory.join(WAL_NAME),
            &aside,
            &self.log_options(),
            &mut |seen| replay.see(seen),
        )?;
        let Replay { kept, failure, bytes: replayed_bytes, .. } = replay;
        if let Some(reason) = failure {
            return Err(self.other(&reason));
        }
        let (keys, kept) = match keys {
            Some(keys) => {
                let kept = match kept {
                    Some(kept) => kept,
                    None => read_kept(&mut Cursor::new(keys.numbers()))
                        .map_err(|error| self.other(&format!("snapshot.dat: {error}")))?,
                };
                self.check(&keys, &kept)?;
                (keys, kept)
            }
            // The first entry alone is what a start that was cut off has left.
            None if wal.state().last.is_some_and(|last| last.index > 1) => {
                return Err(self.other("snapshot.dat is missing beside its log. To have this node copy all keys from the others, start it with an empty directory"));
            }
            None => self.create(&disk, &wal, kept)?,
        };
        let mut store = self.finish(keys, kept, wal, checkpoint)?;
        store.replayed_bytes = replayed_bytes;
        Ok(OpenedStore { store, lock })
    }

    fn finish(
        &self,
        keys: Keys,
        kept: Kept,
        wal: Wal,
        checkpoint: u64,
    ) -> Result<Store, RegistersStartError> {
        let state = wal.state();
        let last_index = state.last.map_or(0, |last| last.index);
        let purged = state.purged.map_or(0, |purged| purged.index);
        if purged > checkpoint || last_index < checkpoint || last_index == 0 {
            return Err(self.other(&format!(
                "the log holds entries {} to {last_index}, and snapshot.dat has those up to {checkpoint}: entries are missing. To have this node copy all keys from the others, start it with an empty directory",
                state.first_index
            )));
        }
        let layout = self.config.layout.clone();
        let Overview { sums, deleted, highest } =
            Overview::of(&keys, &layout, self.own, cluster_id_of(&layout));
        let wal = Arc::new(wal);
        let syncer = Syncer::start(wal.clone(), &self.host.threads, self.faults.clone())?;
        if let SyncPolicy::Batch(interval) = self.config.sync {
            syncer.sync_every(interval);
        }
        let floor = kept.numbers.floor.moment;
        let mut store = Store {
            keys: Arc::new(keys),
            checkpoint_at: wal.log_bytes(),
            wal,
            syncer: Arc::new(syncer),
            layout,
            kept,
            sums,
            deleted,
            forgets_upto: 0,
            highest,
            last_index,
            pending: Vec::new(),
            pending_count: 0,
            replayed_bytes: 0,
            forgotten: None,
            is_renewed: false,
            is_cleaning: false,
        };
        store.forget(floor);
        while store.is_forgetting() {
            store.forget_some();
        }
        if last_index > 1 {
            store.note_forgotten(); // what was forgotten before this start may be in files
        }
        Ok(store)
    }

    fn other(&self, reason: &str) -> RegistersStartError {
        RegistersStartError::OtherDirectory {
            directory: self.config.directory.display().to_string(),
            reason: reason.to_owned(),
        }
    }

    /// I1
    fn refuse_others(&self, disk: &dyn Disk) -> Result<(), RegistersStartError> {
        let directory = &self.config.directory;
        if !disk.exists(directory)? {
            return Ok(());
        }
        if disk.exists(&directory.join(identity::IDENTITY_NAME))? {
            return Err(self.other("it belongs to a member of a diskstore cluster with a leader"));
        }
        let is_badger = |name: &String| {
            let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
            name == "MANIFEST" || matches!(ending, Some("vlog" | "sst"))
        };
        if let Some(name) = disk.list(directory)?.iter().find(|name| is_badger(name)) {
            return Err(self.other(&format!(
                "it has a file of Badger ({name}): it belongs to the original (46bit/leaderless-key-value-store), whose files are not read. Give this node a directory of its own, and bring the keys over from a running original: leaderless import -from HOST:PORT,.."
            )));
        }
        Ok(())
    }

    /// Whether the directory is that of this node, in this layout (I1).
    fn check_kept(&self, kept: &Kept) -> Result<(), RegistersStartError> {
        let layout = &self.config.layout;
        let (stored, given) = (kept.layout_hash, layout.hash());
        if stored != given {
            return Err(self.other(&format!(
                "the cluster file is another layout than that of this directory: {} there, {} in the file. A layout (nodes, weights, zones, seed, replica_count) is fixed when a cluster begins, but for addresses: bring the file back as it was",
                hex(&stored),
                hex(&given)
            )));
        }
        if kept.own != self.own {
            let id = layout.nodes().iter().find(|node| node.number == kept.own);
            let id = id.map_or_else(|| kept.own.to_string(), |node| node.id.clone());
            return Err(
                self.other(&format!("it belongs to node {id}, and not to {}", self.config.id))
            );
        }
        Ok(())
    }

    fn check(&self, keys: &Keys, kept: &Kept) -> Result<(), RegistersStartError> {
        self.check_kept(kept)?;
        let layout = &self.config.layout;
        let header = keys.header();
        if header.cluster_id != cluster_id_of(layout) {
            return Err(self.other("its records belong to another cluster"));
        }
        if header.value_bytes != self.config.value_bytes_max {
            return Err(self.other(&format!(
                "it was made for values of up to {} bytes, and value_max says {}; give it the same again",
                header.value_bytes, self.config.value_bytes_max
            )));
        }
        Ok(())
    }

    /// A new directory: the disk of a node that lost it, as far as anybody can see (I2).
    fn create(
        &self,
        disk: &Arc<dyn Disk>,
        wal: &Wal,
        begun: Option<Kept>,
    ) -> Result<(Keys, Kept), RegistersStartError> {
        let layout = &self.config.layout;
        let kept = Kept {
            own: self.own,
            incarnation: u64::from_le_bytes(self.host.random.bytes()?),
            epoch: layout.epoch(),
            layout_hash: layout.hash(),
            founders: std::collections::BTreeMap::new(),
            numbers: Numbers { lost: Lost { count: 1, copied: 0 }, ..Numbers::default() },
        };
        // In the log first: a log that is empty beside a snapshot.dat was lost.
        let kept = begun.unwrap_or(kept);
        self.check_kept(&kept)?; // of a start that was cut off, maybe under another file
        if wal.state().last.is_none() {
            let mut payload = Vec::new();
            put_kept_record(&mut payload, &kept);
            let (log_id, payload) = (log_id(1), Bytes::from(payload).into());
            wal.append([wal::Entry { log_id, kind: wal::EntryKind::Normal, payload }])?;
            while let Some(batch) = wal.seal() {
                wal.write(batch)?;
            }
            wal.sync()?;
        }
        let mut numbers = Vec::new();
        put_kept(&mut numbers, &kept);
        let new = keys::New {
            cluster_id: cluster_id_of(layout),
            value_bytes: self.config.value_bytes_max,
            options: keys::Options::new(self.config.memory_bytes_max),
        };
        let directory = &self.config.directory;
        let keys = Keys::create_registers(disk.clone(), directory, new, numbers.into())?;
        Ok((keys, kept))
    }

    fn log_options(&self) -> wal::Options {
        let sync = match self.config.sync {
            SyncPolicy::Always => wal::SyncMode::Always,
            SyncPolicy::Batch(_) | SyncPolicy::Never => wal::SyncMode::OnRequest,
        };
        let nonces = self.host.random.nonces();
        let segment_bytes = self.segment_bytes;
        wal::Options { sync, segment_bytes, tail_bytes_max: 0, ..wal::Options::new(nonces) }
    }
}

/// Applies the log behind a checkpoint.
struct Replay<'a> {
    keys: Option<&'a Keys>,
    kept: Option<Kept>,
    checkpoint: u64,
    failure: Option<String>,
    /// Bytes of the entries that were applied.
    bytes: u64,
    /// Deletes that are remembered, and some that are not any more; gathered once they are asked for.
    deleted: Option<BTreeSet<(u64, Bytes)>>,
}

impl Replay<'_> {
    fn take(&mut self, image: &KeyImage) {
        let Some(keys) = self.keys else { return };
        if let (None, Some(deleted)) = (&image.value, &mut self.deleted) {
            deleted.insert((image.index, Bytes::copy_from_slice(&image.key)));
        }
        keys.take(image);
    }

    /// What the node forgot at a floor is forgotten at the same place: what came behind it may be older.
    fn take_kept(&mut self, kept: Kept) {
        let before = self.kept.as_ref().map(|kept| kept.numbers.floor.moment);
        let floor = kept.numbers.floor.moment;
        self.kept = Some(kept);
        let Some(keys) = self.keys.filter(|_| before < Some(floor)) else { return };
        let upto = Version::last_at(floor).get();
        let deleted = self.deleted.get_or_insert_with(|| {
            let mut deleted = BTreeSet::new();
            keys.versions(0, u64::MAX, &mut |at| {
                if at.value.is_none() {
                    deleted.insert((at.index, Bytes::copy_from_slice(at.key)));
                }
            });
            deleted
        });
        while let Some((version, key)) = deleted.pop_first() {
            if version > upto {
                deleted.insert((version, key));
                return;
            }
            let found = keys.read(&key);
            if found.index == version && found.value.is_none() {
                keys.drop_register(&key, version);
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        let Seen::Entry(entry) = seen else { return };
        if entry.log_id.index <= self.checkpoint {
            return;
        }
        self.bytes += entry.payload.len() as u64;
        let mut cursor = Cursor::new(entry.payload.into_bytes());
        loop {
            match read_record(&mut cursor) {
                Ok(Some(Recorded::Holds { key, held })) => {
                    self.take(&KeyImage { key, index: held.version.get(), value: held.value });
                }
                Ok(Some(Recorded::Dropped { key, upto })) => {
                    self.keys.and_then(|keys| keys.drop_register(&key, upto.get()));
                }
                Ok(Some(Recorded::Kept(kept))) => self.take_kept(*kept),
                Ok(None) => return,
                Err(error) => {
                    let index = entry.log_id.index;
                    self.failure.get_or_insert(format!("entry {index} of the log: {error}"));
                    return;
                }
            }
        }
    }
}
