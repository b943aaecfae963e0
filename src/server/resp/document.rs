//! Writes the text of `docs/commands.md` from the table of commands. A test compares the two; with
//! `UPDATE=1` it rewrites the file.

use std::fmt::Write as _;
use std::path::Path;

use super::encode::code_of;
use super::refused::REFUSED;
use super::table::{Handler, Speakers, Spec, TABLE, Use};
use crate::command::FailureClass;
use crate::server::access::ClientRole;

const PATH: &str = "docs/commands.md";

const HEAD: &str = "\
# Commands

Written by the test `the_document_of_commands_is_what_the_table_says` from the table that the nodes run by
(`src/server/resp/commands/`); `UPDATE=1` before its command rewrites it.

*Arguments* are counted with the name; `2+` means two or more. *Keys* are the positions of the keys among the arguments.
*Role* is what the client's token has to have at least where the node runs with `-tokens`; `write` may do what `read` may, and `admin`
everything. *Programs* are those that answer the command: `stores` are `diskstore`, whose keys are slot numbers, and `kvstore`, whose keys are
any bytes; `all` includes `logger`, which holds no keys. In a *transaction* (`MULTI`) a command is queued for `EXEC`, or is carried
out at once; `but for` names a form of the command that is answered with an error there. Reads have the level of the node's
`-read`, or are local after `READONLY`. A command that writes takes effect as a whole, in one entry of the log;
`DISKSTORE ONCE id command ...` carries one out once, however often it is sent ([requests.md](requests.md)).

";

const MESSAGES_HEAD: &str = "\
## Commands about messages

`PUBLISH` goes through the log, and reaches the subscribers of all nodes. [messages.md](messages.md) tells what they may rely on.
Its answer counts subscriptions at the node that answers, as in a cluster of Redis: those of other nodes get the message too, and are not counted.

| command | arguments | keys | role | programs | in a transaction | does |
| --- | --- | --- | --- | --- | --- | --- |
";

const REFUSED_HEAD: &str = "
## Commands that are refused

The nodes know these commands of Redis and do not serve them. Each is answered with
`ERR <name> is refused: <reason>`, and aborts the transaction that it is part of.

| reason | commands |
| --- | --- |
";

const FAILURES_HEAD: &str = "
## Errors a client must tell apart

An error is a code and words. The words are for people and may change; the code follows from the class of the failure.
The text and protobuf forms of the original's clients have one code for all classes, `ERR`.

| class | code in RESP | meaning | send it again? |
| --- | --- | --- | --- |
";

const FAILURES_FOOT: &str = "
Only `UNKNOWN` leaves open whether a command was applied: read the key to find out before you send the command again. Every other
error means that nothing of the command was applied. In a transaction an error in the array that `EXEC` answers concerns its own
request only, and the others took effect.

Two answers may come before a connection is served, and close it before any request was read: `LOADING` while a node starts or
joins, and `ERR max number of clients reached` if no descriptor is left for the connection. Bytes that are no request are answered by
`ERR Protocol error`, after the replies to the requests before them, and end the connection.
";

