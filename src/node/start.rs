//! Starting a node: its directory, its files, its place in a cluster.
//!
//! Invariants:
//!
//! - I1: nothing in a directory is touched before its lock is held and its identity was compared
//!   with what is asked for.
//! - I2: IDENTITY says that the node is a member only once its own log or checkpoint names it; until
//!   then a start repeats the founding or the join (PITFALLS 22), afterwards never: a member without
//!   its log or its slots has lost data and does not start.
//! - I3: openraft reads the stores only after the log and the checkpoint were made to agree (C12,
//!   C13).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::LogId;
use diskstore_storage::disk::{Disk, RealDisk};
use diskstore_storage::identity::{self, Identity, MachineKind, Standing};
use diskstore_storage::slots::{self, Geometry, New, Slots};
use diskstore_storage::wal::{self, Wal};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Node, StartError, upkeep};
use crate::cluster::{
    Forwarder, JoinSetup, Joined, join_until_named, keep_membership, learn_cluster, listen_first,
    serve_incoming,
};
use crate::config::{Address, Config, SLOT_COUNT_DEFAULT, SyncPolicy, VALUE_BYTES_DEFAULT};
use crate::fault::Faults;
use crate::machine::{DiskMachine, Machine};
use crate::oplog::{OpLog, Parts, serve_recovery};
use crate::raft::{self, Consensus, ELECTION_MS_MAX, HEARTBEAT_MS, Incoming, Member, Role, Zone};

/// Directory of the log's segments in a node's directory.
const WAL_NAME: &str = "wal";

/// Where the node listens; bound first, so that a port in use is found before files are made.
struct Listeners {
    raft: TcpListener,
    join: Option<TcpListener>,
    recovery: Option<TcpListener>,
}

/// What the directory said, or what was decided for an empty one.
struct Place {
    identity: Identity,
    cluster_id: u128,
    /// True if the directory was empty and the node is about to found a cluster.
    is_first_start: bool,
}

/// Hears how many bytes of how many are prepared.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// Starts a node: opens or makes its files, joins or founds its cluster, serves its peers.
///
/// # Errors
/// See [`StartError`]; what was made stays and the next start goes on from there.
pub async fn start(config: Config, progress: Progress) -> Result<Arc<Node>, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let lock = identity::open_directory(&*disk, &config.data_dir)?;
    let found = identity::read(&*disk, &config.data_dir)?;
    check_identity(&config, found.as_ref(), &*disk)?;
    let listeners = listen(&config).await?;
    let place = find_place(&config, found, &*disk, &listeners).await?;
    let faults = Faults::new();
    let opened = open_files(&config, &place, disk.clone(), progress).await;
    if opened.is_err() && place.is_first_start && data_in(&config, &*disk)?.is_none() {
        // Nothing was promised or made yet: the next start may ask for another geometry.
        disk.remove(&config.data_dir.join(identity::IDENTITY_NAME))?;
        disk.sync_dir(&config.data_dir)?; // else it is back after a power loss
    }
    let opened = opened?;
    let is_restart = opened.wal.state().vote.is_some();
    let recorded = config.log_folder.as_ref().map(|folder| Parts::of_node(folder, &config.id));
    let setup = raft::Setup {
        cluster_id: place.cluster_id,
        member_id: place.identity.member_id,
        wal: opened.wal,
        oplog: open_oplog(&config, &opened.machine)?,
        machine: opened.machine,
        faults: faults.clone(),
        is_restart,
    };
    let (consensus, incoming) = Consensus::start(setup).await?;
    if let SyncPolicy::Batch(interval) = config.sync {
        consensus.syncer().sync_every(interval);
    }
    let forwarder = Arc::new(Forwarder::new(consensus.clone(), place.cluster_id));
    let mut tasks = serve(&forwarder, listeners, incoming, recorded);
    tokio::select! {
        entered = enter_cluster(&config, &place, &consensus, &*disk) => entered?,
        fault = faults.wait() => return Err(StartError::Fault(fault)),
    }
    tasks.push(tokio::spawn(upkeep::keep_log_short(consensus.clone(), opened.policy)));
    tasks.push(tokio::spawn(upkeep::learn_slots(consensus.shared().clone())));
    tasks.push(tokio::spawn(keep_membership(consensus.clone())));
    tasks.push(tokio::spawn(async move { consensus.allow_elections().await }));
    Ok(Arc::new(Node {
        config,
        forwarder,
        faults,
        tasks: Mutex::new(tasks),
        started: Instant::now(),
        opening: opened.report,
        successes: Arc::default(),
        _lock: lock,
    }))
}

