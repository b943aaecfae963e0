//! This process as a caller of other members: makes its hellos, and confirms which hellos are its
//! own.
//!
//! Anybody can write a hello. So a process that receives one asks back: it dials the address of the
//! member that the hello names, and the process that listens there says whether it sent the hello.
//! Called by `channel`, `raft` and `cluster`; calls `connection`. Invariants:
//!
//! - I1: every connection has a random token of its own. It is confirmed only during the handshake,
//!   and only to the member that the hello was meant for, so another member cannot pass it on.
//! - I2: a process stops when it is told that it is a copy of a running member, but only if that
//!   member itself says so, at the address that the process's own log has for it: anybody may
//!   listen elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::connection::{Dialled, HelloRefused, bad_frame, dial, in_time, shake_hands};
use super::frames::FrameKind;
use super::hello::{Greeting, Hello, Purpose, Welcome, Whoever};
use super::requests::{
    Method, decode_whereabouts_reply, encode_whereabouts, put_request, read_response,
};
use super::route::Route;
use crate::fault::Faults;
use crate::host::{Host, Net};
use diskstore_storage::{LogId, Vote};

/// How long a process that is asked back may take to answer. Shorter than a handshake, because
/// asking back happens during one.
const ASK_BACK_BOUND: Duration = Duration::from_secs(1);

/// The process that dials, and the hellos that it has under way.
#[derive(Debug)]
pub struct Caller {
    host: Host,
    me: Whoever,
    /// The address at which peers reach this member; empty if no peer is to ask back.
    address: String,
    /// The tokens of handshakes under way, with the members that they are meant for (I1).
    under_way: Mutex<BTreeMap<u128, u64>>,
    faults: Faults,
}

/// Forgets a token when its handshake has ended.
struct UnderWay<'a> {
    caller: &'a Caller,
    token: u128,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.caller.under_way.lock().remove(&self.token);
    }
}

impl Caller {
    /// A member of a cluster, in this process, that listens at `address`.
    pub fn new(host: &Host, me: Whoever, address: String, faults: Faults) -> Arc<Caller> {
        let host = host.clone();
        Arc::new(Caller { host, me, address, under_way: Mutex::default(), faults })
    }

    /// A process that is no member of a cluster yet.
    pub fn stranger(host: &Host) -> Arc<Caller> {
        let me = Whoever { cluster_id: 0, member_id: 0, process: 0 };
        Caller::new(host, me, String::new(), Faults::new())
    }

    /// What this process stands on.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The member that dials, and its process.
    pub fn me(&self) -> Whoever {
        self.me
    }

    /// The address at which this member says that it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Dials a member at the address where it can be found now.
    pub(crate) async fn dial(
        &self,
        route: &Route,
        purpose: Purpose,
        acknowledged: Option<(Vote, LogId)>,
    ) -> io::Result<Dialled> {
        let token = u128::from_le_bytes(self.host.random.bytes()?).max(1);
        self.under_way.lock().insert(token, route.to());
        let _under_way = UnderWay { caller: self, token };
        let hello = Hello {
            cluster_id: self.me.cluster_id,
            from: self.me.member_id,
            to: route.to(),
            purpose,
            process: self.me.process,
            token,
            address: self.address.clone(),
            acknowledged,
        };
        let address = route.address();
        let dialled = dial(&self.host.net, &address, &hello, route.name().as_deref()).await;
        if let Ok((reader, _)) = &dialled
            && purpose == Purpose::Snapshot
        {
            reader.allow_long();
        }
        if let Err(error) = &dialled {
            route.note_failure();
            if let Some(HelloRefused(Greeting::Copy(reason))) = refusal(error)
                && route.to() != 0
                && route.is_recorded(&address)
            {
                self.faults.report(reason.clone()); // I2
            }
        }
        dialled.map(|connection| (address, connection))
    }

