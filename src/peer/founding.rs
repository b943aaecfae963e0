//! What nodes without a cluster ask each other whose files list the same members, as bytes
//! (`docs/format.md`, "Peer frames"). Pure.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};

use super::frames::REASON_BYTES_MAX;
use super::member::{MEMBER_COUNT_MAX, Member, NAME_BYTES_MAX, decode_member, encode_member};
use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};

/// What a node is about to found: what its file and its flags say. Nodes with other ones do not found
/// together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of slots.
    pub slot_count: u64,
    /// Most bytes of a value.
    pub value_bytes: u32,
    /// All members, in the order of their names.
    pub members: Vec<Planned>,
}

/// A member of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub raft_address: String,
}

/// A cluster that may be founded, with the members that vote in it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charter {
    /// A random number.
    pub cluster_id: u128,
    /// The members.
    pub members: Vec<Founder>,
}

/// A member of a charter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// Its id, which it drew itself.
    pub id: u64,
    /// Its record.
    pub member: Member,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundingStep {
    /// Who are you?
    Look,
    /// Accept nothing with a lower number from now on.
    Prepare(u64),
    /// Accept this.
    Accept {
        /// The number of the proposal.
        number: u64,
        /// What is proposed.
        charter: Charter,
    },
}

/// The question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingQuestion {
    /// What the asking node's file says.
    pub plan: Plan,
    /// What it asks.
    pub step: FoundingStep,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundingAnswer {
    /// This node founds nothing together with the asking one; why.
    Other(String),
    /// A node that may found a cluster with it.
    Blank {
        /// Whether it did what was asked.
        is_granted: bool,
        /// What it would be as a member.
        founder: Founder,
        /// The lowest number that it may still accept.
        promised: u64,
        /// What it accepted last, and under which number.
        accepted: Option<(u64, Charter)>,
    },
}

impl Plan {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.slot_count);
        out.put_u32_le(self.value_bytes);
        put_count(out, self.members.len());
        for Planned { name, raft_address } in &self.members {
            put_string(out, name);
            put_string(out, raft_address);
        }
    }

    fn read(cursor: &mut Cursor) -> Result<Plan, DecodeError> {
        let (slot_count, value_bytes) = (cursor.u64()?, cursor.u32()?);
        let count = cursor.count_u16(MEMBER_COUNT_MAX, "too many members")?;
        let member = |cursor: &mut Cursor| {
            let name = cursor.string(NAME_BYTES_MAX)?;
            Ok(Planned { name, raft_address: cursor.string(NAME_BYTES_MAX)? })
        };
        let members = (0..count).map(|_| member(cursor)).collect::<Result<_, _>>()?;
        Ok(Plan { slot_count, value_bytes, members })
    }
}

impl Founder {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.id);
        encode_member(&self.member, out);
    }

    fn read(cursor: &mut Cursor) -> Result<Founder, DecodeError> {
        Ok(Founder { id: cursor.u64()?, member: decode_member(cursor)? })
    }
}

impl Charter {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u128_le(self.cluster_id);
        put_count(out, self.members.len());
        for founder in &self.members {
            founder.put(out);
        }
    }

    fn read(cursor: &mut Cursor) -> Result<Charter, DecodeError> {
        let cluster_id = cursor.u128()?;
        let count = cursor.count_u16(MEMBER_COUNT_MAX, "too many members")?;
        let members = (0..count).map(|_| Founder::read(cursor)).collect::<Result<_, _>>()?;
        Ok(Charter { cluster_id, members })
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The bytes are not what they should be; so everywhere below.
    pub fn decode(body: Bytes) -> Result<Charter, DecodeError> {
        let mut cursor = Cursor::new(body);
        let charter = Charter::read(&mut cursor)?;
        cursor.finish()?;
        Ok(charter)
    }
}

impl FoundingQuestion {
    /// Lays it out.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.plan.put(&mut out);
        match &self.step {
            FoundingStep::Look => out.put_u8(0),
            FoundingStep::Prepare(number) => {
                out.put_u8(1);
                out.put_u64_le(*number);
            }
            FoundingStep::Accept { number, charter } => {
                out.put_u8(2);
                out.put_u64_le(*number);
                charter.put(&mut out);
            }
        }
        out
    }

    /// Reads it back.
    ///
    /// # Errors
    /// As [`Charter::decode`].
    pub fn decode(body: Bytes) -> Result<FoundingQuestion, DecodeError> {
        let mut cursor = Cursor::new(body);
        let plan = Plan::read(&mut cursor)?;
        let step = match cursor.u8()? {
            0 => FoundingStep::Look,
            1 => FoundingStep::Prepare(cursor.u64()?),
            2 => {
                let number = cursor.u64()?;
                FoundingStep::Accept { number, charter: Charter::read(&mut cursor)? }
            }
            _ => return Err(cursor.error("unknown step of a founding")),
        };
        cursor.finish()?;
        Ok(FoundingQuestion { plan, step })
    }
}

