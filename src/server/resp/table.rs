//! The commands that are served: names, arities, and what COMMAND says about them. Pure.

use super::refused::Complaint;
use crate::command::OPERATION_COUNT_MAX;

/// What a command is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `APPEND key value`
    Append,
    /// `AUTH [user] password`
    Auth,
    /// `CLIENT ...`
    Client,
    /// `CLUSTER ...`
    Cluster,
    /// `COMMAND ...`
    Command,
    /// `CONFIG ...`
    Config,
    /// `DBSIZE`
    DbSize,
    /// `DECR key`
    Decr,
    /// `DECRBY key number`
    DecrBy,
    /// `DEL key...`, `UNLINK key...`
    Del,
    /// `DELIFEQ key value`
    DelIfEqual,
    /// `DISCARD`
    Discard,
    /// `DISKSTORE STATUS`, `DISKSTORE REMOVE member`
    Diskstore,
    /// `ECHO text`
    Echo,
    /// `EXEC`
    Exec,
    /// `EXISTS key...`, `TOUCH key...`
    Exists,
    /// `GET key`
    Get,
    /// `GETDEL key`
    GetDel,
    /// `GETEX key`
    GetEx,
    /// `GETRANGE key first last`, `SUBSTR`
    GetRange,
    /// `GETSET key value`
    GetSet,
    /// `HELLO ...`
    Hello,
    /// `INCR key`
    Incr,
    /// `INCRBY key number`
    IncrBy,
    /// `INFO [section...]`
    Info,
    /// `LASTSAVE`
    LastSave,
    /// `LATENCY ...`
    Latency,
    /// `MEMORY ...`
    Memory,
    /// `OBJECT ENCODING key` and the like
    Object,
    /// `MGET key...`
    MGet,
    /// `MSET key value...`
    MSet,
    /// `MULTI`
    Multi,
    /// `PERSIST key`
    Persist,
    /// `PING [text]`
    Ping,
    /// `QUIT`
    Quit,
    /// `RANDOMKEY`
    RandomKey,
    /// `READONLY`
    ReadOnly,
    /// `READWRITE`
    ReadWrite,
    /// `RESET`
    Reset,
    /// `ROLE`
    Role,
    /// `SCAN cursor ...`
    Scan,
    /// `SELECT number`
    Select,
    /// `SET key value ...`
    Set,
    /// `SETNX key value`
    SetNx,
    /// `SETRANGE key offset value`
    SetRange,
    /// `SLOWLOG ...`
    SlowLog,
    /// `STRLEN key`
    StrLen,
    /// `TIME`
    Time,
    /// `TTL key` and its kin: there is never a time to live
    Ttl,
    /// `TYPE key`
    Type,
    /// `UNWATCH`
    Unwatch,
    /// `WAIT members ms`
    Wait,
    /// `WAITAOF own members ms`
    WaitAof,
    /// `WATCH key`
    Watch,
}

/// How a command goes about the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reads slots.
    Read,
    /// Writes slots.
    Write,
    /// Neither.
    None,
}

/// One name of a command.
#[derive(Debug)]
pub(crate) struct Spec {
    /// The name in small letters.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) verb: Verb,
    /// Arguments, the name included; negative: at least so many.
    pub(crate) arity: i8,
    /// What it does to data.
    pub(crate) data: Use,
    /// Position of the first key, of the last (negative: from the end) and the step; 0 = no key.
    pub(crate) keys: (i8, i8, i8),
    /// One sentence.
    pub(crate) summary: &'static str,
}

impl Spec {
    /// Checks the number of arguments, the name included, and of keys among them.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn check(&self, count: usize) -> Result<(), Complaint> {
        let needed = usize::from(self.arity.unsigned_abs());
        let fits = if self.arity < 0 { count >= needed } else { count == needed };
        let (_, last_key, step) = self.keys;
        // A list of keys, or of keys with their values, up to the end.
        let step = if last_key < 0 { usize::from(step.unsigned_abs()) } else { 1 };
        let list = count.saturating_sub(1);
        if !fits || !list.is_multiple_of(step) {
            return Err(Complaint::arity(self.name));
        }
        if last_key < 0 && list / step > OPERATION_COUNT_MAX {
            let text = format!("ERR one command takes at most {OPERATION_COUNT_MAX} keys");
            return Err(Complaint::new(text));
        }
        Ok(())
    }
}

