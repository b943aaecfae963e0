//! The request to join a cluster, and its answer, as bytes (`docs/format.md`, "Peer frames"). Pure.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};

use super::frames::REASON_BYTES_MAX;
use super::member::{Member, decode_member, encode_member};
use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};

/// Most bytes of a join token.
const TOKEN_BYTES_MAX: usize = 256;

/// A join token as it is presented. It is in no message and no log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinToken(String);

impl JoinToken {
    /// This text; none at all if it is empty.
    pub fn new(text: String) -> JoinToken {
        JoinToken(text)
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_empty() { "no token" } else { "JoinToken(..)" })
    }
}

/// What a member that wants to join says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// False to ask for the cluster's id and geometry only.
    pub is_final: bool,
    /// True if the request comes from the member that it is about. This is believed only of members:
    /// of that member itself, or of one that had its hello confirmed and passes the request on.
    pub is_own: bool,
    /// The member id that it drew.
    pub member_id: u64,
    /// Its record.
    pub member: Member,
    /// The cluster that it believes it joins; 0 if it does not know yet.
    pub cluster_id: u128,
    /// What lets it in, where that is asked for.
    pub token: JoinToken,
}

/// What a joiner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinReply {
    /// Go ahead: this is the cluster, and its geometry.
    Accepted {
        /// The cluster.
        cluster_id: u128,
        /// Number of slots.
        slot_count: u64,
        /// Most bytes of a value.
        value_bytes: u32,
    },
    /// Not now; ask again.
    Later(String),
    /// Never, for this reason.
    Refused(String),
}

impl JoinRequest {
    /// Asks which cluster this is, in nobody's name.
    pub fn question(member: Member) -> JoinRequest {
        JoinRequest {
            is_final: false,
            is_own: false,
            member_id: 0,
            member,
            cluster_id: 0,
            token: JoinToken::default(),
        }
    }

    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.is_final));
        out.put_u8(u8::from(self.is_own));
        out.put_u64_le(self.member_id);
        out.put_u128_le(self.cluster_id);
        encode_member(&self.member, out);
        // Members of older versions read no further than this.
        if !self.token.0.is_empty() {
            put_string(out, &self.token.0);
        }
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<JoinRequest, DecodeError> {
        let mut cursor = Cursor::new(body);
        let is_final = cursor.boolean()?;
        let is_own = cursor.boolean()?;
        let member_id = cursor.u64()?;
        let cluster_id = cursor.u128()?;
        let member = decode_member(&mut cursor)?;
        let mut token = JoinToken::default();
        if cursor.finish().is_err() {
            token.0 = cursor.string(TOKEN_BYTES_MAX)?;
        }
        cursor.finish()?;
        Ok(JoinRequest { is_final, is_own, member_id, member, cluster_id, token })
    }
}

impl JoinReply {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            JoinReply::Accepted { cluster_id, slot_count, value_bytes } => {
                out.put_u8(0);
                out.put_u128_le(*cluster_id);
                out.put_u64_le(*slot_count);
                out.put_u32_le(*value_bytes);
            }
            JoinReply::Later(reason) => {
                out.put_u8(1);
                put_string(out, reason);
            }
            JoinReply::Refused(reason) => {
                out.put_u8(2);
                put_string(out, reason);
            }
        }
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<JoinReply, DecodeError> {
        let mut cursor = Cursor::new(body);
        let reply = match cursor.u8()? {
            0 => JoinReply::Accepted {
                cluster_id: cursor.u128()?,
                slot_count: cursor.u64()?,
                value_bytes: cursor.u32()?,
            },
            1 => JoinReply::Later(cursor.string(REASON_BYTES_MAX)?),
            2 => JoinReply::Refused(cursor.string(REASON_BYTES_MAX)?),
            _ => return Err(cursor.error("unknown answer to a join")),
        };
        cursor.finish()?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_bytes_and_no_token_is_shown() {
        let member = Member { name: "a".into(), ..Member::default() };
        let (is_final, is_own, member_id, cluster_id) = (true, false, 7, 9);
        for text in ["", "dsj_secret"] {
            let token = JoinToken::new(text.into());
            let member = member.clone();
            let request = JoinRequest { is_final, is_own, member_id, member, cluster_id, token };
            let mut out = Vec::new();
            request.put(&mut out);
            assert_eq!(JoinRequest::decode(out.clone().into()).unwrap(), request);
            assert!(!format!("{request:?}").contains("secret"), "{request:?}");
            let whole_without = 34; // a request without a token ends there
            for end in (0..out.len()).filter(|end| *end != whole_without) {
                let cut = Bytes::copy_from_slice(&out[..end]);
                assert!(JoinRequest::decode(cut).is_err(), "{text}, {end}");
            }
            out.push(0);
            assert!(JoinRequest::decode(out.into()).is_err());
        }
        let mut long = Vec::new();
        let token = JoinToken::new("x".repeat(TOKEN_BYTES_MAX + 1));
        JoinRequest { is_final, is_own, member_id, member, cluster_id, token }.put(&mut long);
        assert!(JoinRequest::decode(long.into()).is_err());
    }
}
