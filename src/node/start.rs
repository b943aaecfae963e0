//! Starting a node: its directory, its files, its place in a cluster.
//!
//! Invariants:
//!
//! - I1: nothing in a directory is changed before its lock is held and its identity was compared
//!   with the flags.
//! - I2: IDENTITY calls the node a member only once the membership that it has applied names it.
//!   Until then every start repeats the founding or the join (H22); afterwards none does, and a
//!   member without its log or its slots has lost data and does not start.

use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::disk::Disk;
use diskstore_storage::founding::{self as promises, FOUNDING_NAME};
use diskstore_storage::identity::{self, Identity, MachineKind, Standing};
use diskstore_storage::slots::Geometry;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::disk_use::{DiskUse, keep_measured};
use super::founding::{Agreed, Founders, agree, charter_in};
use super::open::{Opened, WAL_NAME, open_files};
use super::{Node, StartError};
use crate::cluster::{
    Cluster, JoinSetup, Joined, OrderError, Own, PATIENCE, is_copy, join_until_named,
    keep_registered, learn_cluster, listen_first, listening, remove_from_outside, serve_incoming,
    watch_standing,
};
use crate::command::Failure;
use crate::config::{Address, Config, Listed, SyncPolicy, kind_of, read_join_token, row};
use crate::fault::Faults;
use crate::host::{Host, Listener};
use crate::machine::Machine;
use crate::oplog::{OpLog, Parts, serve_recovery};
use crate::peer::{Caller, Charter, JoinToken, Member, Plan, Planned, Role, Whoever};
use crate::raft::{self, Consensus, Incoming, Timing, Zone};
use crate::replica::Bounds;

/// How long a cluster may take to say which one it is, before a member leaves it.
const LEARN_BOUND: Duration = Duration::from_secs(5);

/// How often a founder looks whether there is a leader, at how many of these looks the first of them
/// asks for votes, and how many there are before it leaves that to the usual timeouts.
const FIRST_LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOKS_PER_ELECTION: u32 = 10;
const FIRST_LOOK_COUNT_MAX: u32 = 100;

/// Where the node listens; bound first, so that a port in use is found before files are made.
struct Listeners {
    raft: Listener,
    join: Option<Listener>,
    recovery: Option<Listener>,
}

/// What the directory said, or what was decided for an empty one.
struct Place {
    identity: Identity,
    cluster_id: u128,
    /// True if the directory was empty and the node is about to found a cluster alone.
    is_first_start: bool,
    /// The cluster that it founds together with others.
    charter: Option<Charter>,
}

/// Hears how many bytes of how many are prepared.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// Starts a node: opens or makes its files, joins or founds its cluster, serves its peers.
///
/// # Errors
/// See [`StartError`]; what was made stays and the next start goes on from there.
pub async fn start(
    host: &Host,
    config: Config,
    progress: Progress,
) -> Result<Arc<Node>, StartError> {
    let disk = host.disk.clone();
    let lock = identity::open_directory(&*disk, &config.data_dir)?;
    let found = identity::read(&*disk, &config.data_dir)?;
    check_identity(&config, found.as_ref(), &*disk)?;
    let listeners = listen(host, &config).await?;
    let process = u64::from_le_bytes(random(host)?);
    let place = find_place(host, &config, found, &listeners, process).await?;
    let faults = Faults::new();
    let opened = open_files(host, &config, &place.identity, place.cluster_id, progress).await;
    if opened.is_err() && place.is_first_start && data_in(&config, &*disk)?.is_none() {
        // Nothing was promised or made yet: the next start may ask for another geometry.
        disk.remove(&config.data_dir.join(identity::IDENTITY_NAME))?;
        disk.sync_dir(&config.data_dir)?; // else it is back after a power loss
    }
    let opened = opened?;
    let is_restart = opened.wal.state().vote.is_some();
    begin_log(&config, &place, &opened)?;
    let recorded = parts_of(&config, disk.clone());
    let own = own_with_room(&config, &place, &opened.machine);
    let setup = raft::Setup {
        caller: Caller::new(
            host,
            Whoever { cluster_id: place.cluster_id, member_id: place.identity.member_id, process },
            config.advertised_raft().to_string(),
            faults.clone(),
        ),
        wal: opened.wal,
        oplog: open_oplog(&config, recorded.as_ref(), &opened.machine)?,
        machine: opened.machine,
        applied: opened.applied,
        faults: faults.clone(),
        is_restart,
        join_targets: own.targets.clone(),
        timing: timing_of(&config),
        leads_for: timing_of(&config).election(),
        bounds: Bounds::default(),
    };
    let (consensus, incoming) = Consensus::start(setup).await?;
    if let SyncPolicy::Batch(interval) = config.sync {
        consensus.syncer().sync_every(interval);
    }
    let cluster = Arc::new(cluster_of(&config, &consensus, place.cluster_id));
    let mut tasks = serve(&cluster, &consensus, listeners, incoming, recorded);
    tokio::select! {
        entered = enter_cluster(host, &config, &place, &consensus) => entered?,
        fault = faults.wait() => return Err(StartError::Fault(fault)),
    }
    if let Some(reason) = is_copy(&consensus, &own).await {
        return Err(StartError::Copy(reason));
    }
    tasks.push(tokio::spawn(keep_registered(cluster.clone(), own, faults.clone())));
    let (started, disk_use) = (Instant::now(), Arc::<DiskUse>::default());
    tasks.extend(cluster.keep(opened.policy, started));
    tasks.push(tokio::spawn(keep_measured(config.data_dir.clone(), disk_use.clone())));
    let directory = config.data_dir.display().to_string();
    tasks.push(tokio::spawn(watch_standing(cluster.clone(), faults.clone(), directory)));
    Ok(Arc::new(Node {
        host: host.clone(),
        config,
        cluster,
        faults,
        tasks: Mutex::new(tasks),
        started,
        started_at: host.clock.wall(),
        opening: opened.report,
        disk_use,
        successes: Arc::default(),
        lock: lock.into(),
    }))
}

