//! Opens or makes the files of a node: the log, and the state that it is applied to.
//!
//! Called by `start`, once the directory is locked and its identity known; calls `storage` and
//! `machine`. Invariant:
//!
//! - I1: log and checkpoint are made to agree before openraft reads the stores (C12, C13).

use std::path::Path;
use std::sync::Arc;

use diskstore_storage::LogId;
use diskstore_storage::disk::Disk;
use diskstore_storage::identity::{self, Identity, MachineKind, Standing};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Geometry, New, Slots};
use diskstore_storage::wal::{self, Wal};

use super::StartError;
use super::start::Progress;
use crate::cluster::CheckpointPolicy;
use crate::config::{Config, SyncPolicy, checkpoint_bytes, row};
use crate::host::{Host, Random};
use crate::machine::{
    DiskMachine, JournalMachine, JournalOptions, Machine, MemoryMachine, SYNC_BYTES_DEFAULT,
};
use crate::oplog::Parts;
use crate::raft;
use crate::replica::{Applied, Bounds, ReplayAhead};

/// Directory of the log's segments in a node's directory.
pub(crate) const WAL_NAME: &str = "wal";

/// What a node works on.
pub(super) struct Opened {
    pub(super) machine: Machine,
    pub(super) wal: Arc<Wal>,
    /// What was applied to the machine while the log was recovered.
    pub(super) applied: Option<Applied>,
    pub(super) policy: CheckpointPolicy,
    /// What was found, for people.
    pub(super) report: String,
}

/// What the log is to be applied to.
enum Plan {
    /// The file, and how many slots the cluster had at first.
    Slots(New, u64),
    Memory(keys::New),
    Journal(JournalOptions),
}

impl Plan {
    fn new(
        config: &Config,
        identity: &Identity,
        cluster_id: u128,
        disk: Arc<dyn Disk>,
    ) -> Result<Plan, StartError> {
        let value_bytes = identity.value_bytes;
        match identity.machine {
            MachineKind::Journal => {
                let folder = config.log_folder.clone().unwrap_or_else(std::env::temp_dir);
                Ok(Plan::Journal(JournalOptions {
                    directory: config.data_dir.clone(),
                    parts: Parts::of_node(disk, &folder, &config.id),
                    part_bytes_max: config.roll_bytes,
                    sync_bytes: SYNC_BYTES_DEFAULT,
                    cluster_id,
                    slot_count: identity.slot_count,
                    value_bytes_max: value_bytes,
                }))
            }
            MachineKind::Memory => {
                let memory_bytes = config.key_memory_bytes_for(machine_memory_bytes());
                let options = keys::Options::new(memory_bytes);
                Ok(Plan::Memory(keys::New { cluster_id, value_bytes, options }))
            }
            MachineKind::Slots => {
                // The flag may ask for more room than there is; what there is stays.
                let asked = config.slot_count.unwrap_or(0).max(identity.slot_count);
                let room = Slots::room(&*disk, &config.data_dir)?.unwrap_or(0);
                let geometry = Geometry::new(asked.max(room), value_bytes)?;
                let file_bytes = geometry.file_bytes();
                let memory_bytes = config.memory_bytes_for(file_bytes, machine_memory_bytes());
                let options = slots::Options::new(memory_bytes);
                let new = New { geometry, cluster_id, options };
                Ok(Plan::Slots(new, identity.slot_count))
            }
        }
    }

    /// Bytes that may have changed before a checkpoint is due.
    fn dirty_bytes_max(&self) -> u64 {
        match self {
            Plan::Slots(New { geometry, options, .. }, _)
                if options.memory_bytes_max < geometry.file_bytes() =>
            {
                options.memory_bytes_max / 2
            }
            Plan::Slots(..) | Plan::Memory(_) | Plan::Journal(_) => u64::MAX,
        }
    }

    fn open(
        &self,
        disk: &Arc<dyn Disk>,
        directory: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Machine, String), StartError> {
        match self {
            Plan::Slots(new, slot_count) => {
                let (slots, report) = open_slots(&**disk, directory, *new, progress)?;
                let machine = DiskMachine::new(Arc::new(slots)).limited_to(*slot_count);
                Ok((Machine::Slots(machine), report))
            }
            Plan::Memory(new) => {
                let (keys, report) = open_keys(disk, directory, *new)?;
                Ok((Machine::Memory(MemoryMachine::new(Arc::new(keys))), report))
            }
            Plan::Journal(options) => {
                let journal = JournalMachine::open(disk.clone(), options.clone())?;
                let report = journal.report();
                Ok((Machine::Journal(journal), report))
            }
        }
    }
}