/// What of a node's data its directory holds.
fn data_in(config: &Config, disk: &dyn Disk) -> Result<Option<&'static str>, StartError> {
    for name in [slots::SLOTS_FILE, WAL_NAME] {
        if disk.exists(&config.data_dir.join(name))? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Refuses a directory that is not what the flags say (I1).
fn check_identity(
    config: &Config,
    found: Option<&Identity>,
    disk: &dyn Disk,
) -> Result<(), StartError> {
    let directory = config.data_dir.display().to_string();
    let Some(identity) = found else {
        return match data_in(config, disk)? {
            Some(name) => Err(StartError::NoIdentity { directory, found: name.into() }),
            None => Ok(()),
        };
    };
    if identity.standing == Standing::Joining {
        return Ok(()); // nobody counts on it yet: joining compares with the cluster
    }
    let other = |flag, asked: String, actual: String| {
        Err(StartError::OtherIdentity { directory: directory.clone(), flag, asked, actual })
    };
    if identity.name != config.id {
        return other("-id", format!("node {}", config.id), format!("node {}", identity.name));
    }
    if let Some(asked) = config.slot_count.filter(|asked| *asked != identity.slot_count) {
        return other("-slots", format!("{asked} slots"), format!("{} slots", identity.slot_count));
    }
    if let Some(asked) = config.value_bytes.filter(|asked| *asked != identity.value_bytes) {
        let bytes = |bytes| format!("values of {bytes} bytes");
        return other("-value-size", bytes(asked), bytes(identity.value_bytes));
    }
    Ok(())
}

async fn listen(config: &Config) -> Result<Listeners, StartError> {
    let raft = bind("raft", &config.raft_address).await?;
    let join = bind_if_asked("hjoin", config.join_address.as_ref()).await?;
    let recovery = bind_if_asked("hrecov", config.recovery_address.as_ref()).await?;
    Ok(Listeners { raft, join, recovery })
}

async fn bind_if_asked(
    flag: &'static str,
    address: Option<&Address>,
) -> Result<Option<TcpListener>, StartError> {
    match address {
        Some(address) => bind(flag, address).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(flag: &'static str, address: &Address) -> Result<TcpListener, StartError> {
    let address = address.to_string();
    let bound = TcpListener::bind(&address).await;
    bound.map_err(|source| StartError::Listen { flag, address, source })
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], StartError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Random(error.to_string()))?;
    Ok(bytes)
}

/// A member id that is not 0.
fn draw_member_id() -> Result<u64, StartError> {
    Ok(u64::from_le_bytes(random()?).max(1))
}

fn member_of(config: &Config) -> Member {
    Member {
        name: config.id.clone(),
        raft_address: config.advertised_raft().to_string(),
        client_address: config.advertised_client().to_string(),
        role: Role::Voter,
    }
}

fn join_setup(config: &Config, member_id: u64) -> JoinSetup {
    let targets = config.join_targets.iter().map(ToString::to_string).collect();
    JoinSetup { member_id, member: member_of(config), targets }
}

/// Decides which cluster the node belongs to, and writes down its member id before it is used.
async fn find_place(
    config: &Config,
    found: Option<Identity>,
    disk: &dyn Disk,
    listeners: &Listeners,
) -> Result<Place, StartError> {
    let directory = config.data_dir.display().to_string();
    match found {
        Some(identity) if identity.standing != Standing::Joining => {
            Ok(Place { cluster_id: identity.cluster_id, identity, is_first_start: false })
        }
        Some(_) if config.join_targets.is_empty() => Err(StartError::NotJoined { directory }),
        Some(identity) => join(config, identity.member_id, disk).await,
        None if !config.join_targets.is_empty() => join(config, draw_member_id()?, disk).await,
        None => {
            // The others campaign, and dial, within the longest election timeout.
            let time = Duration::from_millis(ELECTION_MS_MAX + HEARTBEAT_MS);
            if let Some(contact) = listen_first(&listeners.raft, time).await {
                return Err(StartError::Wiped { cluster: contact.cluster_id });
            }
            let identity = Identity {
                standing: Standing::Founding,
                cluster_id: u128::from_le_bytes(random()?).max(1),
                member_id: draw_member_id()?,
                name: config.id.clone(),
                slot_count: config.slot_count.unwrap_or(SLOT_COUNT_DEFAULT),
                value_bytes: config.value_bytes.unwrap_or(VALUE_BYTES_DEFAULT),
                machine: MachineKind::Slots,
            };
            Geometry::new(identity.slot_count, identity.value_bytes)?;
            identity::write(disk, &config.data_dir, &identity)?;
            Ok(Place { cluster_id: identity.cluster_id, identity, is_first_start: true })
        }
    }
}

/// Learns the cluster to join and its geometry, which changes nothing there: only then is the
/// member id written down. IDENTITY does not name the cluster yet (I2).
async fn join(config: &Config, member_id: u64, disk: &dyn Disk) -> Result<Place, StartError> {
    let Joined { cluster_id, slot_count, value_bytes } =
        learn_cluster(&join_setup(config, member_id)).await?;
    if let Some(asked) = config.slot_count.filter(|asked| *asked != slot_count) {
        return Err(StartError::OtherGeometry { flag: "-slots", asked, actual: slot_count });
    }
    if let Some(asked) = config.value_bytes.filter(|asked| *asked != value_bytes) {
        let (asked, actual) = (u64::from(asked), u64::from(value_bytes));
        return Err(StartError::OtherGeometry { flag: "-value-size", asked, actual });
    }
    let identity = Identity {
        standing: Standing::Joining,
        cluster_id: 0,
        member_id,
        name: config.id.clone(),
        slot_count,
        value_bytes,
        machine: MachineKind::Slots,
    };
    identity::write(disk, &config.data_dir, &identity)?;
    Ok(Place { identity, cluster_id, is_first_start: false })
}

/// Opens the application log. One that begins behind a checkpoint lacks what led there.
fn open_oplog(config: &Config, machine: &Machine) -> Result<Option<OpLog>, StartError> {
    let Some(folder) = &config.log_folder else { return Ok(None) };
    let mut oplog = OpLog::open(folder, &config.id, config.roll_bytes)?;
    if oplog.last_index() == 0 {
        oplog.mark_gap(machine.durable().map_or(0, |at| at.log_id.index))?;
    }
    Ok(Some(oplog))
}

struct Opened {
    machine: Machine,
    wal: Arc<Wal>,
    policy: upkeep::Policy,
    report: String,
}

/// Opens or makes the data file and the log, on a thread that may block.
async fn open_files(
    config: &Config,
    place: &Place,
    disk: Arc<dyn Disk>,
    mut progress: Progress,
) -> Result<Opened, StartError> {
    let geometry = Geometry::new(place.identity.slot_count, place.identity.value_bytes)?;
    let file_bytes = geometry.file_bytes();
    let memory_bytes = config.memory_bytes_for(file_bytes, machine_memory_bytes());
    let policy = upkeep::Policy {
        checkpoint_bytes: config.checkpoint_bytes_for(file_bytes),
        keep_bytes: config.keep_bytes,
        dirty_bytes_max: if memory_bytes < file_bytes { memory_bytes / 2 } else { u64::MAX },
    };
    let (directory, cluster_id) = (config.data_dir.clone(), place.cluster_id);
    let sync = match config.sync {
        SyncPolicy::Always => wal::SyncMode::Always,
        SyncPolicy::Batch(_) | SyncPolicy::Never => wal::SyncMode::OnRequest,
    };
    let mut log_options = wal::Options { sync, ..wal::Options::default() };
    // What one checkpoint frees serves until the next: a new segment is written twice, with zeros
    // first, and removing many at once makes the disk busy with what it forgets.
    let segments = policy.checkpoint_bytes / log_options.segment_bytes + 1;
    log_options.recycle_count_max = usize::try_from(segments).unwrap_or(usize::MAX);
    let is_member = place.identity.standing == Standing::Member;
    tokio::task::spawn_blocking(move || {
        let options = slots::Options::new(memory_bytes);
        let new = New { geometry, cluster_id, options };
        let lost = |what| StartError::DataLost { directory: directory.display().to_string(), what };
        if is_member && !disk.exists(&directory.join(slots::SLOTS_FILE))? {
            return Err(lost("slots.dat is"));
        }
        let (slots, mut report) = open_slots(&*disk, &directory, new, &mut *progress)?;
        let (wal, recovery) = Wal::open(
            disk,
            &directory.join(WAL_NAME),
            &directory.join(identity::TMP_NAME),
            &log_options,
        )?;
        // Whoever is a member, or has a checkpoint, has accepted a leader's vote.
        let machine = Machine::Slots(DiskMachine::new(Arc::new(slots)));
        let checkpoint = machine.durable().map(|durable| durable.log_id);
        let has_history = is_member || checkpoint.is_some();
        if has_history && wal.state().vote.is_none() {
            return Err(lost("log is"));
        }
        agree(&wal, checkpoint, &directory)?;
        report.push_str(&log_report(&recovery));
        Ok(Opened { machine, wal: Arc::new(wal), policy, report })
    })
    .await?
}

fn open_slots(
    disk: &dyn Disk,
    directory: &Path,
    new: New,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Slots, String), StartError> {
    let path = directory.join(slots::SLOTS_FILE);
    let (count, bytes) = (new.geometry.slot_count(), new.geometry.value_bytes());
    if !disk.exists(&path)? {
        let slots = Slots::create(disk, directory, new, progress)?;
        return Ok((slots, format!("made {count} slots of {bytes} bytes in {}", path.display())));
    }
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

/// Makes log and checkpoint agree before openraft reads them (I3).
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
        let text = format!(
            ", torn end of {} bytes cut off {} at byte {}",
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
fn machine_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

fn serve(
    forwarder: &Arc<Forwarder>,
    listeners: Listeners,
    incoming: mpsc::Receiver<Incoming>,
    recorded: Option<Parts>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let consensus = forwarder.consensus();
    let mut tasks = vec![
        consensus.serve(listeners.raft, Zone::Peers),
        tokio::spawn(serve_incoming(forwarder.clone(), incoming)),
    ];
    tasks.extend(listeners.join.map(|listener| consensus.serve(listener, Zone::Joins)));
    let handed_out = listeners.recovery.zip(recorded);
    tasks.extend(handed_out.map(|(listener, parts)| tokio::spawn(serve_recovery(listener, parts))));
    tasks
}

/// Founds or joins the cluster, unless the log or the checkpoint names this member already.
async fn enter_cluster(
    config: &Config,
    place: &Place,
    consensus: &Arc<Consensus>,
    disk: &dyn Disk,
) -> Result<(), StartError> {
    match place.identity.standing {
        Standing::Member => return Ok(()),
        Standing::Founding if consensus.view().members.is_empty() => {
            consensus.found(member_of(config)).await.map_err(StartError::Found)?;
        }
        Standing::Founding => {}
        Standing::Joining => {
            let setup = join_setup(config, place.identity.member_id);
            if !join_until_named(&setup, place.cluster_id, consensus).await? {
                return Err(StartError::Unreachable { address: setup.member.raft_address });
            }
        }
    }
    let mut identity = place.identity.clone();
    (identity.standing, identity.cluster_id) = (Standing::Member, place.cluster_id);
    identity::write(disk, &config.data_dir, &identity)?;
    Ok(())
}
