//! This process as a caller of other members: makes its hellos, and confirms which hellos are its
//! own.
//!
//! Anybody can write a hello. So a process that gets one asks back at the address of the member
//! that the hello names, and the process that listens there says whether the hello is its own.
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

/// How long whoever is asked back may take: less than a handshake, of which it is a part.
const ASK_BACK_BOUND: Duration = Duration::from_secs(1);

/// Who dials.
#[derive(Debug)]
pub struct Caller {
    host: Host,
    me: Whoever,
    /// Where this member listens, for its peers; empty if nobody is to ask back.
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

    /// Somebody that is no member yet.
    pub fn stranger(host: &Host) -> Arc<Caller> {
        let me = Whoever { cluster_id: 0, member_id: 0, process: 0 };
        Caller::new(host, me, String::new(), Faults::new())
    }

    /// What this process stands on.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The member and process that dials.
    pub fn me(&self) -> Whoever {
        self.me
    }

    /// Where it says that it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Dials a member where it is to be found now.
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
        let dialled = dial(&self.host.net, &address, &hello).await;
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

    /// Whether a connection that another member asks about is one of this process (I1).
    pub fn confirms(&self, asked: &Hello) -> bool {
        let meant_for = self.under_way.lock().get(&asked.token).copied();
        asked.cluster_id == self.me.cluster_id
            && meant_for.is_some_and(|to| to == 0 || to == asked.from)
    }

    /// The answer to whoever asks whether a connection is one of this process.
    pub fn answer_to(&self, asked: &Hello) -> Welcome {
        let answer = if self.confirms(asked) {
            Greeting::Accepted
        } else {
            Greeting::Refused("that connection is none of this process".into())
        };
        Welcome { from: self.me, answer }
    }

    /// Where a member has another one of a cluster; empty if nowhere. Whoever asks need not be known.
    ///
    /// # Errors
    /// Of the socket; an answer of another member than is asked, or that cannot be read.
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

    /// Who listens at an address, if it is a member or a node on its way to be one.
    ///
    /// # Errors
    /// Of the socket; bytes that are no answer.
    pub async fn who_is_at(&self, address: &str, to: u64) -> io::Result<Whoever> {
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
        Ok(in_time(shake_hands(&self.host.net, address, &hello), ASK_BACK_BOUND).await?.2.from)
    }
}

/// Asks whoever listens at an address whether a hello is its own. True only if the process that is
/// named there, as the member that is named there, says so.
///
/// # Errors
/// Of the socket; bytes that are no answer.
pub async fn is_own_hello(
    net: &Net,
    address: &str,
    hello: &Hello,
    process: u64,
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
        in_time(shake_hands(net, address, &question), ASK_BACK_BOUND).await?.2;
    let named =
        Whoever { cluster_id: hello.cluster_id, member_id: hello.from, process: hello.process };
    Ok(Asked { confirmed: answer == Greeting::Accepted && from == named, who: from })
}

/// What came of asking back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The hello comes from there.
    pub confirmed: bool,
    /// Who listens there.
    pub who: Whoever,
}

/// The refusal within an error of a dial.
fn refusal(error: &io::Error) -> Option<&HelloRefused> {
    error.get_ref()?.downcast_ref()
}
