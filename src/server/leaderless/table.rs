//! The commands that a leaderless node takes, and those of Redis that it refuses, with the reason. Data.
//!
//! Called by `commands`.

/// Why commands of the rows below are refused.
pub(super) const ORDER: &str = "it needs an order that leaderless mode does not keep; use kvstore";
pub(super) const EXPIRY: &str = "values do not expire";
const LISTING: &str = "it would answer all keys at once; use SCAN";
const WHOLE: &str = "there is no order in which everything could go; delete the keys";
/// Commands of Redis that are refused, and why.
pub(super) const REFUSED: [(&str, &[&str]); 4] = [
    (
        ORDER,
        &[
            "SETNX",
            "MSETNX",
            "GETSET",
            "GETDEL",
            "INCR",
            "INCRBY",
            "INCRBYFLOAT",
            "DECR",
            "DECRBY",
            "APPEND",
            "SETRANGE",
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH",
            "UNWATCH",
            "EVAL",
            "EVALSHA",
            "RENAME",
            "RENAMENX",
            "COPY",
            "LPUSH",
            "RPUSH",
            "SADD",
            "HSET",
            "ZADD",
            "XADD",
            "PUBLISH",
            "SUBSCRIBE",
            "PSUBSCRIBE",
        ],
    ),
    (EXPIRY, &["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "SETEX", "PSETEX", "GETEX"]),
    (LISTING, &["KEYS"]),
    (WHOLE, &["FLUSHALL", "FLUSHDB"]),
];
/// Options of SET that are conditions, or answer what was there before.
pub(super) const CONDITIONS: [&str; 7] = ["NX", "XX", "GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"];

/// A command as COMMAND describes it.
pub(super) struct CommandRow {
    pub(super) name: &'static str,
    /// As in Redis: with the name, and negative for "at least".
    pub(super) arity: i64,
    /// Where its keys are: the first, the last (negative from the end), and every how many.
    pub(super) keys: [i64; 3],
    pub(super) writes: bool,
}

const fn row(name: &'static str, arity: i64, keys: [i64; 3]) -> CommandRow {
    CommandRow { name, arity, keys, writes: false }
}

const fn writing(name: &'static str, arity: i64, keys: [i64; 3]) -> CommandRow {
    CommandRow { name, arity, keys, writes: true }
}

/// All commands.
pub(super) const ROWS: [CommandRow; 26] = [
    row("GET", 2, [1, 1, 1]),
    writing("SET", -3, [1, 1, 1]),
    writing("DEL", -2, [1, -1, 1]),
    writing("UNLINK", -2, [1, -1, 1]),
    row("EXISTS", -2, [1, -1, 1]),
    row("STRLEN", 2, [1, 1, 1]),
    row("MGET", -2, [1, -1, 1]),
    writing("MSET", -3, [1, -1, 2]),
    row("SCAN", -2, [0, 0, 0]),
    row("DBSIZE", 1, [0, 0, 0]),
    row("LEVEL", -1, [0, 0, 0]),
    row("DISKSTORE", -2, [0, 0, 0]),
    row("PING", -1, [0, 0, 0]),
    row("ECHO", 2, [0, 0, 0]),
    row("HELLO", -1, [0, 0, 0]),
    row("AUTH", -2, [0, 0, 0]),
    row("SELECT", 2, [0, 0, 0]),
    row("CLIENT", -2, [0, 0, 0]),
    row("COMMAND", -1, [0, 0, 0]),
    row("CONFIG", -2, [0, 0, 0]),
    row("CLUSTER", -2, [0, 0, 0]),
    row("INFO", -1, [0, 0, 0]),
    row("TYPE", 2, [1, 1, 1]),
    row("READONLY", 1, [0, 0, 0]),
    row("RESET", 1, [0, 0, 0]),
    row("QUIT", 1, [0, 0, 0]),
];
