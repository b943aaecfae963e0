//! The ports for members: accepts connections, checks their handshake, and decides which requests
//! each caller may make.
//!
//! Called by `raft`, whose [`Service`] takes over the connections let in; calls `verify`.
//! Invariants:
//!
//! - I1: nothing but a hello is read from a caller before cluster and member ids were compared
//!   (C17, F25) and the member named by the hello confirmed that the hello is its own (`verify`).
//! - I2: connections, frames and requests under way are bounded. Callers that have not named the
//!   cluster have bounds of their own, so they cannot shut members out.
//! - I3: no write waits long for a peer that takes no bytes. How long a read waits depends on the
//!   connection's purpose. A handshake and a joiner have deadlines here, a snapshot has its own. A
//!   member's requests may be days apart, and so may the entries of an append connection, since
//!   heartbeats have another one; closing one of these could cut off a request that is just
//!   arriving, whose outcome would then be unknown. The kernel notices a member that is gone (see
//!   `connection`).
//! - I4: where members of several clusters share a socket, a hello reaches the one whose cluster it
//!   names. One that names none of theirs, or no cluster, reaches the first.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::caller::Caller;
use super::connection::{
    FrameReader, FrameWriter, HANDSHAKE_TIMEOUT, WRITE_TIMEOUT, bad_frame, in_time, split,
};
use super::frames::FrameKind;
use super::hello::{Greeting, Hello, Purpose, Welcome};
use super::join::{JoinReply, JoinRequest};
use super::requests::{Method, decode_commands, encode_results};
use super::serving::{Allowance, serve};
use super::verify::{Dialler, Origin, Verified, Verifier};
use crate::command::Failure;
use crate::descriptors::{Place, Places, Shares};
use crate::fault::Faults;
use crate::host::{Listener as Socket, Stream};

/// The limits of a member's connection. Its requests may be days apart.
const MEMBER: Allowance =
    Allowance { request_count_max: 1024, idle_max: None, write_max: WRITE_TIMEOUT };
/// The limits for a caller with a single question: one that joins, or asks where a member is.
const JOINER: Allowance = Allowance {
    request_count_max: 1,
    idle_max: Some(Duration::from_secs(10)),
    write_max: WRITE_TIMEOUT,
};
/// Pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The callers that a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Members, and nodes that want to join.
    Peers,
    /// Only nodes that want to join.
    Joins,
}

impl Zone {
    /// The error, in RESP, for a client that connected to a port for members.
    fn reply_to_client(self) -> &'static str {
        match self {
            Zone::Peers => {
                "-ERR this is a -raft port of diskstore, for its members; clients use the -port \
                 address\r\n"
            }
            Zone::Joins => {
                "-ERR this is a -hjoin port of diskstore, for nodes that want to join; clients use \
                 the -port address\r\n"
            }
        }
    }
}

/// The caller of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// The calling member; `None` for a node that wants to join.
    pub(crate) member: Option<&'a Verified>,
    /// Where the connection comes from.
    pub(crate) from: &'a Dialler,
}

