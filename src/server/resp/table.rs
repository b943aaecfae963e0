//! The table of served commands: one row for each, with everything that differs from command to
//! command. Pure.
//!
//! A row has the name, the number of arguments, where the keys are, what the command does to data,
//! and the function that carries it out; `commands` has the rows, beside those functions. The
//! answers of COMMAND, the rules of transactions, the counters and `docs/commands.md` all come from
//! this table.
//!
//! Invariants, checked while this is compiled:
//! - I1: the rows are in the order of their names, no name stands twice, and every row is whole.

use super::commands;
use super::connection::{Connection, Step};
use super::draft::Draft;
use super::form::Form;
use crate::command::{OPERATION_COUNT_MAX, Refusal};
use crate::config::{MachineKind, row};
use crate::server::access::RequestKind;
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;

/// Adds what a request asks of the data to a command of the log; the form of its reply. The arguments
/// are those behind the name, as many as the row takes.
pub(crate) type Add = fn(&mut Draft, &[&[u8]], &Keys) -> Result<Form, Complaint>;
/// Carries out a request about the connection, or makes a question for the node of it.
pub(crate) type Run = fn(&mut Connection, &[&[u8]]) -> Result<Step, Complaint>;
/// What of a request may not stand in a transaction, by its arguments.
pub(crate) type Forbidden = fn(&[&[u8]]) -> Option<&'static str>;

/// How a command is carried out, and what a transaction makes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Handler {
    /// It is about data: its operations become a command, or a part of a transaction's.
    Data(Add),
    /// It is about the connection or the node. A transaction queues it for EXEC.
    Other(Run),
    /// It rules transactions or the connection: never queued, carried out at once.
    AtOnce(Run),
}

/// How a command goes about the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reads keys.
    Read,
    /// Writes keys, or sends messages: it becomes an entry of the log.
    Write,
    /// Neither.
    None,
}

/// Which programs answer a command; the others refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speakers {
    /// `diskstore`, whose keys are slots, and `kvstore`, whose keys are any bytes.
    Stores,
    /// These and `logger`, which holds no keys.
    All,
}

/// Where the keys of a request are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyPlaces {
    /// Position of the first key, the name being 0; 0 if there is none.
    pub(crate) first: i8,
    /// Position of the last one; negative: from the end.
    pub(crate) last: i8,
    /// From one key to the next.
    pub(crate) step: i8,
}

/// No key.
const NO_KEY: KeyPlaces = KeyPlaces { first: 0, last: 0, step: 0 };
/// One key, the first argument.
pub(super) const ONE: KeyPlaces = KeyPlaces { first: 1, last: 1, step: 1 };
/// All arguments are keys.
pub(super) const ALL: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 1 };
/// Keys, each with its value.
pub(super) const PAIRS: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 2 };

/// The categories of Redis' access lists that a command belongs to.
pub(super) type Categories = &'static [&'static str];

pub(super) const STRING_READ: Categories = &["@read", "@string", "@fast"];
pub(super) const STRING_WRITE: Categories = &["@write", "@string", "@fast"];
pub(super) const KEYSPACE_READ: Categories = &["@keyspace", "@read", "@fast"];
pub(super) const KEYSPACE_LISTING: Categories = &["@keyspace", "@read", "@slow"];
pub(super) const KEYSPACE_WRITE: Categories = &["@keyspace", "@write", "@fast"];
pub(super) const SLOW_READ: Categories = &["@read", "@slow"];
pub(super) const TRANSACTION: Categories = &["@transaction", "@fast"];
pub(super) const ADMIN: Categories = &["@admin", "@slow", "@dangerous"];
pub(super) const TELLING: Categories = &["@slow", "@dangerous"];
pub(super) const SLOW: Categories = &["@slow"];
pub(super) const MESSAGES: Categories = &["@pubsub", "@slow"];
pub(super) const CONNECTION: Categories = &["@connection", "@fast"];

/// One command by one of its names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// The name in small letters.
    pub(crate) name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub(crate) arity: i8,
    /// What it does to data.
    pub(crate) data: Use,
    /// What it does, as far as rights go; a sub-command may need more ([`Question::kind`]).
    ///
    /// [`Question::kind`]: crate::server::ask::Question::kind
    pub(crate) kind: RequestKind,
    /// Where COMMAND says that its keys are.
    pub(crate) keys: KeyPlaces,
    /// Whether its one key stands behind the name of a sub-command, of which COMMAND says nothing.
    pub(crate) is_keyed_behind_subcommand: bool,
    /// The categories that it belongs to.
    pub(crate) categories: Categories,
    /// The programs that answer it.
    pub(crate) speakers: Speakers,
    /// One sentence.
    pub(crate) summary: &'static str,
    /// What carries it out.
    pub(crate) handler: Handler,
    /// What of it may not stand in a transaction, though it is queued.
    pub(crate) forbidden: Option<Forbidden>,
    /// Its position in [`TABLE`].
    pub(crate) place: usize,
}

