//! Bytes between members: connections and their handshake, checks of identity, frames,
//! requests and answers.
//!
//! Called by `replica` (snapshots travel over connections), `raft` and `cluster`; calls `storage`
//! and `command`. Its frames use `storage`'s own `LogId` and `Vote`: it knows no consensus library.

pub(crate) mod append;
mod caller;
mod channel;
mod connection;
mod founding;
pub(crate) mod frames;
mod hello;
mod join;
mod listener;
mod member;
pub(crate) mod requests;
mod route;
mod serving;
mod verify;
pub(crate) mod votes;

pub use caller::{Caller, is_own_hello};
pub use channel::{CallError, Channel};
#[cfg(test)]
pub(crate) use connection::dial;
pub(crate) use connection::{Connection, Dialled, in_time};
pub use connection::{FrameReader, FrameWriter, bad_frame, split};
pub use founding::{
    Charter, Founder, FoundingAnswer, FoundingQuestion, FoundingStep, Plan, Planned,
};
pub use frames::FrameKind;
pub use hello::{Greeting, Hello, Purpose, Welcome, Whoever};
pub use join::{JoinReply, JoinRequest, JoinToken};
pub use listener::Zone;
pub(crate) use listener::{Asker, Listener, Service};
#[cfg(test)]
pub(crate) use member::NAME_BYTES_MAX;
pub use member::{
    INVITATION_COUNT_MAX, INVITATION_HASH_BYTES, Invitation, MEMBER_COUNT_MAX, Member, Role,
};
pub(crate) use member::{decode_member, encode_member};
pub use requests::{Method, decode_commands, decode_results, encode_commands, encode_results};
pub use route::Route;
pub(crate) use route::{Book, Roster};
pub(crate) use serving::{Allowance, serve};
pub(crate) use verify::{Origin, Verified, Verifier};
pub use verify::{claimed_address, complete};