/// What a member does with connections that were let in, and with what they ask.
pub(crate) trait Service: Debug + Send + Sync + 'static {
    /// The reason to refuse a hello for what it says about this member's log, if there is one.
    fn refuse(&self, hello: &Hello, origin: Origin) -> Option<String>;

    /// Takes append frames until the connection ends.
    fn serve_appends(
        self: Arc<Self>,
        reader: FrameReader,
        writer: FrameWriter,
        from: Verified,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Takes one snapshot.
    fn serve_snapshot(
        &self,
        reader: FrameReader,
        writer: FrameWriter,
        from: Verified,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Answers a request of a member, or of a node that wants to join. `None` ends the connection.
    fn answer(
        &self,
        method: Method,
        body: Bytes,
        asker: Asker<'_>,
    ) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// The ports of one member.
#[derive(Debug)]
pub(crate) struct Listener<S> {
    caller: Arc<Caller>,
    verifier: Arc<Verifier>,
    service: Arc<S>,
    faults: Faults,
    /// Bytes that have arrived at its ports.
    received_bytes: Arc<AtomicU64>,
    /// Places for its connections.
    places: ListenerPlaces,
}

/// Places for connections on all listeners of the node.
#[derive(Debug, Default)]
pub(crate) struct ListenerPlaces {
    handshakes: Places,
    members: Places,
    joiners: Places,
}

impl ListenerPlaces {
    /// A place for a caller whose hello was accepted.
    fn place_for(&self, hello: &Hello) -> Option<Place> {
        let shares = Shares::now();
        if hello.cluster_id == 0 {
            self.joiners.take(shares.joiners)
        } else {
            self.members.take(shares.members)
        }
    }
}

impl<S: Service> Listener<S> {
    /// Ports that hand the callers that `verifier` believes to `service`.
    pub(crate) fn new(
        caller: Arc<Caller>,
        verifier: Arc<Verifier>,
        service: Arc<S>,
        faults: Faults,
    ) -> Arc<Listener<S>> {
        let (received_bytes, places) = (Arc::default(), ListenerPlaces::default());
        Arc::new(Listener { caller, verifier, service, faults, received_bytes, places })
    }

    /// Bytes that have arrived at the ports since the start.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Accepts connections for `members`, of which no two belong to one cluster, until the task is
    /// dropped.
    ///
    /// # Panics
    /// If there are no members.
    pub(crate) async fn serve(members: Vec<Arc<Self>>, socket: Socket, zone: Zone) {
        let members: Arc<[Arc<Self>]> = members.into();
        let first = members.first().expect("invariant: a socket is opened for somebody");
        loop {
            let (stream, from) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(handshake) = first.places.handshakes.take(Shares::now().handshakes) else {
                continue; // dropping the stream refuses it
            };
            let members = members.clone();
            tokio::spawn(async move {
                let served = Self::serve_one(&members, stream, from.ip(), zone, handshake);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a peer's connection ended");
                }
            });
        }
    }

    async fn serve_one(
        members: &[Arc<Self>],
        stream: Stream,
        address: IpAddr,
        zone: Zone,
        handshake: Place,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = split(stream)?;
        let first = members.first().expect("invariant: a socket is opened for somebody");
        reader.count_in(first.received_bytes.clone());
        let body = in_time(reader.expect(FrameKind::Hello), HANDSHAKE_TIMEOUT).await;
        let hello = match body.and_then(|body| Hello::decode(body).map_err(bad_frame)) {
            Ok(hello) => hello,
            // Whoever says nothing is told nothing: under TLS that would wait for the rest of a handshake,
            // in a place that others need.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => {
                if reader.unread().is_empty() {
                    let reason = format!("this port speaks diskstore's peer protocol: {error}");
                    first.welcome(Greeting::Refused(reason)).put(&mut writer.buffer);
                } else {
                    // Whoever sends no frame is most likely a client of Redis.
                    writer.buffer.extend_from_slice(zone.reply_to_client().as_bytes());
                }
                writer.send_in_time().await?;
                return Err(error);
            }
        };
        let is_meant = |member: &&Arc<Self>| member.caller.me().cluster_id == hello.cluster_id;
        let listener = members.iter().find(is_meant).unwrap_or(first).clone(); // I4
        reader.count_in(listener.received_bytes.clone());
        let from = Dialler { address, certified: reader.certified().map(str::to_owned) };
        let (_place, member) = match listener.receive(&hello, &from, zone).await {
            Ok(received) => received,
            Err(welcome) => {
                welcome.put(&mut writer.buffer);
                return writer.send_in_time().await;
            }
        };
        listener.welcome(Greeting::Accepted).put(&mut writer.buffer);
        writer.send_in_time().await?;
        drop(handshake);
        // Whoever has not named the cluster may ask to join, and where others are, and nothing else.
        let Some(member) = member else {
            return listener.serve_requests(reader, writer, None, from).await;
        };
        reader.allow_large(); // a request to join is short
        match hello.purpose {
            Purpose::Requests => listener.serve_requests(reader, writer, Some(member), from).await,
            Purpose::Append => listener.service.clone().serve_appends(reader, writer, member).await,
            Purpose::Snapshot => {
                reader.allow_long();
                listener.service.serve_snapshot(reader, writer, member).await
            }
            Purpose::Confirm => unreachable!("the welcome was the answer"),
        }
    }

    fn welcome(&self, answer: Greeting) -> Welcome {
        Welcome { from: self.caller.me(), answer }
    }

    /// Checks a hello (I1). Gives a place for the connection and the member that sent it, or the
    /// answer that refuses it.
    async fn receive(
        &self,
        hello: &Hello,
        from: &Dialler,
        zone: Zone,
    ) -> Result<(Place, Option<Verified>), Welcome> {
        if hello.purpose == Purpose::Confirm && zone == Zone::Peers {
            return Err(self.caller.answer_to(hello));
        }
        let refused = |reason: String| self.welcome(Greeting::Refused(reason));
        if let Some(answer) = self.refuse(hello, zone) {
            self.note_other_cluster(hello, from, zone).await;
            return Err(self.welcome(answer));
        }
        let Some(place) = self.places.place_for(hello) else {
            return Err(refused("too many connections; try again later".into()));
        };
        if hello.cluster_id == 0 {
            return Ok((place, None));
        }
        let verified = self.verifier.verify(hello, from).await;
        let member = verified.map_err(|answer| self.welcome(answer))?;
        if hello.purpose != Purpose::Requests && !self.verifier.is_believed(&member) {
            let reason = member.disbelief();
            self.verifier.tell(&reason);
            return Err(refused(reason));
        }
        if let Some(reason) = self.service.refuse(hello, member.origin) {
            return Err(refused(reason));
        }
        Ok((place, Some(member)))
    }

    /// The reason to refuse a hello whatever its sender, if there is one.
    fn refuse(&self, hello: &Hello, zone: Zone) -> Option<Greeting> {
        let me = self.caller.me();
        let is_joiner = hello.cluster_id == 0;
        if is_joiner || zone == Zone::Joins {
            let is_allowed = is_joiner && hello.purpose == Purpose::Requests;
            let reason = "only requests to join are taken here";
            return (!is_allowed).then(|| Greeting::Refused(reason.into()));
        }
        if hello.cluster_id != me.cluster_id {
            return Some(Greeting::Refused(format!(
                "this is a member of cluster {:032x}, not of {:032x}",
                me.cluster_id, hello.cluster_id
            )));
        }
        if hello.to != 0 && hello.to != me.member_id {
            let reason = format!("this is member {:016x}, not {:016x}", me.member_id, hello.to);
            return Some(Greeting::Refused(reason));
        }
        if hello.from == me.member_id && hello.process == me.process {
            return Some(Greeting::Refused("this is the member itself that dials".into()));
        }
        (hello.from == me.member_id).then(|| {
            Greeting::Copy(format!(
                "member {:016x} is this member itself, which listens at {}: a copy of its directory \
                 is running; stop one of the two",
                hello.from,
                self.caller.address()
            ))
        })
    }

    /// If a member of another cluster dials this address, its cluster has a member here: then this
    /// node was wiped, and has founded a cluster of its own. Since anybody can write such a hello, the
    /// member is asked back.
    async fn note_other_cluster(&self, hello: &Hello, from: &Dialler, zone: Zone) {
        let me = self.caller.me();
        if zone == Zone::Joins || hello.cluster_id == 0 || hello.cluster_id == me.cluster_id {
            return;
        }
        if self.verifier.knows_nobody_else() && self.verifier.is_other_cluster(hello, from).await {
            self.faults.report(format!(
                "a member of cluster {:032x} knows this address as one of its own: this node was \
                 probably wiped; start it with -join ADDRESS, naming a running member",
                hello.cluster_id
            ));
        }
    }

    async fn serve_requests(
        self: Arc<Self>,
        reader: FrameReader,
        writer: FrameWriter,
        member: Option<Verified>,
        from: Dialler,
    ) -> io::Result<()> {
        let allowance = if member.is_none() { JOINER } else { MEMBER };
        let (member, from) = (member.map(Arc::new), Arc::new(from));
        serve((reader, writer), allowance, |method, body| {
            let (listener, member, from) = (self.clone(), member.clone(), from.clone());
            async move {
                let asker = Asker { member: member.as_deref(), from: &from };
                listener.answer(method, body, asker).await
            }
        })
        .await
    }

    async fn answer(&self, method: Method, body: Bytes, asker: Asker<'_>) -> Option<Vec<u8>> {
        let is_allowed = match asker.member {
            Some(member) => self.verifier.may_ask(member, method),
            None if matches!(method, Method::Join | Method::Whereabouts) => true,
            None => return None,
        };
        match method {
            Method::Join if asker.member.is_none() && !is_joiner(&body, asker.from) => {
                let reason =
                    "the certificate is that of another member than the one that wants to join";
                let mut out = Vec::new();
                JoinReply::Refused(reason.into()).put(&mut out);
                Some(out)
            }
            Method::Write | Method::Read if !is_allowed => refuse_commands(body),
            _ if !is_allowed => None,
            Method::Whereabouts => self.verifier.answer_whereabouts(body),
            _ => self.service.answer(method, body, asker).await,
        }
    }
}

