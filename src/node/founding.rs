//! Founding a cluster out of a file that lists its members: never two out of one file.
//!
//! No node founds alone. Nodes without a cluster whose files list the same members agree on one
//! charter, which is a random cluster id and the members that vote first, by the single decision of
//! Paxos: whoever proposes has a majority of the listed promise to take nothing older, takes over
//! what any of them has accepted, and has founded once a majority has accepted it. Every member of
//! the charter then writes the same first entry into its log, and Raft goes on. Called by `start`;
//! calls `peer`. Invariants:
//!
//! - I1: what this node promised or accepted is durable before it answers.
//! - I2: it proposes nothing while a listed member has, or may have, a cluster: one that answers as a
//!   member is joined, one that takes a connection and says nothing may be reading its files, and
//!   one whose file lists others is an operator's matter.
//! - I3: questions are taken of the listed alone: who asks is asked back where the file has it.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::disk::Disk;
use diskstore_storage::founding::{self, Accepted, Founding};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::StartError;
use super::start::random;
use crate::fault::Faults;
use crate::host::{Host, Listener, Net, Stream};
use crate::peer::{
    Allowance, Caller, Charter, Founder, FoundingAnswer, FoundingQuestion, FoundingStep, FrameKind,
    Greeting, Hello, JoinReply, JoinRequest, Member, Method, Plan, Planned, Purpose, Role, Route,
    Welcome, Whoever, bad_frame, claimed_address, is_own_hello, serve, split,
};

/// How long a listed member may take to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(3);
/// How long one caller may take in all.
const CALLER_BOUND: Duration = Duration::from_secs(5);
/// Pause between two looks at the others.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Pause after an accept that failed (out of file descriptors), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Most callers that are heard at a time.
const CALLER_COUNT_MAX: usize = 64;
/// Whoever is not the first of those that are there proposes after so many looks all the same: the
/// first may reach fewer.
const LOOK_COUNT_MAX: u32 = 25;
/// A member that dialled here is looked for this long among the listed.
const CONTACT_BOUND: Duration = Duration::from_secs(20);
/// What one of the listed is given: it asks one thing at a time.
const ONE_QUESTION: Allowance =
    Allowance { request_count_max: 1, idle_max: None, write_max: CALLER_BOUND };
/// The lowest bits of a number tell who proposes; a file lists fewer members.
const RANK_BITS: u32 = 8;
/// Most that a number may be ahead: nobody uses them up.
const NUMBER_STEP_MAX: u64 = 1 << 40;

/// Who is about to found a cluster, and with whom.
pub(super) struct Founders<'a> {
    pub(super) host: &'a Host,
    pub(super) directory: PathBuf,
    pub(super) plan: Plan,
    /// With a majority only, the others are waited for this long.
    pub(super) listening: Duration,
    /// This node, as a member.
    pub(super) own: Member,
    /// Drawn for this start; an older one in the directory counts.
    pub(super) member_id: u64,
    pub(super) listener: &'a Listener,
    pub(super) process: u64,
}

/// What the nodes of a file came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    /// This charter, as this member of it.
    Found(Charter, u64),
    /// There is a cluster already.
    Join,
}

/// The promises of this node, and what it has noticed.
struct Acceptor {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    own: Member,
    plan: Plan,
    listening: Duration,
    state: Mutex<State>,
}

struct State {
    founding: Founding,
    accepted: Option<(u64, Charter)>,
    /// A member of this cluster dialled here.
    contact: Option<(u128, Instant)>,
    /// Since when everybody who dialled was heard.
    heard_since: Instant,
    failure: Option<diskstore_storage::Error>,
}

/// What a listed member is.
enum Seen {
    /// A member of this cluster.
    Member(u128),
    /// One that may found with this node.
    Blank { founder: Founder, promised: u64 },
    /// One that may not, or not now; why.
    Unclear(String),
    /// Nobody.
    Absent(String),
}

/// What a look at all of them brought out.
#[derive(Default)]
struct Look {
    clusters: Vec<u128>,
    blank: Vec<(Founder, u64)>,
    unclear: Vec<String>,
    absent: Vec<String>,
}

/// The charter in a directory whose identity says that it is founded.
pub(super) fn charter_in(
    disk: &dyn Disk,
    directory: &Path,
    cluster_id: u128,
) -> Result<Option<Charter>, StartError> {
    let Some(Founding { accepted: Some(accepted), .. }) = founding::read(disk, directory)? else {
        return Ok(None);
    };
    let charter = decoded(accepted.charter).filter(|charter| charter.cluster_id == cluster_id);
    Ok(charter)
}