impl Spec {
    const fn new(name: &'static str, arity: i8, handler: Handler, summary: &'static str) -> Spec {
        Spec {
            name,
            arity,
            data: Use::None,
            kind: RequestKind::Look,
            keys: NO_KEY,
            is_keyed_behind_subcommand: false,
            categories: CONNECTION,
            speakers: Speakers::All,
            summary,
            handler,
            forbidden: None,
            place: 0,
        }
    }

    /// A command that reads the key that is its first argument.
    pub(super) const fn reads(
        name: &'static str,
        arity: i8,
        add: Add,
        summary: &'static str,
    ) -> Spec {
        let spec = Spec::new(name, arity, Handler::Data(add), summary).of(STRING_READ);
        let kind = RequestKind::Read;
        Spec { data: Use::Read, kind, keys: ONE, speakers: Speakers::Stores, ..spec }
    }

    /// A command that writes the key that is its first argument.
    pub(super) const fn writes(
        name: &'static str,
        arity: i8,
        add: Add,
        summary: &'static str,
    ) -> Spec {
        let spec = Spec::new(name, arity, Handler::Data(add), summary).of(STRING_WRITE);
        let kind = RequestKind::Write;
        Spec { data: Use::Write, kind, keys: ONE, speakers: Speakers::Stores, ..spec }
    }

    /// A command that sends a message.
    pub(super) const fn publishes(
        name: &'static str,
        arity: i8,
        add: Add,
        summary: &'static str,
    ) -> Spec {
        let spec = Spec::new(name, arity, Handler::Data(add), summary).of(&["@pubsub", "@fast"]);
        Spec { data: Use::Write, kind: RequestKind::Write, speakers: Speakers::Stores, ..spec }
    }

    /// A command about the connection or the node.
    pub(super) const fn other(
        name: &'static str,
        arity: i8,
        run: Run,
        summary: &'static str,
    ) -> Spec {
        Spec::new(name, arity, Handler::Other(run), summary)
    }

    /// A command that no transaction queues.
    pub(super) const fn at_once(
        name: &'static str,
        arity: i8,
        run: Run,
        summary: &'static str,
    ) -> Spec {
        Spec::new(name, arity, Handler::AtOnce(run), summary)
    }

    /// With its keys elsewhere than in the first argument.
    pub(super) const fn keyed(self, keys: KeyPlaces) -> Spec {
        Spec { keys, ..self }
    }

    /// About data whose one key stands behind the name of a sub-command.
    pub(super) const fn keyed_behind_subcommand(self) -> Spec {
        Spec { data: Use::None, keys: NO_KEY, is_keyed_behind_subcommand: true, ..self }
    }

    /// Of another kind, as far as rights go.
    pub(super) const fn kind(self, kind: RequestKind) -> Spec {
        Spec { kind, ..self }
    }

    /// In other categories.
    pub(super) const fn of(self, categories: Categories) -> Spec {
        Spec { categories, ..self }
    }

    /// Refused by what holds no keys.
    pub(super) const fn by_stores(self) -> Spec {
        Spec { speakers: Speakers::Stores, ..self }
    }

    /// With arguments that may not stand in a transaction.
    pub(super) const fn forbidding(self, forbidden: Forbidden) -> Spec {
        Spec { forbidden: Some(forbidden), ..self }
    }

    /// Checks that the program which holds such a state answers it.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn check_speaker(&self, machine: MachineKind) -> Result<(), Complaint> {
        match self.speakers {
            Speakers::Stores if !row(machine).holds_values => Err(Refusal::Logger.into()),
            Speakers::Stores | Speakers::All => Ok(()),
        }
    }

    /// Whether it is about messages on channels.
    pub(crate) fn is_about_messages(&self) -> bool {
        is_about_messages(self)
    }

    /// Checks the number of arguments, the name included, and of keys among them.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn check(&self, count: usize) -> Result<(), Complaint> {
        let needed = usize::from(self.arity.unsigned_abs());
        let fits = if self.arity < 0 { count >= needed } else { count == needed };
        let KeyPlaces { last, step, .. } = self.keys;
        // A list of keys, or of keys with their values, up to the end.
        let step = if last < 0 { usize::from(step.unsigned_abs()) } else { 1 };
        let list = count.saturating_sub(1);
        if !fits || !list.is_multiple_of(step) {
            return Err(Complaint::arity(self.name));
        }
        if last < 0 && list / step > OPERATION_COUNT_MAX {
            let text = format!("one command takes at most {OPERATION_COUNT_MAX} keys");
            return Err(Complaint::too_large(text));
        }
        Ok(())
    }

    /// The keys among the arguments of a whole request, its name first.
    ///
    /// # Errors
    /// What COMMAND GETKEYS says: there are none, or the request is not whole.
    pub(crate) fn keys_of<'a>(&self, request: &[&'a [u8]]) -> Result<Vec<&'a [u8]>, Complaint> {
        const NONE: Complaint = Complaint::wrong_in("The command has no key arguments");
        const WRONG: Complaint =
            Complaint::wrong_in("Invalid number of arguments specified for command");
        self.check(request.len()).map_err(|_| WRONG)?;
        let KeyPlaces { first, last, step } =
            if self.is_keyed_behind_subcommand { BEHIND_SUBCOMMAND } else { self.keys };
        if first == 0 {
            return Err(NONE);
        }
        let first = usize::from(first.unsigned_abs());
        let behind = if last < 0 { request.len() } else { usize::from(last.unsigned_abs()) + 1 };
        let keys = request.get(first..behind).ok_or(WRONG)?;
        Ok(keys.iter().step_by(usize::from(step.unsigned_abs())).copied().collect())
    }
}

