//! Answers processes that dial this node while it serves no peers: before it founds a cluster, or
//! after it stopped.
//!
//! A node with an empty directory listens before it founds a cluster. If a member of a cluster
//! dials its address meanwhile, this node was a member once and was wiped; a second cluster,
//! founded here, would take writes that the first never sees (H14). Anybody can claim to be such
//! a member, so this node dials back to the address that the caller names, and asks there.
//!
//! Called by `node`; calls `raft`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::host::{Listener, Net, Stream};
use crate::peer::{
    Caller, FrameKind, FrameWriter, Greeting, Hello, Purpose, Welcome, Whoever, bad_frame,
    claimed_address, is_own_hello, split,
};

/// How long one caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// Most callers that are heard at a time.
const CALLER_COUNT_MAX: usize = 64;

/// Pause after an accept that failed (out of file descriptors), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a listener gives.
type Accepted = io::Result<(Stream, SocketAddr)>;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The cluster that knows this address as a member's.
    pub cluster_id: u128,
}

/// Listens for `time`, in the process of this id; the first member of a cluster that dials ends it.
/// The time begins again whenever nobody can be accepted, as where file descriptors are used up.
pub async fn listen_first(
    net: &Net,
    listener: &Listener,
    time: Duration,
    process: u64,
) -> Option<Contact> {
    hear_until(net, || listener.accept(), time, process).await
}

async fn hear_until<F: Future<Output = Accepted>>(
    net: &Net,
    accept: impl Fn() -> F,
    time: Duration,
    process: u64,
) -> Option<Contact> {
    let mut deadline = Instant::now() + time;
    let mut hellos = JoinSet::new();
    let mut is_over = false;
    loop {
        let may_accept = !is_over && hellos.len() < CALLER_COUNT_MAX;
        tokio::select! {
            accepted = accept(), if may_accept => match accepted {
                Ok((stream, from)) => drop(hellos.spawn(hear(net.clone(), stream, from.ip(), process))),
                Err(error) => {
                    pause_after(&error).await;
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        deadline = Instant::now() + time; // nobody was heard meanwhile
                    }
                }
            },
            // A joiner (it asks again), a stranger, or garbage is no contact.
            Some(heard) = hellos.join_next() => if let Ok(Ok(Some(contact))) = heard {
                return Some(contact);
            },
            () = sleep_until(deadline), if !is_over => is_over = true,
            else => return None,
        }
    }
}

/// Waits after an accept that failed.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a caller");
    sleep(ACCEPT_RETRY).await;
}

/// Hears one caller out, in a bounded time.
async fn hear(net: Net, stream: Stream, from: IpAddr, process: u64) -> io::Result<Option<Contact>> {
    let (hello, certified, mut writer) = timeout(HELLO_TIMEOUT, take_hello(stream)).await??;
    let is_member = hello.cluster_id != 0 && hello.purpose != Purpose::Confirm;
    let is_contact = is_member && {
        let claimed = claimed_address(&hello, from);
        let asked = is_own_hello(&net, &claimed, &hello, process, certified.as_deref()).await;
        asked.is_ok_and(|asked| asked.confirmed)
    };
    let answer = Greeting::Refused("this node is only just starting; ask again".into());
    let from = Whoever { cluster_id: 0, member_id: 0, process };
    Welcome { from, answer }.put(&mut writer.buffer);
    // Whoever has gone meanwhile has been heard all the same.
    drop(timeout(HELLO_TIMEOUT, writer.send()).await);
    Ok(is_contact.then_some(Contact { cluster_id: hello.cluster_id }))
}

/// A hello, the member that the certificate with it names, and where the answer goes.
async fn take_hello(stream: Stream) -> io::Result<(Hello, Option<String>, FrameWriter)> {
    let (mut reader, writer) = split(stream)?;
    let body = reader.expect(FrameKind::Hello).await?;
    let certified = reader.certified().map(str::to_owned);
    Ok((Hello::decode(body).map_err(bad_frame)?, certified, writer))
}

/// Confirms the connections of a process that serves no peers, until it is dropped.
pub(super) async fn confirm_only(listener: Listener, caller: Arc<Caller>) {
    confirm_all(|| listener.accept(), caller).await;
}

async fn confirm_all<F: Future<Output = Accepted>>(accept: impl Fn() -> F, caller: Arc<Caller>) {
    let mut hellos = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(), if hellos.len() < CALLER_COUNT_MAX => match accepted {
                Ok((stream, _)) => {
                    let caller = caller.clone();
                    hellos.spawn(timeout(2 * HELLO_TIMEOUT, async move {
                        let (hello, _, mut writer) = take_hello(stream).await?;
                        caller.answer_to(&hello).put(&mut writer.buffer);
                        writer.send().await
                    }));
                }
                Err(error) => pause_after(&error).await,
            },
            Some(_) = hellos.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use tokio::net::TcpListener;

    use super::*;
    use crate::fault::Faults;
    use crate::host::Host;
    use crate::peer::{Channel, Method, Route};

    /// Nothing that must come takes longer.
    const LONG: Duration = Duration::from_secs(30);

    /// Accepts, once it has failed so often.
    struct Failing {
        listener: Listener,
        left: AtomicUsize,
    }

    impl Failing {
        async fn new(count: usize) -> (Failing, String) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            (Failing { listener: listener.into(), left: AtomicUsize::new(count) }, address)
        }

        async fn accept(&self) -> Accepted {
            let one_less = |left: usize| left.checked_sub(1);
            if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                return Err(rustix::io::Errno::MFILE.into());
            }
            self.listener.accept().await
        }
    }

    /// Member 7 of another cluster, which confirms what it dials, and where it listens.
    async fn member() -> (Arc<Caller>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let me = Whoever { cluster_id: 0xc1, member_id: 7, process: 3 };
        let caller = Caller::new(&Host::real(), me, address.clone(), Faults::new());
        tokio::spawn(confirm_only(listener.into(), caller.clone()));
        (caller, address)
    }

    /// H14: one that was deaf for the whole time would found a second cluster.
    #[tokio::test]
    async fn a_caller_is_heard_after_accepting_has_failed() {
        let time = 4 * ACCEPT_RETRY;
        let (failing, address) = Failing::new(8).await;
        let (caller, _) = member().await;
        let dialling = tokio::spawn(async move {
            let channel = Channel::new(caller, Route::to_address(address));
            drop(channel.call(Method::LogSpace, Bytes::new(), LONG).await);
        });
        let heard = hear_until(&Net::Tcp, || failing.accept(), time, 5).await;
        assert_eq!(heard, Some(Contact { cluster_id: 0xc1 }));
        dialling.abort();
    }

    #[tokio::test]
    async fn one_that_only_confirms_goes_on_after_accepting_has_failed() {
        let (failing, address) = Failing::new(3).await;
        let me = Whoever { cluster_id: 0xc1, member_id: 8, process: 4 };
        let confirming = Caller::new(&Host::real(), me, address.clone(), Faults::new());
        let (caller, _) = member().await;
        let confirming =
            tokio::spawn(async move { confirm_all(|| failing.accept(), confirming).await });
        let asked = async {
            while caller.who_is_at(&address, 8, "node8").await.ok() != Some(me) {
                assert!(!confirming.is_finished(), "it has ended");
            }
        };
        timeout(LONG, asked).await.expect("it answers");
        confirming.abort();
    }
}