#[test]
fn the_document_of_commands_is_what_the_table_says() {
    let document = document();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    if std::env::var("UPDATE").as_deref() == Ok("1") {
        std::fs::write(&path, &document).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    for (found, expected) in found.lines().zip(document.lines()) {
        assert_eq!(found, expected, "{PATH}: UPDATE=1 rewrites it");
    }
    assert_eq!(found.len(), document.len(), "{PATH}: UPDATE=1 rewrites it");
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    let groups = [
        ("Commands that read keys", Use::Read),
        ("Commands that write keys", Use::Write),
        ("Commands about connections and nodes", Use::None),
    ];
    for (title, data) in groups {
        let head = "| command | arguments | keys | role | programs | in a transaction | does |";
        writeln!(text, "## {title}\n\n{head}\n| --- | --- | --- | --- | --- | --- | --- |")
            .unwrap();
        let is_in = |spec: &&Spec| !spec.is_about_messages() && use_of(spec) == data;
        for spec in TABLE.iter().filter(is_in) {
            write_row(&mut text, spec);
        }
        text.push('\n');
    }
    text.push_str(MESSAGES_HEAD);
    for spec in TABLE.iter().filter(|spec| spec.is_about_messages()) {
        write_row(&mut text, spec);
    }
    text.truncate(text.trim_end().len() + 1);
    text.push_str(REFUSED_HEAD);
    for (reason, names) in REFUSED {
        writeln!(text, "| {reason} | {} |", names.join(", ")).unwrap();
    }
    text.push_str(FAILURES_HEAD);
    for class in FailureClass::ALL {
        let (says, again) = meaning(class);
        writeln!(text, "| {class:?} | `{}` | {says} | {again} |", code_of(class)).unwrap();
    }
    text.push_str(FAILURES_FOOT);
    text
}

/// MEMORY and OBJECT read, though Redis does not say so of them.
fn use_of(spec: &Spec) -> Use {
    if spec.is_keyed_behind_subcommand { Use::Read } else { spec.data }
}

fn write_row(text: &mut String, spec: &Spec) {
    let arguments = spec.arity.unsigned_abs();
    let more = if spec.arity < 0 { "+" } else { "" };
    let keys = match (spec.keys.first, spec.keys.last, spec.keys.step) {
        _ if spec.is_keyed_behind_subcommand => "2".to_owned(),
        (0, ..) => "none".to_owned(),
        (first, last, _) if first == last => first.to_string(),
        (first, _, 1) => format!("{first} to the last"),
        (first, _, step) => format!("{first} to the last, every {step}nd"),
    };
    let role = spec.kind.needs().map_or("none", ClientRole::name);
    let programs = match spec.speakers {
        Speakers::Stores => "stores",
        Speakers::All => "all",
    };
    let in_transaction = match (spec.handler, spec.forbidden) {
        (Handler::AtOnce(_), _) => "at once".to_owned(),
        (_, None) => "queued".to_owned(),
        (_, Some(forbidden)) => {
            let example = [&b"reply"[..], b"auth"].iter().find_map(|word| forbidden(&[word]));
            let example = example.unwrap();
            format!("queued, but for `{example}`")
        }
    };
    let (name, summary) = (spec.name.to_ascii_uppercase(), spec.summary);
    writeln!(
        text,
        "| `{name}` | {arguments}{more} | {keys} | {role} | {programs} | {in_transaction} | {summary} |"
    )
    .unwrap();
}

/// What a class says, and whether the same request may be sent again.
fn meaning(class: FailureClass) -> (&'static str, &'static str) {
    match class {
        FailureClass::Wrong => ("the request is wrong: syntax, number, key, unknown name", "no"),
        FailureClass::TooLarge => {
            ("the request, its value or its reply is longer than its limit", "no, ask for less")
        }
        FailureClass::Refused => ("understood, and not served here; the reason follows", "no"),
        FailureClass::NoToken => (
            "the node runs with `-tokens`, and the connection has presented no token that counts",
            "yes, behind `AUTH`",
        ),
        FailureClass::Unauthenticated => {
            ("what was presented is no token, has expired, or is not that of this name", "no")
        }
        FailureClass::Forbidden => ("the token's role does not allow it", "with another token"),
        FailureClass::ProtocolVersion => {
            ("the node does not speak this version of RESP", "yes, in another version")
        }
        FailureClass::Aborted => (
            "the transaction was aborted by a request in it or by its WATCH; nothing was proposed",
            "yes, from MULTI or WATCH on",
        ),
        FailureClass::OtherRequest => (
            "the request id is that of another request; nothing has changed",
            "with an id of its own",
        ),
        FailureClass::Unavailable => {
            ("no leader, or this node stops; nothing was proposed", "yes, or elsewhere")
        }
        FailureClass::NotLeader => (
            "another member leads, and this one may not forward; nothing was proposed",
            "yes, to it",
        ),
        FailureClass::Busy => ("too much work is under way; nothing was proposed", "yes, later"),
        FailureClass::NoSpace => {
            ("the disk of the log is full; nothing was proposed", "yes, once there is room")
        }
        FailureClass::Full => (
            "`kvstore` holds as much as `-memory-mib` allows; nothing was proposed",
            "yes, once keys are deleted",
        ),
        FailureClass::Fault => (
            "the key's copy is damaged on the member that should carry the command out",
            "yes, once the key was set, whole and without a condition; or read with `-read local` elsewhere",
        ),
        FailureClass::Unknown => {
            ("the command was applied once or not at all", "only after a read has told which")
        }
    }
}