const BEHIND_SUBCOMMAND: KeyPlaces = KeyPlaces { first: 2, last: 2, step: 1 };

/// Longest name that is looked up.
const NAME_BYTES_MAX: usize = 16;
/// How many rows there are.
const ROW_COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < commands::GROUPS.len() {
        count += commands::GROUPS[group].len();
        group += 1;
    }
    count
};

/// All names, in the order of the alphabet (I1).
pub(crate) static TABLE: [Spec; ROW_COUNT] = sorted();

/// All rows, sorted by insertion.
const fn sorted() -> [Spec; ROW_COUNT] {
    let mut rows = [commands::GROUPS[0][0]; ROW_COUNT];
    let (mut count, mut group) = (0, 0);
    while group < commands::GROUPS.len() {
        let mut next = 0;
        while next < commands::GROUPS[group].len() {
            let row = commands::GROUPS[group][next];
            assert_whole(&row);
            let mut place = count;
            while place > 0 && is_before(row.name, rows[place - 1].name) {
                rows[place] = rows[place - 1];
                place -= 1;
            }
            rows[place] = row;
            count += 1;
            next += 1;
        }
        group += 1;
    }
    let mut place = 0;
    while place < ROW_COUNT {
        rows[place].place = place;
        assert!(
            place == 0 || is_before(rows[place - 1].name, rows[place].name),
            "no name stands twice"
        );
        place += 1;
    }
    rows
}

const fn assert_whole(row: &Spec) {
    let name = row.name.as_bytes();
    assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "a name is looked up by its bytes");
    let mut at = 0;
    while at < name.len() {
        assert!(!name[at].is_ascii_uppercase(), "a name is in small letters");
        at += 1;
    }
    assert!(!row.summary.is_empty(), "a command says what it does");
    assert!(row.arity != 0, "the name is an argument");
    let writes = matches!(row.data, Use::Write);
    assert!(writes == matches!(row.kind, RequestKind::Write), "who writes needs the role for it");
    assert!(row.arity.unsigned_abs() as i16 > row.keys.first as i16, "the first key is there");
    let is_keyed = row.keys.first > 0 || row.is_keyed_behind_subcommand || is_about_messages(row);
    assert!(is_keyed || !matches!(row.handler, Handler::Data(_)), "data is found by keys");
    let is_queued = matches!(row.handler, Handler::Other(_));
    assert!(is_queued || row.forbidden.is_none(), "what is forbidden is forbidden when queued");
}

/// Whether messages are what it is about: these have no keys.
const fn is_about_messages(row: &Spec) -> bool {
    !row.categories.is_empty() && matches!(row.categories[0].as_bytes(), b"@pubsub")
}

const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

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
    use super::super::form::Kind;
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (place, spec) in TABLE.iter().enumerate() {
            let found = lookup(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!((found.name, found.place), (spec.name, place));
        }
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(lookup(b"").is_none());
        assert!(lookup(b"a_name_that_is_far_too_long").is_none());
    }

    #[test]
    fn no_command_is_both_served_and_refused() {
        for spec in &TABLE {
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
            let Complaint { text, .. } = complaint(name, count + 2).unwrap();
            assert_eq!(text, "one command takes at most 4096 keys", "{name}");
        }
    }

    /// What a row says of its use of data is what its function does with it.
    #[test]
    fn a_command_that_says_that_it_only_reads_adds_no_write() {
        let keys = Keys::new(100, 16, &[]);
        for spec in &TABLE {
            let Handler::Data(add) = spec.handler else { continue };
            let words = vec![b"1".as_slice(); usize::from(spec.arity.unsigned_abs()) - 1];
            let mut draft = Draft::new(None);
            if draft.add(add, &words, &keys).is_ok() {
                assert_eq!(draft.kind() == Kind::Write, spec.data == Use::Write, "{}", spec.name);
            } else {
                assert!(spec.is_keyed_behind_subcommand, "{}", spec.name);
            }
        }
    }
}