fn cluster_of(config: &Config, consensus: &Arc<Consensus>, cluster_id: u128) -> Cluster {
    let cluster = Cluster::new(consensus.clone(), cluster_id);
    if config.join_tokens { cluster.by_invitation_only() } else { cluster }
}

/// Takes the member of a directory out of its cluster after a start that did not come to its end:
/// the cluster may have taken it in meanwhile.
///
/// # Errors
/// See [`OrderError`].
pub async fn remove_unfinished(host: &Host, config: &Config) -> Result<(), OrderError> {
    let found = identity::read(&*host.disk, &config.data_dir);
    let Ok(Some(Identity { member_id, .. })) = found else { return Ok(()) };
    let failed = |reason| OrderError::Failed(Failure::NoLeader { reason });
    let setup = join_setup(host, config, member_id);
    let joined = tokio::time::timeout(LEARN_BOUND, learn_cluster(&setup)).await;
    let joined = joined.map_err(|_| failed("the cluster gives no answer".into()))?;
    let joined = joined.map_err(|error| failed(error.to_string()))?;
    remove_departed(host, config, joined.cluster_id, member_id, &setup.targets).await
}

/// Asks members for the removal of the one with these settings and ids, which does not run.
///
/// # Errors
/// See [`OrderError`].
pub async fn remove_departed(
    host: &Host,
    config: &Config,
    cluster_id: u128,
    member_id: u64,
    addresses: &[String],
) -> Result<(), OrderError> {
    let failed =
        |error: StartError| OrderError::Failed(Failure::NoLeader { reason: error.to_string() });
    let listener = bind(host, "raft", &config.raft_address).await.map_err(failed)?;
    let process = u64::from_le_bytes(random(host).map_err(failed)?);
    let me = Whoever { cluster_id, member_id, process };
    let caller = Caller::new(host, me, config.advertised_raft().to_string(), Faults::new());
    remove_from_outside(caller, listener, addresses).await
}