impl Spec {
    /// The categories of Redis' access lists that the command belongs to.
    pub(crate) fn categories(&self) -> &'static [&'static str] {
        match self.verb {
            Verb::Get | Verb::GetRange | Verb::MGet | Verb::StrLen => &["read", "string", "fast"],
            Verb::Exists | Verb::Ttl | Verb::Type | Verb::DbSize => &["keyspace", "read", "fast"],
            Verb::Scan | Verb::RandomKey | Verb::Object => &["keyspace", "read", "slow"],
            Verb::Memory => &["read", "slow"],
            Verb::Del | Verb::Persist => &["keyspace", "write", "fast"],
            Verb::Append
            | Verb::Decr
            | Verb::DecrBy
            | Verb::DelIfEqual
            | Verb::GetDel
            | Verb::GetEx
            | Verb::GetSet
            | Verb::Incr
            | Verb::IncrBy
            | Verb::MSet
            | Verb::Set
            | Verb::SetNx
            | Verb::SetRange => &["write", "string", "fast"],
            Verb::Multi | Verb::Exec | Verb::Discard | Verb::Watch | Verb::Unwatch => {
                &["transaction", "fast"]
            }
            Verb::Config | Verb::Diskstore | Verb::LastSave | Verb::Latency | Verb::SlowLog => {
                &["admin", "slow", "dangerous"]
            }
            Verb::Info | Verb::Role => &["slow", "dangerous"],
            Verb::Cluster | Verb::Command | Verb::Time | Verb::Wait | Verb::WaitAof => &["slow"],
            Verb::Auth
            | Verb::Client
            | Verb::Echo
            | Verb::Hello
            | Verb::Ping
            | Verb::Quit
            | Verb::ReadOnly
            | Verb::ReadWrite
            | Verb::Reset
            | Verb::Select => &["connection", "fast"],
        }
    }

    /// The keys among the arguments of a whole request, its name first.
    ///
    /// # Errors
    /// What COMMAND GETKEYS says: there are none, or the request is not whole.
    pub(crate) fn keys_of<'a>(&self, request: &'a [&'a [u8]]) -> Result<&'a [&'a [u8]], Complaint> {
        const NONE: Complaint = Complaint::of("ERR The command has no key arguments");
        const WRONG: Complaint =
            Complaint::of("ERR Invalid number of arguments specified for command");
        self.check(request.len()).map_err(|_| WRONG)?;
        let (first, last) = match (self.verb, self.keys) {
            (Verb::Memory | Verb::Object, _) => (2, 2),
            (_, (first, last, _)) => (first, last),
        };
        if first == 0 {
            return Err(NONE);
        }
        let first = usize::from(first.unsigned_abs());
        let behind = if last < 0 { request.len() } else { usize::from(last.unsigned_abs()) + 1 };
        request.get(first..behind).ok_or(WRONG)
    }
}

const NO_KEY: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);
const PAIRS: (i8, i8, i8) = (1, -1, 2);

const fn spec(
    name: &'static str,
    verb: Verb,
    arity: i8,
    keyed: (Use, (i8, i8, i8)),
    summary: &'static str,
) -> Spec {
    Spec { name, verb, arity, data: keyed.0, keys: keyed.1, summary }
}

const PLAIN: (Use, (i8, i8, i8)) = (Use::None, NO_KEY);
const READ: (Use, (i8, i8, i8)) = (Use::Read, ONE);
const READ_ALL: (Use, (i8, i8, i8)) = (Use::Read, ALL);
const WRITE: (Use, (i8, i8, i8)) = (Use::Write, ONE);
const WRITE_ALL: (Use, (i8, i8, i8)) = (Use::Write, ALL);