/// True if a request to join comes from the member that it names, as far as certificates tell.
fn is_joiner(body: &Bytes, from: &Dialler) -> bool {
    let Some(certified) = &from.certified else { return true };
    // What cannot be read is answered by whoever reads it.
    JoinRequest::decode(body.clone()).map_or(true, |request| request.member.name == *certified)
}

/// The answer to commands of a member that may not forward any. It says that they were certainly not
/// proposed; merely closing the connection would leave the clients in doubt.
fn refuse_commands(body: Bytes) -> Option<Vec<u8>> {
    let (commands, _) = decode_commands(body).ok()?;
    let refused = Err(Failure::NotLeader { leader: String::new() });
    Some(encode_results(&vec![refused; commands.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joiners_take_no_places_of_members() {
        let places = ListenerPlaces::default();
        let member = Hello {
            cluster_id: 1,
            from: 1,
            to: 2,
            purpose: Purpose::Append,
            process: 3,
            token: 4,
            address: "127.0.0.1:1".into(),
            acknowledged: None,
        };
        let purpose = Purpose::Requests;
        let joiner = Hello { cluster_id: 0, from: 0, purpose, ..member.clone() };
        let taken: Vec<_> = (0..Shares::now().joiners).map(|_| places.place_for(&joiner)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(places.place_for(&joiner).is_none(), "their own are taken");
        assert!(places.place_for(&member).is_some());
        drop(taken);
        assert!(places.place_for(&joiner).is_some(), "a place is given back");
    }
}