fn decoded(charter: Vec<u8>) -> Option<Charter> {
    Charter::decode(charter.into()).ok()
}

/// Waits until there is a cluster of the listed, or this node and a majority of them have agreed to
/// found one.
///
/// # Errors
/// Promises cannot be written, or belong to another file; a cluster that is not of the listed knows
/// this node.
pub(super) async fn agree(founders: Founders<'_>) -> Result<Agreed, StartError> {
    let acceptor = Acceptor::open(&founders)?;
    let member_id = acceptor.state.lock().founding.member_id;
    let me = Whoever { cluster_id: 0, member_id, process: founders.process };
    let address = founders.own.raft_address.clone();
    let caller = Caller::new(founders.host, me, address, Faults::new());
    let host = founders.host;
    let hearing =
        Hearing { net: host.net.clone(), acceptor: acceptor.clone(), caller: caller.clone() };
    tokio::select! {
        agreed = lead(host, &acceptor, &caller) => agreed,
        never = hearing.hear_all(founders.listener) => match never {},
    }
}

impl Acceptor {
    fn open(founders: &Founders<'_>) -> Result<Arc<Acceptor>, StartError> {
        let disk = founders.host.disk.clone();
        let mut plan = Vec::new();
        founders.plan.put(&mut plan);
        let fresh =
            || Founding { member_id: founders.member_id, plan: plan.clone(), ..Default::default() };
        let founding = match founding::read(&*disk, &founders.directory)? {
            Some(found) if found.plan == plan => found,
            // It may have been founded: only whoever made the file can know.
            Some(Founding { accepted: Some(_), .. }) => {
                let directory = founders.directory.display().to_string();
                return Err(StartError::OtherPlan { directory });
            }
            Some(_) | None => fresh(),
        };
        let accepted = founding
            .accepted
            .clone()
            .and_then(|accepted| Some((accepted.number, decoded(accepted.charter)?)));
        Ok(Arc::new(Acceptor {
            disk,
            directory: founders.directory.clone(),
            own: founders.own.clone(),
            plan: founders.plan.clone(),
            listening: founders.listening,
            state: Mutex::new(State {
                founding,
                accepted,
                contact: None,
                heard_since: Instant::now(),
                failure: None,
            }),
        }))
    }

    /// Does what is asked, as far as it was not promised otherwise (I1).
    fn answer(&self, question: FoundingQuestion) -> FoundingAnswer {
        if let Some(reason) = difference(&question.plan, &self.plan) {
            return FoundingAnswer::Other(format!("{} has another file: {reason}", self.own.name));
        }
        let mut state = self.state.lock();
        let promised = state.founding.promised;
        let is_possible = |number: u64| {
            number >= promised && number - promised <= NUMBER_STEP_MAX && state.contact.is_none()
        };
        let wanted = match question.step {
            FoundingStep::Prepare(number) if number > promised && is_possible(number) => {
                Some((Founding { promised: number, ..state.founding.clone() }, None))
            }
            FoundingStep::Accept { number, charter } if is_possible(number) => {
                let mut bytes = Vec::new();
                charter.put(&mut bytes);
                let accepted = Some(Accepted { number, charter: bytes });
                let next = Founding { promised: number, accepted, ..state.founding.clone() };
                Some((next, Some((number, charter))))
            }
            _ => None,
        };
        let is_granted = match wanted {
            Some((next, accepted)) => match founding::write(&*self.disk, &self.directory, &next) {
                Ok(()) => {
                    state.founding = next;
                    state.accepted = accepted.or(state.accepted.take());
                    true
                }
                Err(error) => {
                    state.failure = Some(error);
                    false
                }
            },
            None => false,
        };
        FoundingAnswer::Blank {
            is_granted,
            founder: Founder { id: state.founding.member_id, member: self.own.clone() },
            promised: state.founding.promised,
            accepted: state.accepted.clone(),
        }
    }

    fn ask_own(&self, step: FoundingStep) -> FoundingAnswer {
        self.answer(FoundingQuestion { plan: self.plan.clone(), step })
    }

    /// The others that the file lists.
    fn others(&self) -> impl Iterator<Item = &Planned> {
        self.plan.members.iter().filter(|planned| planned.name != self.own.name)
    }

    fn majority(&self) -> usize {
        self.plan.members.len() / 2 + 1
    }

    /// The charter that this node has accepted, if this cluster is it and it is a member.
    fn charter_of(&self, cluster_id: u128) -> Option<Agreed> {
        let state = self.state.lock();
        let (_, charter) = state.accepted.as_ref()?;
        let id = state.founding.member_id;
        let is_it = charter.cluster_id == cluster_id && has(charter, id);
        is_it.then(|| Agreed::Found(charter.clone(), id))
    }
}