/// Opens or makes what the log is applied to, and the log, on a thread that may block.
pub(super) async fn open_files(
    host: &Host,
    config: &Config,
    identity: &Identity,
    cluster_id: u128,
    mut progress: Progress,
) -> Result<Opened, StartError> {
    let plan = Plan::new(config, identity, cluster_id, host.disk.clone())?;
    let Host { disk, random, threads, .. } = host.clone();
    let config = config.clone();
    let is_member = identity.standing == Standing::Member;
    let data_file = row(identity.machine).data_file;
    tokio::task::spawn_blocking(move || {
        let directory = &config.data_dir;
        let lost = |what| StartError::DataLost { directory: directory.display().to_string(), what };
        if is_member && !disk.exists(&directory.join(data_file))? {
            return Err(lost(data_file));
        }
        let (machine, mut report) = plan.open(&disk, directory, &mut *progress)?;
        machine.open_request_ids(disk.clone(), directory, cluster_id)?;
        // An application log records what is replayed, and is not open yet.
        let mut ahead = match config.log_folder {
            Some(_) => None,
            None => ReplayAhead::start(&machine, &threads, Bounds::default())
                .map_err(raft::StartError::from)?,
        };
        let (wal_directory, aside) = (directory.join(WAL_NAME), directory.join(identity::TMP_NAME));
        let options = log_options(&config, &machine, &random);
        let (wal, recovery) = match &mut ahead {
            Some(ahead) => {
                let follow = &mut |seen| ahead.see(seen);
                Wal::open_following(disk, &wal_directory, &aside, &options, follow)?
            }
            None => Wal::open(disk, &wal_directory, &aside, &options)?,
        };
        // Whoever is a member, or has a checkpoint, has accepted a leader's vote.
        let checkpoint = machine.durable().map(|durable| durable.log_id);
        let has_history = is_member || checkpoint.is_some();
        if has_history && wal.state().vote.is_none() {
            return Err(lost("log"));
        }
        agree(&wal, checkpoint, directory)?;
        let applied =
            ahead.map(|ahead| ahead.finish(&wal)).transpose().map_err(raft::StartError::from)?;
        report.push_str(&log_report(&recovery));
        let policy = CheckpointPolicy {
            checkpoint_bytes: config.checkpoint_bytes,
            keep_bytes: config.keep_bytes,
            dirty_bytes_max: plan.dirty_bytes_max(),
        };
        Ok(Opened { machine, wal: Arc::new(wal), applied, policy, report })
    })
    .await?
}

fn log_options(config: &Config, machine: &Machine, random: &Random) -> wal::Options {
    let sync = match config.sync {
        SyncPolicy::Always => wal::SyncMode::Always,
        SyncPolicy::Batch(_) | SyncPolicy::Never => wal::SyncMode::OnRequest,
    };
    let nonces = random.nonces();
    let mut options = wal::Options { sync, ..wal::Options::new(nonces) };
    // What one checkpoint frees serves until the next: a new segment is written twice, with zeros
    // first, and removing many at once makes the disk busy with what it forgets.
    let (asked, data_bytes) = (config.checkpoint_bytes, machine.usage().data_bytes);
    let checkpoint_bytes = checkpoint_bytes(asked, machine.kind(), data_bytes);
    let segments = checkpoint_bytes / options.segment_bytes + 1;
    options.recycle_count_max = usize::try_from(segments).unwrap_or(usize::MAX);
    options
}

fn open_keys(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    new: keys::New,
) -> Result<(Keys, String), StartError> {
    let path = directory.join(row(MachineKind::Memory).data_file);
    let (shown, bytes) = (path.display(), new.value_bytes);
    if !disk.exists(&path)? {
        let keys = Keys::create(disk.clone(), directory, new)?;
        return Ok((keys, format!("made {shown} for values of up to {bytes} bytes")));
    }
    let keys = Keys::open(disk.clone(), directory, new.options)?;
    let header = keys.header();
    let other = |flag, asked, actual| {
        let directory = path.display().to_string();
        Err(StartError::OtherIdentity { directory, flag, asked, actual })
    };
    if header.cluster_id != new.cluster_id {
        let name = |id: u128| format!("cluster {id:032x}");
        return other("this start", name(new.cluster_id), name(header.cluster_id));
    }
    if header.value_bytes != bytes {
        let name = |bytes: u32| format!("values of {bytes} bytes");
        return other("IDENTITY", name(bytes), name(header.value_bytes));
    }
    let checkpoint = header.checkpoint.map_or_else(|| "none".into(), |at| at.to_string());
    let count = keys.live_count();
    Ok((keys, format!("{count} keys in {shown}, checkpoint {checkpoint}")))
}

