//! Commands of Redis that are refused, with the reason. Pure.

const EXPIRY: &str = "values do not expire";
const CHANNELS: &str = "every node has all channels; use SUBSCRIBE and PUBLISH";
const SPYING: &str = "nobody is told what others ask";
const SCRIPTS: &str = "there are no scripts; MULTI and EXEC make one entry";
const TYPES: &str = "a key holds one string of bytes, there are no other types";
const OTHER_KEY: &str = "a condition on another key cannot be part of an entry";
const MOVES: &str = "a value cannot be taken from another key";
const WHOLE: &str = "everything cannot be deleted as one entry; delete the keys";
const BLOCKING: &str = "a connection does not wait for a key";
const MANAGED: &str = "every node is run by its own flags and signals";
const LISTING: &str = "it would answer all keys at once; use SCAN";

/// Commands of Redis that are refused, and why; the names in capitals.
pub(super) const REFUSED: &[(&str, &[&str])] = &[
    (
        EXPIRY,
        &["EXPIRE", "EXPIREAT", "PEXPIRE", "PEXPIREAT", "SETEX", "PSETEX", "HEXPIRE", "HPEXPIRE"],
    ),
    (CHANNELS, &["SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH"]),
    (SPYING, &["MONITOR"]),
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
    fn refused_commands_have_one_reason_each() {
        assert_eq!(reason("EXPIRE"), Some(EXPIRY));
        assert_eq!(reason("MSETNX"), Some(OTHER_KEY));
        assert_eq!(reason("FOO"), None);
        let mut names = REFUSED.iter().flat_map(|(_, names)| *names).collect::<Vec<_>>();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