impl FoundingAnswer {
    /// Lays it out.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            FoundingAnswer::Other(reason) => {
                out.put_u8(0);
                let end = reason.floor_char_boundary(REASON_BYTES_MAX);
                put_string(&mut out, reason.get(..end).unwrap_or_default());
            }
            FoundingAnswer::Blank { is_granted, founder, promised, accepted } => {
                out.put_u8(1);
                out.put_u8(u8::from(*is_granted));
                founder.put(&mut out);
                out.put_u64_le(*promised);
                out.put_u8(u8::from(accepted.is_some()));
                if let Some((number, charter)) = accepted {
                    out.put_u64_le(*number);
                    charter.put(&mut out);
                }
            }
        }
        out
    }

    /// Reads it back.
    ///
    /// # Errors
    /// As [`Charter::decode`].
    pub fn decode(body: Bytes) -> Result<FoundingAnswer, DecodeError> {
        let mut cursor = Cursor::new(body);
        let answer = match cursor.u8()? {
            0 => FoundingAnswer::Other(cursor.string(REASON_BYTES_MAX)?),
            1 => {
                let is_granted = cursor.boolean()?;
                let founder = Founder::read(&mut cursor)?;
                let promised = cursor.u64()?;
                let accepted = if cursor.boolean()? {
                    Some((cursor.u64()?, Charter::read(&mut cursor)?))
                } else {
                    None
                };
                FoundingAnswer::Blank { is_granted, founder, promised, accepted }
            }
            _ => return Err(cursor.error("unknown answer to a founding")),
        };
        cursor.finish()?;
        Ok(answer)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u16_le(u16::try_from(count).expect("invariant: a file lists few members"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founder(name: &str) -> Founder {
        let (name, raft_address) = (name.to_owned(), "h:1".to_owned());
        Founder { id: 7, member: Member { name, raft_address, ..Member::default() } }
    }

    fn plan() -> Plan {
        let (name, raft_address) = ("a".to_owned(), "h:1".to_owned());
        Plan { slot_count: 1, value_bytes: 2, members: vec![Planned { name, raft_address }] }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let charter = Charter { cluster_id: 5, members: vec![founder("a")] };
        let question = FoundingQuestion {
            plan: plan(),
            step: FoundingStep::Accept { number: 3, charter: charter.clone() },
        };
        let mut golden = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0, b'a', 3, 0];
        golden.extend_from_slice(b"h:1");
        golden.extend_from_slice(&[2, 3, 0, 0, 0, 0, 0, 0, 0]);
        let mut chartered = vec![5];
        chartered.extend_from_slice(&[0; 15]);
        chartered.extend_from_slice(&[1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'a', 3, 0]);
        chartered.extend_from_slice(b"h:1");
        chartered.extend_from_slice(&[0, 0, 0]);
        golden.extend_from_slice(&chartered);
        assert_eq!(question.encode(), golden);
        let (is_granted, accepted) = (true, Some((2, charter)));
        let answer =
            FoundingAnswer::Blank { is_granted, founder: founder("a"), promised: 3, accepted };
        let mut golden = vec![1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'a', 3, 0];
        golden.extend_from_slice(b"h:1");
        golden.extend_from_slice(&[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&chartered);
        assert_eq!(answer.encode(), golden);
    }

    #[test]
    fn what_is_laid_out_is_read_back_and_nothing_shorter() {
        let charter = Charter { cluster_id: 5, members: vec![founder("a"), founder("b")] };
        let steps = [
            FoundingStep::Look,
            FoundingStep::Prepare(9),
            FoundingStep::Accept { number: 3, charter: charter.clone() },
        ];
        for step in steps {
            let question = FoundingQuestion { plan: plan(), step };
            let bytes = Bytes::from(question.encode());
            assert_eq!(FoundingQuestion::decode(bytes.clone()), Ok(question));
            for end in 0..bytes.len() {
                assert!(FoundingQuestion::decode(bytes.slice(..end)).is_err());
            }
        }
        let blank = |accepted| {
            let founder = founder("a");
            FoundingAnswer::Blank { is_granted: false, founder, promised: 1, accepted }
        };
        for answer in [FoundingAnswer::Other("no".into()), blank(None), blank(Some((2, charter)))] {
            let bytes = Bytes::from(answer.encode());
            assert_eq!(FoundingAnswer::decode(bytes.clone()), Ok(answer));
            for end in 0..bytes.len() {
                assert!(FoundingAnswer::decode(bytes.slice(..end)).is_err());
            }
        }
    }
}
