//! The classes of failures, the same for every protocol.
//!
//! Called by the protocols, each of which derives its code from the class. The words of a failure
//! are for people; the class is for programs, which have to know which commands they may send
//! again.

use super::{Failure, Refusal};

/// A kind of failure that a client must tell from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The request is wrong, and will be whenever it is sent.
    Wrong,
    /// The request or its value is longer than what is taken, or its reply than what is given.
    TooLarge,
    /// The request is understood, and not served here.
    Refused,
    /// The client is to present a token first.
    NoToken,
    /// The client is not whom it says it is.
    Unauthenticated,
    /// The client's token does not allow this.
    Forbidden,
    /// The version of the protocol is not spoken here.
    ProtocolVersion,
    /// A transaction was given up before it was proposed.
    Aborted,
    /// The request has the id of another one, and changed nothing.
    OtherRequest,
    /// Nobody leads, or this node stops; nothing was proposed.
    Unavailable,
    /// Another member leads, and the command may not be forwarded; nothing was proposed.
    NotLeader,
    /// A bound on work under way is reached; nothing was proposed.
    Busy,
    /// The disk of the log is full; nothing was proposed.
    NoSpace,
    /// Keys and values take all the memory that they may; nothing was proposed.
    Full,
    /// This member cannot answer, though the request is right: its copy is damaged.
    Fault,
    /// The command was applied once or not at all.
    Unknown,
}

impl FailureClass {
    /// Every class, those first that a client meets first.
    pub const ALL: [FailureClass; 16] = [
        FailureClass::Wrong,
        FailureClass::TooLarge,
        FailureClass::Refused,
        FailureClass::NoToken,
        FailureClass::Unauthenticated,
        FailureClass::Forbidden,
        FailureClass::ProtocolVersion,
        FailureClass::Aborted,
        FailureClass::OtherRequest,
        FailureClass::Unavailable,
        FailureClass::NotLeader,
        FailureClass::Busy,
        FailureClass::NoSpace,
        FailureClass::Full,
        FailureClass::Fault,
        FailureClass::Unknown,
    ];
}

impl Failure {
    /// What kind of failure it is.
    pub fn class(&self) -> FailureClass {
        match self {
            Failure::NoLeader { .. } | Failure::Stopping => FailureClass::Unavailable,
            Failure::NotLeader { .. } => FailureClass::NotLeader,
            Failure::NoSpace => FailureClass::NoSpace,
            Failure::Full { .. } => FailureClass::Full,
            Failure::Busy { .. } => FailureClass::Busy,
            Failure::Refused(refusal) => refusal.class(),
            Failure::Damaged { .. } => FailureClass::Fault,
            Failure::Unknown { .. } => FailureClass::Unknown,
        }
    }
}

impl Refusal {
    /// What kind of failure it is for whoever asked.
    pub fn class(&self) -> FailureClass {
        match self {
            Refusal::NotAnInteger
            | Refusal::Overflow
            | Refusal::OutOfRange { .. }
            | Refusal::ReservedChannel => FailureClass::Wrong,
            Refusal::TooLarge { .. } => FailureClass::TooLarge,
            Refusal::Logger => FailureClass::Refused,
            Refusal::OtherRequest { .. } => FailureClass::OtherRequest,
        }
    }
}