/// What of a node's data its directory holds, whatever kind of machine made it.
fn data_in(config: &Config, disk: &dyn Disk) -> Result<Option<&'static str>, StartError> {
    let data_files = MachineKind::ALL.map(|machine| row(machine).data_file);
    for name in data_files.into_iter().chain([WAL_NAME]) {
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
    if disk.exists(&config.data_dir.join(identity::RESTORING_NAME))? {
        return Err(StartError::Restoring { directory });
    }
    let Some(identity) = found else {
        return match data_in(config, disk)? {
            Some(name) => Err(StartError::NoIdentity { directory, found: name.into() }),
            None => Ok(()),
        };
    };
    if identity.machine != config.machine {
        return Err(StartError::OtherMachine {
            directory,
            program: config.program(),
            machine: config.kind().content,
            actual: row(identity.machine).content,
        });
    }
    if identity.standing == Standing::Joining {
        return Ok(()); // nobody counts on it yet: joining compares with the cluster
    }
    let other = |flag, asked: String, actual: String| {
        Err(StartError::OtherIdentity { directory: directory.clone(), flag, asked, actual })
    };
    if identity.name != config.id {
        return other("-id", format!("node {}", config.id), format!("node {}", identity.name));
    }
    // More of them is a wish for room.
    if let Some(asked) = config.slot_count.filter(|asked| *asked < identity.slot_count) {
        return other("-slots", format!("{asked} slots"), format!("{} slots", identity.slot_count));
    }
    if let Some(asked) = config.value_bytes.filter(|asked| *asked != identity.value_bytes) {
        let bytes = |bytes| format!("values of {bytes} bytes");
        return other(config.kind().value_flag, bytes(asked), bytes(identity.value_bytes));
    }
    Ok(())
}

async fn listen(host: &Host, config: &Config) -> Result<Listeners, StartError> {
    let raft = bind(host, "raft", &config.raft_address).await?;
    let join = match &config.join_address {
        Some(address) => Some(bind(host, "hjoin", address).await?),
        None => None,
    };
    let recovery = match &config.recovery_address {
        Some(address) => Some(bind(host, "hrecov", address).await?),
        None => None,
    };
    Ok(Listeners { raft, join, recovery })
}

async fn bind(host: &Host, flag: &'static str, address: &Address) -> Result<Listener, StartError> {
    let address = address.to_string();
    let bound = host.net.listen(&address).await;
    bound.map_err(|source| StartError::Listen { flag, address, source })
}

pub(super) fn random<const BYTES: usize>(host: &Host) -> Result<[u8; BYTES], StartError> {
    host.random.bytes().map_err(|error| StartError::Random(error.to_string()))
}

/// A member id that is not 0.
fn draw_member_id(host: &Host) -> Result<u64, StartError> {
    Ok(u64::from_le_bytes(random(host)?).max(1))
}

fn member_of(config: &Config) -> Member {
    Member {
        name: config.id.clone(),
        raft_address: config.advertised_raft().to_string(),
        client_address: if config.has_client_port {
            config.advertised_client().to_string()
        } else {
            String::new()
        },
        role: if config.is_learner { Role::Learner } else { Role::Voter },
        ..Member::default()
    }
}

fn own_of(config: &Config) -> Own {
    let targets = config.join_targets.iter().map(ToString::to_string).collect();
    Own { member: member_of(config), targets }
}

/// The same, with the room that its file has, if that is more than its cluster had at first.
fn own_with_room(config: &Config, place: &Place, machine: &Machine) -> Own {
    let mut own = own_of(config);
    let room = machine.paged().map_or(0, |paged| paged.room());
    own.member.room = if room > place.identity.slot_count { room } else { 0 };
    own
}

fn join_setup(host: &Host, config: &Config, member_id: u64) -> JoinSetup {
    let Own { member, targets } = own_of(config);
    // Listed members may be started in any order, and at any time.
    let patience = config.listed.is_empty().then_some(PATIENCE);
    let token = JoinToken::default(); // read where it is presented: whoever only asks needs none
    JoinSetup { host: host.clone(), member_id, member, targets, patience, token }
}

fn plan_of(config: &Config) -> Plan {
    let planned = |listed: &Listed| Planned {
        name: listed.name.clone(),
        raft_address: listed.raft.to_string(),
    };
    Plan {
        slot_count: new_slot_count(config),
        value_bytes: config.new_value_bytes(),
        members: config.listed.iter().map(planned).collect(),
    }
}

/// Leases hold for whatever may be typed.
const _: () = assert!(crate::config::ELECTION_MS_MIN >= raft::ELECTION_MS_MIN);

fn timing_of(config: &Config) -> Timing {
    Timing::new(config.heartbeat_ms, config.election_ms)
}

/// Slots of a new cluster; 0 where there are none.
fn new_slot_count(config: &Config) -> u64 {
    let default = config.kind().slot_count_default;
    default.map_or(0, |default| config.slot_count.unwrap_or(default))
}

/// Writes the first members to a log that names nobody yet, if they are known already.
fn begin_log(config: &Config, place: &Place, opened: &Opened) -> Result<(), StartError> {
    raft::begin_log(&opened.wal, place.charter.iter().flat_map(founders_of).collect())?;
    if place.identity.standing == Standing::Founding
        && let Some(restored) = opened.machine.durable()
    {
        let member_id = place.identity.member_id;
        raft::begin_restored_log(&opened.wal, &restored, member_id, member_of(config))?;
    }
    Ok(())
}

