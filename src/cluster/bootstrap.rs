//! What a node that serves no peers yet, or no more, says to those that dial it.
//!
//! Before it founds a cluster, a node with an empty directory listens. If a member of a cluster dials
//! its address meanwhile, this node was a member once and was wiped; founding a second cluster would
//! take writes that the first never sees (PITFALLS 14). Anybody can say that he is such a member, so
//! he is asked back where he says that he listens.
//!
//! Called by `node`; calls `raft`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::raft::{
    Caller, FrameWriter, Greeting, Hello, Kind, Purpose, Welcome, Whoever, bad_frame,
    claimed_address, is_own_hello, split,
};

/// How long one caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// Most callers that are heard at a time.
const CALLER_COUNT_MAX: usize = 64;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The cluster that knows this address as a member's.
    pub cluster_id: u128,
}

/// Listens for `time`, in the process of this id; the first member of a cluster that dials ends it.
pub async fn listen_first(listener: &TcpListener, time: Duration, process: u64) -> Option<Contact> {
    let deadline = Instant::now() + time;
    let mut hellos = JoinSet::new();
    let mut is_over = false;
    loop {
        let has_room = !is_over && hellos.len() < CALLER_COUNT_MAX;
        tokio::select! {
            Ok((stream, from)) = listener.accept(), if has_room => {
                hellos.spawn(hear(stream, from.ip(), process));
            }
            // A joiner (it asks again), a stranger, or garbage is no contact.
            Some(heard) = hellos.join_next() => if let Ok(Ok(Some(contact))) = heard {
                return Some(contact);
            },
            () = sleep_until(deadline), if !is_over => is_over = true,
            else => return None,
        }
    }
}

/// Hears one caller out, in a bounded time.
async fn hear(stream: TcpStream, from: IpAddr, process: u64) -> std::io::Result<Option<Contact>> {
    let (hello, mut writer) = timeout(HELLO_TIMEOUT, take_hello(stream)).await??;
    let is_member = hello.cluster_id != 0 && hello.purpose != Purpose::Confirm;
    let is_contact = is_member
        && is_own_hello(&claimed_address(&hello, from), &hello, process)
            .await
            .is_ok_and(|asked| asked.confirmed);
    let answer = Greeting::Refused("this node is only just starting; ask again".into());
    let from = Whoever { cluster_id: 0, member_id: 0, process };
    Welcome { from, answer }.put(&mut writer.buffer);
    // Whoever has gone meanwhile has been heard all the same.
    drop(timeout(HELLO_TIMEOUT, writer.send()).await);
    Ok(is_contact.then_some(Contact { cluster_id: hello.cluster_id }))
}

async fn take_hello(stream: TcpStream) -> std::io::Result<(Hello, FrameWriter)> {
    let (mut reader, writer) = split(stream)?;
    let body = reader.expect(Kind::Hello).await?;
    Ok((Hello::decode(body).map_err(bad_frame)?, writer))
}

/// Confirms the connections of a process that serves no peers, until it is dropped.
pub(super) async fn confirm_only(listener: TcpListener, caller: Arc<Caller>) {
    let mut hellos = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept(), if hellos.len() < CALLER_COUNT_MAX => {
                let caller = caller.clone();
                hellos.spawn(timeout(2 * HELLO_TIMEOUT, async move {
                    let (hello, mut writer) = take_hello(stream).await?;
                    caller.answer_to(&hello).put(&mut writer.buffer);
                    writer.send().await
                }));
            }
            Some(_) = hellos.join_next() => {}
        }
    }
}
