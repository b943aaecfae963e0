//! What clients are told: complaints in Redis' words, and commands refused with the reason. Pure.

use std::borrow::Cow;

use crate::command::{BuildError, Refusal};

/// Most bytes of one part of a request that a complaint repeats.
const QUOTE_BYTES_MAX: usize = 128;

/// Stands for the name of a request without arguments, of which the decoder makes none.
pub(crate) const NO_NAME: &[u8] = b"";

/// The text of an error reply, its code first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint(pub(crate) Cow<'static, str>);

impl Complaint {
    /// The request does not follow the command's syntax.
    pub(crate) const SYNTAX: Complaint = Complaint(Cow::Borrowed("ERR syntax error"));
    /// An argument that should be a number is none.
    pub(crate) const INTEGER: Complaint =
        Complaint(Cow::Borrowed("ERR value is not an integer or out of range"));

    /// A complaint in these very words.
    pub(crate) const fn of(text: &'static str) -> Complaint {
        Complaint(Cow::Borrowed(text))
    }

    /// A complaint in the given words.
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Complaint {
        Complaint(text.into())
    }

    /// The command is not known, with what followed it as Redis quotes it.
    pub(crate) fn unknown(arguments: &[&[u8]]) -> Complaint {
        let (name, rest) = arguments.split_first().unwrap_or((&NO_NAME, &[]));
        let mut text = format!("ERR unknown command '{}', with args beginning with: ", quote(name));
        let bytes_max = text.len() + QUOTE_BYTES_MAX;
        for argument in rest {
            if text.len() >= bytes_max {
                break;
            }
            text.extend(["'", &quote(argument), "' "]);
        }
        Complaint::new(text)
    }

    /// The command has such sub-commands, but not this one.
    pub(crate) fn subcommand(command: &str, name: &[u8]) -> Complaint {
        let name = quote(name);
        Complaint::new(format!("ERR unknown subcommand '{name}' of {command}"))
    }

    /// CLIENT LIST TYPE of something else.
    pub(crate) fn unknown_client_type(name: &[u8]) -> Complaint {
        Complaint::new(format!("ERR Unknown client type '{}'", quote(name)))
    }