fn founders_of(charter: &Charter) -> impl Iterator<Item = (u64, Member)> {
    charter.members.iter().map(|founder| (founder.id, founder.member.clone()))
}

/// Decides which cluster the node belongs to, and writes down its member id before it is used.
async fn find_place(
    host: &Host,
    config: &Config,
    found: Option<Identity>,
    listeners: &Listeners,
    process: u64,
) -> Result<Place, StartError> {
    let directory = config.data_dir.display().to_string();
    match found {
        Some(identity) if identity.standing != Standing::Joining => {
            let cluster_id = identity.cluster_id;
            let charter = match identity.standing {
                Standing::Founding => charter_in(&*host.disk, &config.data_dir, cluster_id)?,
                Standing::Joining | Standing::Member => None,
            };
            Ok(Place { cluster_id, identity, is_first_start: false, charter })
        }
        Some(_) if config.join_targets.is_empty() => Err(StartError::NotJoined { directory }),
        Some(identity) => join(host, config, identity.member_id).await,
        None if !config.listed.is_empty() => {
            found_together(host, config, &listeners.raft, process).await
        }
        None if !config.join_targets.is_empty() => join(host, config, draw_member_id(host)?).await,
        None if host.disk.exists(&config.data_dir.join(FOUNDING_NAME))? => {
            Err(StartError::Pledged { directory })
        }
        None => {
            let time = listening(timing_of(config));
            tracing::info!(
                "there is nothing in {directory} and no -join: this node listens for {:.0?} whether a \
                 cluster knows its address, and founds one if none does",
                time
            );
            if let Some(contact) = listen_first(&host.net, &listeners.raft, time, process).await {
                return Err(StartError::Wiped { cluster: contact.cluster_id });
            }
            let cluster_id = u128::from_le_bytes(random(host)?).max(1);
            let identity = write_founding(host, config, cluster_id, draw_member_id(host)?)?;
            Ok(Place { cluster_id, identity, is_first_start: true, charter: None })
        }
    }
}

/// Writes down that this node founds a cluster.
fn write_founding(
    host: &Host,
    config: &Config,
    cluster_id: u128,
    member_id: u64,
) -> Result<Identity, StartError> {
    let identity = Identity {
        standing: Standing::Founding,
        cluster_id,
        member_id,
        name: config.id.clone(),
        slot_count: new_slot_count(config),
        value_bytes: config.new_value_bytes(),
        machine: config.machine,
    };
    if identity.slot_count > 0 {
        Geometry::new(identity.slot_count, identity.value_bytes)?;
    }
    identity::write(&*host.disk, &config.data_dir, &identity)?;
    Ok(identity)
}