fn has(charter: &Charter, id: u64) -> bool {
    charter.members.iter().any(|founder| founder.id == id)
}

/// In what two plans differ.
fn difference(theirs: &Plan, own: &Plan) -> Option<String> {
    if theirs == own {
        return None;
    }
    if theirs.slot_count != own.slot_count {
        return Some(format!("-slots {} there, {} here", own.slot_count, theirs.slot_count));
    }
    if theirs.value_bytes != own.value_bytes {
        let (there, here) = (own.value_bytes, theirs.value_bytes);
        return Some(format!("values of {there} bytes there, of {here} here"));
    }
    let lacks = |one: &Plan, other: &Plan| {
        let mut members = one.members.iter();
        members.find(|planned| !other.members.contains(planned)).cloned()
    };
    let named = |planned: Planned| format!("{} at {}", planned.name, planned.raft_address);
    let there = lacks(own, theirs).map(|planned| format!("it lists {}", named(planned)));
    let here = lacks(theirs, own).map(|planned| format!("it does not list {}", named(planned)));
    there.or(here).or_else(|| Some("the order differs".into()))
}

/// Looks at the others until there is something to join or to found.
async fn lead(
    host: &Host,
    acceptor: &Acceptor,
    caller: &Arc<Caller>,
) -> Result<Agreed, StartError> {
    let (mut told, mut passed_count) = (String::new(), 0);
    loop {
        let look = look(host, acceptor, caller).await;
        if let Some(failure) = acceptor.state.lock().failure.take() {
            return Err(failure.into());
        }
        let (contact, heard_since) = {
            let state = acceptor.state.lock();
            (state.contact, state.heard_since)
        };
        let mut clusters = look.clusters.clone();
        clusters.extend(contact.map(|(cluster_id, _)| cluster_id));
        clusters.sort_unstable();
        clusters.dedup();
        let waits_for = match (clusters.as_slice(), look.clusters.is_empty()) {
            ([cluster_id], is_only_heard) => {
                if let Some(agreed) = acceptor.charter_of(*cluster_id) {
                    return Ok(agreed);
                }
                if !is_only_heard {
                    return Ok(Agreed::Join);
                }
                if contact.is_some_and(|(_, since)| since.elapsed() > CONTACT_BOUND) {
                    return Err(StartError::Wiped { cluster: *cluster_id });
                }
                format!(
                    "a member of cluster {cluster_id:032x} dialled this node, and is looked for"
                )
            }
            ([], _) => match waits_for(acceptor, &look, heard_since) {
                Some(reason) => reason,
                None if is_first(acceptor, &look) || passed_count >= LOOK_COUNT_MAX => {
                    passed_count = 0;
                    if let Some(agreed) = propose(host, acceptor, caller, &look).await? {
                        return Ok(agreed);
                    }
                    "another node proposes, too".to_owned()
                }
                None => {
                    passed_count += 1;
                    "the first of them founds the cluster".to_owned()
                }
            },
            (several, _) => {
                let named = several.iter().map(|id| format!("{id:032x}"));
                let named = named.collect::<Vec<_>>().join(", ");
                format!(
                    "the listed members are of several clusters: {named}; stop those that are wrong"
                )
            }
        };
        if waits_for != told {
            tracing::info!("not in a cluster yet: {waits_for}");
            told = waits_for;
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Why nothing is proposed yet (I2).
fn waits_for(acceptor: &Acceptor, look: &Look, heard_since: Instant) -> Option<String> {
    let (here, listed) = (look.blank.len() + 1, acceptor.plan.members.len());
    if !look.unclear.is_empty() {
        return Some(look.unclear.join("; "));
    }
    let absent = || look.absent.join("; ");
    if here < acceptor.majority() {
        let majority = acceptor.majority();
        return Some(format!(
            "{here} of {listed} nodes are there, and {majority} are needed: {}",
            absent()
        ));
    }
    let is_waited_for = here < listed && heard_since.elapsed() < acceptor.listening;
    is_waited_for.then(|| format!("the others are waited for a moment: {}", absent()))
}

/// Whether no other node that is there comes before this one in the file.
fn is_first(acceptor: &Acceptor, look: &Look) -> bool {
    look.blank.iter().all(|(founder, _)| founder.member.name > acceptor.own.name)
}

async fn look(host: &Host, acceptor: &Acceptor, caller: &Arc<Caller>) -> Look {
    let looks = acceptor.others().map(|planned| look_at(host, acceptor, caller, planned));
    let mut look = Look::default();
    for seen in join_all(looks).await {
        match seen {
            Seen::Member(cluster_id) => look.clusters.push(cluster_id),
            Seen::Blank { founder, promised } => look.blank.push((founder, promised)),
            Seen::Unclear(reason) => look.unclear.push(reason),
            Seen::Absent(reason) => look.absent.push(reason),
        }
    }
    look
}

async fn look_at(
    host: &Host,
    acceptor: &Acceptor,
    caller: &Arc<Caller>,
    planned: &Planned,
) -> Seen {
    let Planned { name, raft_address } = planned;
    let at = format!("{name} at {raft_address}");
    let asked = match ask(acceptor, caller, planned, FoundingStep::Look).await {
        Ok(FoundingAnswer::Blank { founder, promised, .. }) => {
            return Seen::Blank { founder, promised };
        }
        Ok(FoundingAnswer::Other(reason)) => return Seen::Unclear(reason),
        Err(error) => error,
    };
    match cluster_at(host, acceptor, planned).await {
        Ok(Some(cluster_id)) => Seen::Member(cluster_id),
        Ok(None) => Seen::Unclear(format!("{at} gives no clear answer")),
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => Seen::Unclear(format!("{at} says: {asked}")),
            io::ErrorKind::TimedOut if is_open(host, raft_address).await => Seen::Unclear(format!(
                "{at} takes connections and says nothing: it may be reading the files of a member"
            )),
            _ => Seen::Absent(format!("{at}: {error}")),
        },
    }
}

/// Whether anything takes connections there.
async fn is_open(host: &Host, address: &str) -> bool {
    timeout(ANSWER_BOUND, host.net.dial(address)).await.is_ok_and(|dialled| dialled.is_ok())
}

/// Asks one of the listed, which must be what the file says.
async fn ask(
    acceptor: &Acceptor,
    caller: &Caller,
    planned: &Planned,
    step: FoundingStep,
) -> io::Result<FoundingAnswer> {
    let question = FoundingQuestion { plan: acceptor.plan.clone(), step }.encode();
    let route = Route::to_address(planned.raft_address.clone()).named(Some(planned.name.clone()));
    let answer = timeout(ANSWER_BOUND, caller.ask(&route, Method::Found, &question)).await??;
    let answer = FoundingAnswer::decode(answer).map_err(bad_frame)?;
    if let FoundingAnswer::Blank { founder: Founder { member, .. }, .. } = &answer {
        let is_it = member.name == planned.name && member.raft_address == planned.raft_address;
        if !is_it || member.role != Role::Voter {
            let Planned { name, raft_address } = planned;
            let reason = format!("{} answers at {raft_address}, which is {name}'s", member.name);
            return Ok(FoundingAnswer::Other(reason));
        }
    }
    Ok(answer)
}

/// The cluster of the member that listens at an address; `None` if it does not say.
async fn cluster_at(host: &Host, acceptor: &Acceptor, at: &Planned) -> io::Result<Option<u128>> {
    let mut body = Vec::new();
    JoinRequest::question(acceptor.own.clone()).put(&mut body);
    let route = Route::to_address(at.raft_address.clone()).named(Some(at.name.clone()));
    let stranger = Caller::stranger(host);
    let answer = timeout(ANSWER_BOUND, stranger.ask(&route, Method::Join, &body)).await??;
    match JoinReply::decode(answer).map_err(bad_frame)? {
        JoinReply::Accepted { cluster_id, .. } => Ok(Some(cluster_id)),
        JoinReply::Later(_) | JoinReply::Refused(_) => Ok(None),
    }
}

/// Proposes a charter. `None` if it was not accepted, or is one of others alone.
async fn propose(
    host: &Host,
    acceptor: &Acceptor,
    caller: &Arc<Caller>,
    look: &Look,
) -> Result<Option<Agreed>, StartError> {
    let own = acceptor.own.name.as_str();
    let rank = acceptor.plan.members.iter().position(|planned| planned.name == own);
    let rank = rank.expect("invariant: the file lists this node") as u64;
    let promised = acceptor.state.lock().founding.promised;
    let highest = look.blank.iter().map(|(_, promised)| *promised).fold(promised, u64::max);
    let number = (((highest >> RANK_BITS) + 1) << RANK_BITS) | rank;
    let promises = ask_all(acceptor, caller, &FoundingStep::Prepare(number)).await;
    if promises.len() < acceptor.majority() {
        return Ok(None);
    }
    let accepted = promises.iter().filter_map(|(_, accepted)| accepted.as_ref());
    let latest = accepted.max_by_key(|(number, _)| *number).map(|(_, charter)| charter.clone());
    let charter = if let Some(charter) = latest {
        charter
    } else {
        let mut members: Vec<_> = promises.into_iter().map(|(founder, _)| founder).collect();
        members.sort_by(|one, other| one.member.name.cmp(&other.member.name));
        Charter { cluster_id: u128::from_le_bytes(random(host)?).max(1), members }
    };
    let cluster_id = charter.cluster_id;
    let step = FoundingStep::Accept { number, charter };
    if ask_all(acceptor, caller, &step).await.len() < acceptor.majority() {
        return Ok(None);
    }
    // The others may have accepted it without this node, which promised more meanwhile, or could not
    // write. It founds only what its directory says: started again, it would found a cluster alone.
    // Members of a charter without this node have to find out themselves, which takes this node.
    Ok(acceptor.charter_of(cluster_id))
}

/// Asks this node and all others; those that did it, with what they had accepted.
async fn ask_all(
    acceptor: &Acceptor,
    caller: &Caller,
    step: &FoundingStep,
) -> Vec<(Founder, Option<(u64, Charter)>)> {
    let asking = acceptor.others().map(|planned| ask(acceptor, caller, planned, step.clone()));
    let own = acceptor.ask_own(step.clone());
    let answers = join_all(asking).await.into_iter().filter_map(Result::ok);
    let granted = answers.chain([own]).filter_map(|answer| match answer {
        FoundingAnswer::Blank { is_granted: true, founder, accepted, .. } => {
            Some((founder, accepted))
        }
        FoundingAnswer::Blank { .. } | FoundingAnswer::Other(_) => None,
    });
    granted.collect()
}

/// What is said to those that dial.
#[derive(Clone)]
struct Hearing {
    net: Net,
    acceptor: Arc<Acceptor>,
    caller: Arc<Caller>,
}

impl Hearing {
    async fn hear_all(&self, listener: &Listener) -> Infallible {
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if callers.len() < CALLER_COUNT_MAX => match accepted {
                    Ok((stream, from)) => {
                        let hearing = self.clone();
                        let from = from.ip();
                        callers.spawn(timeout(CALLER_BOUND, async move {
                            hearing.hear(stream, |hello| claimed_address(hello, from)).await
                        }));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a caller");
                        sleep(ACCEPT_RETRY).await;
                        self.acceptor.state.lock().heard_since = Instant::now();
                    }
                },
                Some(_) = callers.join_next() => {}
            }
        }
    }

    /// Hears one caller out: one of the listed that has a question (I3), a member of a cluster, or
    /// whoever asks whether a connection is this node's.
    async fn hear(&self, stream: Stream, claimed: impl Fn(&Hello) -> String) -> io::Result<()> {
        let (mut reader, mut writer) = split(stream)?;
        let hello = Hello::decode(reader.expect(FrameKind::Hello).await?).map_err(bad_frame)?;
        let certified = reader.certified();
        let is_own = async |address: &str| {
            let process = self.caller.me().process;
            let asked = is_own_hello(&self.net, address, &hello, process, certified).await;
            asked.is_ok_and(|asked| asked.confirmed)
        };
        let welcome = if hello.purpose == Purpose::Confirm {
            self.caller.answer_to(&hello)
        } else {
            let is_listed = hello.cluster_id == 0
                && hello.purpose == Purpose::Requests
                && self.acceptor.others().any(|planned| {
                    planned.raft_address == hello.address
                        && certified.is_none_or(|certified| certified == planned.name)
                });
            let answer = if is_listed && is_own(&hello.address).await {
                Greeting::Accepted
            } else {
                if hello.cluster_id != 0 && is_own(&claimed(&hello)).await {
                    let contact = (hello.cluster_id, Instant::now());
                    self.acceptor.state.lock().contact.get_or_insert(contact);
                }
                Greeting::Refused("this node has no cluster yet; ask again".into())
            };
            Welcome { from: self.caller.me(), answer }
        };
        let is_accepted = welcome.answer == Greeting::Accepted && hello.purpose != Purpose::Confirm;
        welcome.put(&mut writer.buffer);
        writer.send().await?;
        if !is_accepted {
            return Ok(());
        }
        reader.allow_large();
        serve((reader, writer), ONE_QUESTION, |method, body| {
            let question = FoundingQuestion::decode(body).ok().filter(|_| method == Method::Found);
            ready(question.map(|question| self.acceptor.answer(question).encode()))
        })
        .await
    }
}