/// All names, in the order of the alphabet.
pub(crate) const TABLE: &[Spec] = &[
    spec("append", Verb::Append, 3, WRITE, "Adds bytes at the end of a value."),
    spec("auth", Verb::Auth, -2, PLAIN, "Authenticates; no password is configured."),
    spec("client", Verb::Client, -2, PLAIN, "Names and lists connections."),
    spec("cluster", Verb::Cluster, -2, PLAIN, "Describes the members."),
    spec("command", Verb::Command, -1, PLAIN, "Describes the commands."),
    spec("config", Verb::Config, -2, PLAIN, "Reads settings."),
    spec("dbsize", Verb::DbSize, 1, PLAIN, "Counts the keys that hold a value."),
    spec("decr", Verb::Decr, 2, WRITE, "Takes one from a number."),
    spec("decrby", Verb::DecrBy, 3, WRITE, "Takes from a number."),
    spec("del", Verb::Del, -2, WRITE_ALL, "Deletes values."),
    spec("delifeq", Verb::DelIfEqual, 3, WRITE, "Deletes a value if it is the given one."),
    spec("discard", Verb::Discard, 1, PLAIN, "Gives a transaction up."),
    spec("diskstore", Verb::Diskstore, -2, PLAIN, "Answers this node's status; removes a member."),
    spec("echo", Verb::Echo, 2, PLAIN, "Answers its argument."),
    spec("exec", Verb::Exec, 1, PLAIN, "Executes a transaction as one log entry."),
    spec("exists", Verb::Exists, -2, READ_ALL, "Counts the keys that hold a value."),
    spec("expiretime", Verb::Ttl, 2, READ, "Says that a value does not expire."),
    spec("get", Verb::Get, 2, READ, "Reads a value."),
    spec("getdel", Verb::GetDel, 2, WRITE, "Reads a value and deletes it."),
    spec("getex", Verb::GetEx, -2, READ, "Reads a value; there is no expiry to set."),
    spec("getrange", Verb::GetRange, 4, READ, "Reads a part of a value."),
    spec("getset", Verb::GetSet, 3, WRITE, "Sets a value and answers the one before."),
    spec("hello", Verb::Hello, -1, PLAIN, "Agrees on the version of the protocol."),
    spec("incr", Verb::Incr, 2, WRITE, "Adds one to a number."),
    spec("incrby", Verb::IncrBy, 3, WRITE, "Adds to a number."),
    spec("info", Verb::Info, -1, PLAIN, "Describes this node."),
    spec("lastsave", Verb::LastSave, 1, PLAIN, "Answers when a checkpoint was last written."),
    spec("latency", Verb::Latency, -2, PLAIN, "Answers that no events are kept."),
    spec("memory", Verb::Memory, -2, PLAIN, "Answers the bytes that a key takes."),
    spec("mget", Verb::MGet, -2, READ_ALL, "Reads values, all at one moment."),
    spec("mset", Verb::MSet, -3, (Use::Write, PAIRS), "Sets values, all in one log entry."),
    spec("multi", Verb::Multi, 1, PLAIN, "Begins a transaction."),
    spec("object", Verb::Object, -2, PLAIN, "Answers how a value is held."),
    spec("persist", Verb::Persist, 2, READ, "Answers 0: a value does not expire."),
    spec("pexpiretime", Verb::Ttl, 2, READ, "Says that a value does not expire."),
    spec("ping", Verb::Ping, -1, PLAIN, "Answers PONG, or its argument."),
    spec("pttl", Verb::Ttl, 2, READ, "Says that a value does not expire."),
    spec("quit", Verb::Quit, -1, PLAIN, "Closes the connection."),
    spec("randomkey", Verb::RandomKey, 1, PLAIN, "Answers a key that holds a value."),
    spec("readonly", Verb::ReadOnly, 1, PLAIN, "Reads this replica from now on."),
    spec("readwrite", Verb::ReadWrite, 1, PLAIN, "Reads as the node is set to again."),
    spec("reset", Verb::Reset, 1, PLAIN, "Puts the connection back to its beginning."),
    spec("role", Verb::Role, 1, PLAIN, "Answers the role of this node."),
    spec("scan", Verb::Scan, -2, PLAIN, "Lists keys that hold a value, step by step."),
    spec("select", Verb::Select, 2, PLAIN, "Selects database 0, the only one."),
    spec("set", Verb::Set, -3, WRITE, "Sets a value."),
    spec("setnx", Verb::SetNx, 3, WRITE, "Sets a value if there is none."),
    spec("setrange", Verb::SetRange, 4, WRITE, "Overwrites a part of a value."),
    spec("slowlog", Verb::SlowLog, -2, PLAIN, "Answers that no slow commands are kept."),
    spec("strlen", Verb::StrLen, 2, READ, "Answers the length of a value."),
    spec("substr", Verb::GetRange, 4, READ, "Reads a part of a value."),
    spec("time", Verb::Time, 1, PLAIN, "Answers the time of this node."),
    spec("touch", Verb::Exists, -2, READ_ALL, "Counts the keys that hold a value."),
    spec("ttl", Verb::Ttl, 2, READ, "Says that a value does not expire."),
    spec("type", Verb::Type, 2, READ, "Answers the type of a value: string or none."),
    spec("unlink", Verb::Del, -2, WRITE_ALL, "Deletes values."),
    spec("unwatch", Verb::Unwatch, 1, PLAIN, "Forgets the watched key."),
    spec("wait", Verb::Wait, 3, PLAIN, "Waits until other members hold the last write durably."),
    spec("waitaof", Verb::WaitAof, 4, PLAIN, "Waits as WAIT does, for this node's disk too."),
    spec("watch", Verb::Watch, -2, (Use::None, ALL), "Makes a transaction depend on its key."),
];

/// Longest name that is looked up.
const NAME_BYTES_MAX: usize = 16;

/// The command of a name, in any case.
pub(crate) fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let position = TABLE.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    TABLE.get(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for spec in TABLE {
            assert!(spec.name.len() <= NAME_BYTES_MAX);
            let found = lookup(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
        }
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(lookup(b"").is_none());
        assert!(lookup(b"a_name_that_is_far_too_long").is_none());
    }

    #[test]
    fn no_command_is_both_served_and_refused() {
        for spec in TABLE {
            let name = spec.name.to_ascii_uppercase();
            assert_eq!(super::super::refused::reason(&name), None, "{name}");
        }
    }

    #[test]
    fn arities_are_exact_or_least_and_pairs_are_whole() {
        let complaint = |name: &str, count| lookup(name.as_bytes()).unwrap().check(count).err();
        for (name, right, wrong) in [("get", 2, 3), ("del", 9, 1), ("mset", 5, 4), ("ping", 1, 0)] {
            assert_eq!(complaint(name, right), None, "{name}");
            assert_eq!(complaint(name, wrong), Some(Complaint::arity(name)));
        }
        let most = OPERATION_COUNT_MAX;
        for (name, count) in [("mget", most + 1), ("exists", most + 1), ("mset", 2 * most + 1)] {
            assert_eq!(complaint(name, count), None, "{name}");
            let Complaint(text) = complaint(name, count + 2).unwrap();
            assert_eq!(text, "ERR one command takes at most 4096 keys", "{name}");
        }
    }
}