fn open_slots(
    disk: &dyn Disk,
    directory: &Path,
    new: New,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Slots, String), StartError> {
    let path = directory.join(row(MachineKind::Slots).data_file);
    let (count, bytes) = (new.geometry.slot_count(), new.geometry.value_bytes());
    if !disk.exists(&path)? {
        let slots = Slots::create(disk, directory, new, progress)?;
        return Ok((slots, format!("made {count} slots of {bytes} bytes in {}", path.display())));
    }
    Slots::make_room(disk, directory, &new, progress)?;
    let (slots, opening) = Slots::open(disk, directory, new.options)?;
    let superblock = slots.superblock();
    if superblock.cluster_id != new.cluster_id {
        return Err(StartError::OtherIdentity {
            directory: path.display().to_string(),
            flag: "this start",
            asked: format!("cluster {:032x}", new.cluster_id),
            actual: format!("cluster {:032x}", superblock.cluster_id),
        });
    }
    if superblock.geometry != new.geometry {
        let found = superblock.geometry;
        return Err(StartError::OtherIdentity {
            directory: path.display().to_string(),
            flag: "IDENTITY",
            asked: format!("{count} slots of {bytes} bytes"),
            actual: format!("{} slots of {} bytes", found.slot_count(), found.value_bytes()),
        });
    }
    if let Some(copy) = opening.superblock_repaired {
        tracing::warn!(copy, "a superblock copy was bad or old and has been written again");
    }
    let checkpoint = superblock.checkpoint.map_or_else(|| "none".into(), |at| at.to_string());
    let path = path.display();
    Ok((slots, format!("{count} slots of {bytes} bytes in {path}, checkpoint {checkpoint}")))
}

/// Makes log and checkpoint agree before openraft reads them (I1).
pub(super) fn agree(
    wal: &Wal,
    checkpoint: Option<LogId>,
    directory: &Path,
) -> Result<(), StartError> {
    let state = wal.state();
    if state.purged > checkpoint {
        let text = |log_id: Option<LogId>| {
            log_id.map_or_else(|| "their beginning".into(), |log_id| log_id.to_string())
        };
        return Err(StartError::Contradiction {
            directory: directory.display().to_string(),
            purged: text(state.purged),
            checkpoint: text(checkpoint),
        });
    }
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    if wal.log_id_at(checkpoint.index) == Some(checkpoint) {
        return Ok(());
    }
    tracing::warn!(%checkpoint, "the log does not hold the checkpoint: it is dropped up to there");
    wal.drop_all_and_purge_to(checkpoint);
    while let Some(batch) = wal.seal() {
        wal.write(batch)?;
    }
    wal.sync()?; // under `-sync never` too
    Ok(())
}

fn log_report(recovery: &wal::Recovery) -> String {
    let mut report =
        format!("; log: {} entries in {} batches recovered", recovery.entries, recovery.batches);
    if let Some(cut) = &recovery.cut {
        let kept = match &cut.kept_in {
            Some(path) => format!("kept in {}", path.display()),
            None => "not kept, for the disk is full".to_owned(),
        };
        let text = format!(
            ", torn end of {} bytes cut off {} at byte {} ({kept})",
            cut.bytes,
            cut.path.display(),
            cut.offset
        );
        tracing::warn!("{}", text.trim_start_matches(", "));
        report.push_str(&text);
    }
    report
}

/// Memory of this machine in bytes; a large number where the system does not say.
pub(crate) fn machine_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use diskstore_storage::Term;
    use diskstore_storage::disk::SimDisk;
    use diskstore_storage::wal::{Entry, EntryKind, Nonces};

    use super::*;
    use crate::cli::Settings;

    /// The first segment of a new log.
    fn segment(options: &wal::Options) -> Vec<u8> {
        let disk = SimDisk::new(1);
        let (directory, aside) = (Path::new("/node/wal"), Path::new("/node/tmp"));
        let options = wal::Options { segment_bytes: wal::SEGMENT_BYTES_MIN, ..options.clone() };
        let (wal, _) = Wal::open(Arc::new(disk.clone()), directory, aside, &options).unwrap();
        let log_id = LogId { term: Term::new(1), index: 0 };
        wal.append([Entry { log_id, kind: EntryKind::Blank, payload: Bytes::new().into() }])
            .unwrap();
        wal.write(wal.seal().unwrap()).unwrap();
        disk.read_file(&directory.join("0000000000000001.segment")).unwrap()
    }

    /// A client that can guess them can write a value that looks like a batch.
    #[test]
    fn each_log_of_a_node_has_secrets_of_its_own() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all(Path::new("/node/tmp")).unwrap();
        let new = keys::New { cluster_id: 1, value_bytes: 8, options: keys::Options::new(1 << 20) };
        let keys = Arc::new(Keys::create(disk, Path::new("/node"), new).unwrap());
        let machine = Machine::Memory(MemoryMachine::new(keys));
        let config = Config::new(MachineKind::Memory, Settings::default()).unwrap();
        let of_node = || log_options(&config, &machine, &Random::System);
        let guessed = || wal::Options { nonces: Nonces::counted(), ..of_node() };
        assert_eq!(segment(&guessed()), segment(&guessed()), "nothing else differs");
        let segments = [segment(&guessed()), segment(&of_node()), segment(&of_node())];
        for (nth, one) in segments.iter().enumerate() {
            for another in &segments[..nth] {
                let differing = one.iter().zip(another).filter(|(one, another)| one != another);
                assert!(differing.count() > 32, "two nonces, and what they change");
            }
        }
    }
}