    /// Too few arguments, or too many.
    pub(crate) fn arity(command: &str) -> Complaint {
        Complaint::new(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// The command is known and refused.
    pub(crate) fn refused(what: &str, reason: &str) -> Complaint {
        Complaint::new(format!("ERR {what} is refused: {reason}"))
    }
}

impl From<Refusal> for Complaint {
    fn from(refusal: Refusal) -> Complaint {
        Complaint::new(format!("ERR {refusal}"))
    }
}

impl From<BuildError> for Complaint {
    fn from(error: BuildError) -> Complaint {
        Complaint::new(format!("ERR {error}"))
    }
}

/// A part of a request as text, cut and without what does not belong on a line.
fn quote(part: &[u8]) -> String {
    let (part, _) = part.split_at(part.len().min(QUOTE_BYTES_MAX));
    String::from_utf8_lossy(part).replace(|letter: char| letter.is_control(), " ")
}

const EXPIRY: &str = "values do not expire";
const CHANNELS: &str = "there is no publish and subscribe";
const SCRIPTS: &str = "there are no scripts; MULTI and EXEC make one entry";
const TYPES: &str = "a key holds one string of bytes, there are no other types";
const OTHER_KEY: &str = "a condition on another key cannot be part of an entry";
const MOVES: &str = "a value cannot be taken from another key";
const WHOLE: &str = "everything cannot be deleted as one entry; delete the keys";
const BLOCKING: &str = "a connection does not wait for a key";
const MANAGED: &str = "every node is run by its own flags and signals";
const LISTING: &str = "it would answer all keys at once; use SCAN";

/// Commands of Redis that are refused, and why; the names in capitals.
const REFUSED: &[(&str, &[&str])] = &[
    (
        EXPIRY,
        &["EXPIRE", "EXPIREAT", "PEXPIRE", "PEXPIREAT", "SETEX", "PSETEX", "HEXPIRE", "HPEXPIRE"],
    ),
    (
        CHANNELS,
        &[
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "PSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SSUBSCRIBE",
            "SUNSUBSCRIBE",
            "PUBLISH",
            "SPUBLISH",
            "PUBSUB",
            "MONITOR",
        ],
    ),
    (
        SCRIPTS,
        &[
            "EVAL",
            "EVALSHA",
            "EVAL_RO",
            "EVALSHA_RO",
            "SCRIPT",
            "FUNCTION",
            "FCALL",
            "FCALL_RO",
            "MODULE",
        ],
    ),
    (
        TYPES,
        &[
            "HSET",
            "HSETNX",
            "HGET",
            "HDEL",
            "HGETALL",
            "HMSET",
            "HMGET",
            "HINCRBY",
            "HINCRBYFLOAT",
            "HLEN",
            "HKEYS",
            "HVALS",
            "HEXISTS",
            "HSCAN",
            "HSTRLEN",
            "HRANDFIELD",
            "LPUSH",
            "RPUSH",
            "LPUSHX",
            "RPUSHX",
            "LPOP",
            "RPOP",
            "LLEN",
            "LRANGE",
            "LINDEX",
            "LSET",
            "LREM",
            "LTRIM",
            "LINSERT",
            "LPOS",
            "LMOVE",
            "LMPOP",
            "RPOPLPUSH",
            "SADD",
            "SREM",
            "SMEMBERS",
            "SISMEMBER",
            "SMISMEMBER",
            "SCARD",
            "SPOP",
            "SRANDMEMBER",
            "SINTER",
            "SUNION",
            "SDIFF",
            "SINTERSTORE",
            "SUNIONSTORE",
            "SDIFFSTORE",
            "SINTERCARD",
            "SMOVE",
            "SSCAN",
            "ZADD",
            "ZREM",
            "ZSCORE",
            "ZMSCORE",
            "ZRANK",
            "ZREVRANK",
            "ZRANGE",
            "ZRANGESTORE",
            "ZRANGEBYSCORE",
            "ZREVRANGE",
            "ZREVRANGEBYSCORE",
            "ZRANGEBYLEX",
            "ZCARD",
            "ZCOUNT",
            "ZINCRBY",
            "ZPOPMIN",
            "ZPOPMAX",
            "ZSCAN",
            "ZUNION",
            "ZINTER",
            "ZDIFF",
            "ZUNIONSTORE",
            "ZINTERSTORE",
            "ZREMRANGEBYRANK",
            "ZREMRANGEBYSCORE",
            "ZRANDMEMBER",
            "XADD",
            "XLEN",
            "XRANGE",
            "XREVRANGE",
            "XREAD",
            "XREADGROUP",
            "XGROUP",
            "XACK",
            "XDEL",
            "XTRIM",
            "XINFO",
            "XPENDING",
            "XCLAIM",
            "XAUTOCLAIM",
            "SETBIT",
            "GETBIT",
            "BITCOUNT",
            "BITPOS",
            "BITOP",
            "BITFIELD",
            "BITFIELD_RO",
            "PFADD",
            "PFCOUNT",
            "PFMERGE",
            "GEOADD",
            "GEOPOS",
            "GEODIST",
            "GEOHASH",
            "GEOSEARCH",
            "GEORADIUS",
            "INCRBYFLOAT",
            "SORT",
            "SORT_RO",
            "JSON.SET",
            "JSON.GET",
        ],
    ),
    (BLOCKING, &["BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX"]),
    (OTHER_KEY, &["MSETNX", "RENAMENX"]),
    (MOVES, &["RENAME", "COPY", "MOVE", "SWAPDB", "LCS", "DUMP", "RESTORE", "MIGRATE"]),
    (WHOLE, &["FLUSHALL", "FLUSHDB"]),
    (
        MANAGED,
        &[
            "SHUTDOWN",
            "REPLICAOF",
            "SLAVEOF",
            "FAILOVER",
            "SAVE",
            "BGSAVE",
            "BGREWRITEAOF",
            "DEBUG",
            "ACL",
            "PSYNC",
            "SYNC",
            "REPLCONF",
        ],
    ),
    (LISTING, &["KEYS"]),
];

/// Why a command of Redis is refused; `None` if it is no such command. `name` is in capitals.
pub(crate) fn reason(name: &str) -> Option<&'static str> {
    let group = REFUSED.iter().find(|(_, names)| names.contains(&name));
    group.map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_commands_are_named_in_the_words_of_redis() {
        let Complaint(text) = Complaint::unknown(&[b"foo\r\n", b"a", b"b c"]);
        assert_eq!(text, "ERR unknown command 'foo  ', with args beginning with: 'a' 'b c' ");
        let long = vec![b'x'; 10_000];
        let Complaint(text) = Complaint::unknown(&[&long, &long, &long, b"y"]);
        assert!(text.len() < 4 * QUOTE_BYTES_MAX, "{}", text.len());
    }

    #[test]
    fn refused_commands_have_one_reason_each() {
        assert_eq!(reason("EXPIRE"), Some(EXPIRY));
        assert_eq!(reason("MSETNX"), Some(OTHER_KEY));
        assert_eq!(reason("FOO"), None);
        let mut names = REFUSED.iter().flat_map(|(_, names)| *names).collect::<Vec<_>>();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