    /// True if this process opened the connection that another member asks about (I1).
    pub fn confirms(&self, asked: &Hello) -> bool {
        let meant_for = self.under_way.lock().get(&asked.token).copied();
        asked.cluster_id == self.me.cluster_id
            && meant_for.is_some_and(|to| to == 0 || to == asked.from)
    }

    /// Answers a member that asks whether this process opened a connection.
    pub fn answer_to(&self, asked: &Hello) -> Welcome {
        let answer = if self.confirms(asked) {
            Greeting::Accepted
        } else {
            Greeting::Refused("that connection is none of this process".into())
        };
        Welcome { from: self.me, answer }
    }

    /// Asks one member for the address of another; empty if it knows none. The member that is asked
    /// need not know this process.
    ///
    /// # Errors
    /// Of the socket; the answer comes from another member, or cannot be read.
    pub(super) async fn whereabouts(
        &self,
        route: &Route,
        cluster_id: u128,
        id: u64,
    ) -> io::Result<String> {
        let question = encode_whereabouts(cluster_id, id);
        let answer = self.ask(route, Method::Whereabouts, &question).await?;
        decode_whereabouts_reply(answer).map_err(bad_frame)
    }

    /// Asks one thing, over a connection of its own; the answer may take as long as its caller waits.
    ///
    /// # Errors
    /// Of the socket; another member than is meant answers, or bytes that are no response.
    pub async fn ask(&self, route: &Route, method: Method, question: &[u8]) -> io::Result<Bytes> {
        let (_, (mut reader, mut writer)) = self.dial(route, Purpose::Requests, None).await?;
        put_request(&mut writer.buffer, 1, method, question);
        writer.send().await?;
        let (_, answer) =
            read_response(reader.expect(FrameKind::Response).await?).map_err(bad_frame)?;
        Ok(answer)
    }

    /// Asks which member, or future member, listens at an address; it is to be one of this name.
    ///
    /// # Errors
    /// Of the socket; bytes that are no answer, or a certificate of another name.
    pub async fn who_is_at(&self, address: &str, to: u64, name: &str) -> io::Result<Whoever> {
        let me = self.me;
        let hello = Hello {
            cluster_id: me.cluster_id,
            from: me.member_id,
            to,
            purpose: Purpose::Confirm,
            process: me.process,
            token: 0, // nobody's: it is asked for its name alone
            address: String::new(),
            acknowledged: None,
        };
        let shaken = shake_hands(&self.host.net, address, &hello, Some(name));
        Ok(in_time(shaken, ASK_BACK_BOUND).await?.2.from)
    }
}

/// Asks the process at an address whether it sent a hello. True only if the process and the member
/// that the hello names both match, and it says yes. `name` is that of the certificate that was shown
/// with the hello, if there was one: the process must show one of the same name.
///
/// # Errors
/// Of the socket; bytes that are no answer, or a certificate of another name.
pub async fn is_own_hello(
    net: &Net,
    address: &str,
    hello: &Hello,
    process: u64,
    name: Option<&str>,
) -> io::Result<Asked> {
    let question = Hello {
        cluster_id: hello.cluster_id,
        from: hello.to,
        to: hello.from,
        purpose: Purpose::Confirm,
        process,
        token: hello.token,
        address: String::new(),
        acknowledged: None,
    };
    let Welcome { from, answer } =
        in_time(shake_hands(net, address, &question, name), ASK_BACK_BOUND).await?.2;
    let named =
        Whoever { cluster_id: hello.cluster_id, member_id: hello.from, process: hello.process };
    Ok(Asked { confirmed: answer == Greeting::Accepted && from == named, who: from })
}

/// The result of asking back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// True if the hello was sent from there.
    pub confirmed: bool,
    /// The member and process that listens there.
    pub who: Whoever,
}

/// The refusal that a failed dial carries, if the other side refused.
fn refusal(error: &io::Error) -> Option<&HelloRefused> {
    error.get_ref()?.downcast_ref()
}