/// Founds a cluster with the others that the file lists, or joins the one that they have.
async fn found_together(
    host: &Host,
    config: &Config,
    listener: &Listener,
    process: u64,
) -> Result<Place, StartError> {
    let founders = Founders {
        host,
        directory: config.data_dir.clone(),
        plan: plan_of(config),
        listening: listening(timing_of(config)),
        own: member_of(config),
        member_id: draw_member_id(host)?,
        listener,
        process,
    };
    match agree(founders).await? {
        Agreed::Join => join(host, config, draw_member_id(host)?).await,
        Agreed::Found(charter, member_id) => {
            let cluster_id = charter.cluster_id;
            let identity = write_founding(host, config, cluster_id, member_id)?;
            let names = charter.members.iter().map(|founder| founder.member.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            tracing::info!("founding cluster {cluster_id:032x} of {names}");
            Ok(Place { cluster_id, identity, is_first_start: false, charter: Some(charter) })
        }
    }
}

/// Learns the cluster to join and its geometry, which changes nothing there: only then is the
/// member id written down. IDENTITY does not name the cluster yet (I2).
async fn join(host: &Host, config: &Config, member_id: u64) -> Result<Place, StartError> {
    let Joined { cluster_id, slot_count, value_bytes } =
        learn_cluster(&join_setup(host, config, member_id)).await?;
    let machine = kind_of(slot_count);
    if machine != config.machine && config.kind().holds_values {
        return Err(StartError::OtherCluster {
            program: config.program(),
            machine: config.kind().content,
            actual: row(machine).content,
        });
    }
    // More of them is a wish for room, as that of a member.
    if let Some(asked) = config.slot_count.filter(|asked| *asked < slot_count) {
        return Err(StartError::OtherGeometry { flag: "-slots", asked, actual: slot_count });
    }
    if let Some(asked) = config.value_bytes.filter(|asked| *asked != value_bytes) {
        let (asked, actual) = (u64::from(asked), u64::from(value_bytes));
        return Err(StartError::OtherGeometry { flag: config.kind().value_flag, asked, actual });
    }
    let identity = Identity {
        standing: Standing::Joining,
        cluster_id: 0,
        member_id,
        name: config.id.clone(),
        slot_count,
        value_bytes,
        machine: config.machine,
    };
    identity::write(&*host.disk, &config.data_dir, &identity)?;
    Ok(Place { identity, cluster_id, is_first_start: false, charter: None })
}

/// Where the application log is, if there is one.
fn parts_of(config: &Config, disk: Arc<dyn Disk>) -> Option<Parts> {
    Some(Parts::of_node(disk, config.log_folder.as_ref()?, &config.id))
}

/// Opens the application log. One that begins behind a checkpoint lacks what led there.
fn open_oplog(
    config: &Config,
    parts: Option<&Parts>,
    machine: &Machine,
) -> Result<Option<OpLog>, StartError> {
    let Some(parts) = parts else { return Ok(None) };
    let Some(form) = row(machine.kind()).key_form else { return Ok(None) };
    let durable_index = machine.durable().map_or(0, |at| at.log_id.index);
    Ok(Some(OpLog::open(parts.clone(), form, config.roll_bytes, durable_index)?))
}

fn serve(
    cluster: &Arc<Cluster>,
    consensus: &Consensus,
    listeners: Listeners,
    incoming: mpsc::Receiver<Incoming>,
    recorded: Option<Parts>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = vec![
        consensus.serve(listeners.raft, Zone::Peers),
        tokio::spawn(serve_incoming(cluster.clone(), incoming)),
        tokio::spawn(cluster.messages().clone().hand_out()),
    ];
    tasks.extend(listeners.join.map(|listener| consensus.serve(listener, Zone::Joins)));
    let handed_out = listeners.recovery.zip(recorded);
    tasks.extend(handed_out.map(|(listener, parts)| {
        let threads = consensus.caller().host().threads.clone();
        tokio::spawn(serve_recovery(listener, parts, threads))
    }));
    tasks
}

/// Founds or joins the cluster, unless this member is one already.
async fn enter_cluster(
    host: &Host,
    config: &Config,
    place: &Place,
    consensus: &Arc<Consensus>,
) -> Result<(), StartError> {
    match place.identity.standing {
        Standing::Member => return Ok(()),
        Standing::Founding if place.charter.is_some() => {
            elect_first(place, consensus).await;
        }
        Standing::Founding if consensus.view().members.is_empty() => {
            consensus.found(member_of(config)).await.map_err(StartError::Found)?;
        }
        Standing::Founding => {}
        Standing::Joining => {
            let token = JoinToken::new(read_join_token(config.join_token_file.as_deref())?);
            let setup = JoinSetup { token, ..join_setup(host, config, place.identity.member_id) };
            if !join_until_named(&setup, place.cluster_id, consensus).await? {
                return Err(StartError::Unreachable { address: setup.member.raft_address });
            }
        }
    }
    let mut identity = place.identity.clone();
    (identity.standing, identity.cluster_id) = (Standing::Member, place.cluster_id);
    identity::write(&*host.disk, &config.data_dir, &identity)?;
    promises::remove(&*host.disk, &config.data_dir)?;
    Ok(())
}

/// Waits until a cluster that several members found has elected its first leader. The first of them
/// asks for votes at once, as long as the others can be expected to come up.
async fn elect_first(place: &Place, consensus: &Arc<Consensus>) {
    let first = place.charter.iter().flat_map(|charter| &charter.members).next();
    let is_first = first.is_some_and(|founder| founder.id == consensus.member_id());
    consensus.allow_elections().await;
    for look in 0_u32.. {
        if consensus.is_named() {
            return;
        }
        if is_first && look < FIRST_LOOK_COUNT_MAX && look.is_multiple_of(LOOKS_PER_ELECTION) {
            consensus.campaign().await;
        }
        tokio::time::sleep(FIRST_LOOK_PAUSE).await;
    }
}
