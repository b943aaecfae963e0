//! Tokens and roles: who gets in, who does not in any protocol, and that what was refused changed nothing.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use diskstore_proto::diskstore::ChangesRequest;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use super::*;

/// A node that asks for tokens, the tokens, and everything that it has logged.
struct Guarded {
    node: Node,
    tokens: Tokens,
    log: PathBuf,
    _folder: TempDir,
}

struct Tokens {
    file: PathBuf,
    read: String,
    write: String,
    admin: String,
    expired: String,
}

impl Tokens {
    fn make(folder: &Path) -> Tokens {
        let file = folder.join("tokens.toml");
        let [read, write, admin] = [("reader", "read"), ("writer", "write"), ("chief", "admin")]
            .map(|(name, role)| made(&file, name, role));
        let expired = "dst_it_was_good_until_the_year_2001".to_owned();
        let hash = Sha256::digest(&expired).iter().fold(String::new(), |mut hash, byte| {
            write!(hash, "{byte:02x}").unwrap();
            hash
        });
        let mut text = std::fs::read_to_string(&file).unwrap();
        let expires = "expires = \"2001-01-01T00:00:00Z\"";
        write!(
            text,
            "[[token]]\nname = \"old\"\nrole = \"admin\"\nsha256 = \"{hash}\"\n{expires}\n"
        )
        .unwrap();
        std::fs::write(&file, text).unwrap();
        Tokens { file, read, write, admin, expired }
    }
}

/// What `diskstore token` prints.
fn made(file: &Path, name: &str, role: &str) -> String {
    let made = token_command(file, name, role);
    assert!(made.status.success(), "{made:?}");
    assert!(made.stderr.is_empty(), "{made:?}");
    let text = String::from_utf8(made.stdout).unwrap();
    let token = text.strip_suffix('\n').unwrap();
    assert!(token.len() > 40 && token.bytes().all(|byte| byte.is_ascii_graphic()), "{token}");
    token.to_owned()
}

fn token_command(file: &Path, name: &str, role: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    command.args(["token", name, "-role", role, "-tokens"]).arg(file).output().unwrap()
}

impl Guarded {
    fn start() -> Guarded {
        let folder = TempDir::new().unwrap();
        let tokens = Tokens::make(folder.path());
        let log = folder.path().join("log");
        let more = ["-tokens", tokens.file.to_str().unwrap(), "-log", "trace"];
        let first = format!("AUTH {}\r\n", tokens.write);
        let node = Node::start_with(&more, File::create(&log).unwrap().into(), &first);
        Guarded { node, tokens, log, _folder: folder }
    }

    /// What would change with anything that got in: the end of the log, and the members.
    fn state(&self) -> (String, String) {
        let mut client = self.node.connect();
        let bearer = bearer(&self.tokens.admin);
        let status = client.http("GET", "/status", &bearer, "").body;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        (status["last_log"].to_string(), status["members"].as_array().unwrap().len().to_string())
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Has the node read its file anew, and waits until it has logged these words once more.
    fn reload(&self, words: &str) {
        let count = || self.logged().matches(words).count();
        let before = count();
        kill_process(Pid::from_child(&self.node.process), Signal::HUP).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while count() == before {
            assert!(Instant::now() < deadline, "never logged: {words}\n{}", self.logged());
            std::thread::yield_now();
        }
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn resp(lines: &[&str]) -> Vec<u8> {
    let words = |line: &&str| array(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    lines.iter().chain(&["QUIT"]).flat_map(words).collect()
}

fn http(method: &str, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\
         connection: close\r\n{more}\r\n{body}"
    )
    .into_bytes()
}

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

fn noperm(name: &str, command: &str) -> String {
    format!("-NOPERM User {name} has no permissions to run the '{command}' command\r\n")
}

/// Runs attempts of which none may get in: afterwards nothing has changed, and no token is in the log.
fn nobody_gets_in(attempts: impl Fn(&Guarded)) {
    let guarded = Guarded::start();
    let before = guarded.state();
    attempts(&guarded);
    assert_eq!(guarded.state(), before);
    let Tokens { read, write, admin, expired, .. } = &guarded.tokens;
    let log = guarded.logged();
    let found =
        [read, write, admin, expired].into_iter().find(|token| log.contains(token.as_str()));
    assert_eq!(found, None, "it is in the log");
}

impl Guarded {
    /// Sends these, each on a line, and expects such answers.
    #[track_caller]
    fn answers(&self, lines: &[&str], expected: &str) {
        assert_eq!(self.node.ask(&resp(lines)), format!("{expected}+OK\r\n"), "{lines:?}");
    }

    /// Sends this, and expects one response with this status and code.
    #[track_caller]
    fn denies(&self, bytes: &[u8], status: &str, code: &str) {
        let found = self.node.ask(bytes);
        let sent = String::from_utf8_lossy(bytes);
        assert!(found.starts_with(&format!("HTTP/1.1 {status} ")), "{sent}\n{found}");
        let is_head = bytes.starts_with(b"HEAD");
        let code_is_there = found.contains(&format!(r#"{{"error":{{"code":"{code}""#));
        assert!(is_head || code_is_there, "{sent}\n{found}");
        assert_eq!(found.matches("HTTP/1.1 ").count(), 1, "{sent}\n{found}");
        let challenge = "www-authenticate: Bearer realm=\"diskstore\"";
        assert_eq!(found.contains(challenge), status == "401", "{sent}\n{found}");
        let is_wrong = code == "unauthenticated";
        assert_eq!(found.contains("error=\"invalid_token\""), is_wrong, "{sent}\n{found}");
    }
}

#[test]
fn without_a_token_nothing_is_answered_over_resp() {
    let lines = "SET 7 x|GET 7|DEL 7|UNLINK 7|MSET 7 x 8 y|INCR 7|APPEND 7 x|GETDEL 7|SETRANGE 7 0 x|EXISTS 7|\
                 MGET 7 8|SCAN 0|DBSIZE|RANDOMKEY|PING|ECHO x|INFO|ROLE|CLUSTER NODES|CLIENT LIST|CLIENT ID|\
                 CLIENT REPLY OFF|COMMAND|DISKSTORE STATUS|DISKSTORE REMOVE protocol|ACL WHOAMI|WATCH 7|MULTI|EXEC|\
                 PUBLISH news x|SUBSCRIBE news|PSUBSCRIBE n*|UNSUBSCRIBE|PUBSUB CHANNELS|DISKSTORE CHECKPOINT|\
                 DISCARD|READONLY|SELECT 0|TIME|WAIT 0 1|LASTSAVE|MEMORY USAGE 7|OBJECT ENCODING 7";
    nobody_gets_in(|guarded| {
        for line in lines.split('|') {
            guarded.answers(&[line], NOAUTH);
            let inline = format!("{line}\r\nQUIT\r\n");
            assert_eq!(guarded.node.ask(inline.as_bytes()), format!("{NOAUTH}+OK\r\n"), "{line}");
        }
        // A request that is longer than any without a token is passed over, whatever it is.
        let long = array(&[b"SET", b"7", &vec![b'x'; 1_000_000]]);
        let many = array(&vec![&b"7"[..]; 5000]);
        let found = guarded.node.ask(&[long, many, resp(&["PING"])].concat());
        assert_eq!(found, format!("{}+OK\r\n", NOAUTH.repeat(3)));
        let hello = guarded.node.ask(&resp(&["HELLO 3"]));
        let words =
            "-NOAUTH HELLO must be called with the client already authenticated, otherwise ";
        assert!(hello.starts_with(words), "{hello}");
        assert_eq!(guarded.node.ask(&resp(&["HELLO"])), hello);
        assert_eq!(guarded.node.ask(&resp(&["HELLO 3 SETNAME me"])), hello);
        let says =
            "ERR this node asks for a token, which this protocol cannot carry: use RESP or HTTP\n";
        let protobuf = message("9999", 1, b"7", b"x");
        for line in [&b"set-7-x\n"[..], b"get-7\n", b"delete-7\n", b"9999-set-7-x\n", &protobuf] {
            assert_eq!(guarded.node.ask(line), says);
        }
    });
}

#[test]
fn what_is_no_token_that_counts_gives_nothing() {
    nobody_gets_in(|guarded| {
        let Tokens { read, write, admin, expired, file } = &guarded.tokens;
        let text = std::fs::read_to_string(file).unwrap();
        let hash = text.lines().find_map(|line| line.strip_prefix("sha256 = \"")).unwrap();
        let hash = hash.trim_end_matches('"');
        // Wrong, expired, its hash, none, far too long, of another name, not quite whole.
        for line in [
            "AUTH dst_wrong",
            &format!("AUTH {expired}"),
            &format!("AUTH {hash}"),
            "AUTH ",
            &format!("AUTH {}", "x".repeat(10_000)),
            &format!("AUTH old {expired}"),
            &format!("AUTH writer {read}"),
            &format!("AUTH nobody {admin}"),
            &format!("AUTH {admin} chief"),
            &format!("HELLO 3 AUTH writer {read}"),
            &format!("HELLO 3 AUTH default {expired}"),
            &format!("DISKSTORE AUTH {expired}"),
            &format!("AUTH chief {}", &admin[..admin.len() - 1]),
            &format!("AUTH chief {}", admin.to_ascii_lowercase()),
            &format!("AUTH chief {admin}\0"),
        ] {
            guarded.answers(&[line, "SET 7 x"], &format!("{WRONGPASS}{NOAUTH}"));
        }
        // Pipelined before the token, and what RESET leaves.
        let as_writer = format!("AUTH {write}");
        guarded.answers(&["SET 7 x", &as_writer], &format!("{NOAUTH}+OK\r\n"));
        let expected = format!("+OK\r\n+RESET\r\n{NOAUTH}");
        guarded.answers(&[&as_writer, "RESET", "SET 7 x"], &expected);
        // A wrong token does not take what a right one gave, nor add to it.
        let expected = format!("+OK\r\n{WRONGPASS}{}", noperm("reader", "set"));
        guarded.answers(&[&format!("AUTH {read}"), "AUTH no", "SET 7 x"], &expected);
    });
}

#[test]
fn a_role_allows_nothing_beyond_it_over_resp() {
    nobody_gets_in(|guarded| {
        let Tokens { read, write, admin, .. } = &guarded.tokens;
        let [as_reader, as_writer, as_admin] = [read, write, admin].map(|it| format!("AUTH {it}"));
        let lines = [
            "SET 7 x",
            "DEL 7",
            "INCR 7",
            "GETDEL 7",
            "MSET 7 x",
            "GETSET 7 x",
            "APPEND 7 x",
            "DELIFEQ 7 x",
            "DELIFVERSION 7 5",
        ];
        for line in lines {
            let name = line.split(' ').next().unwrap().to_ascii_lowercase();
            let expected = format!("+OK\r\n{}", noperm("reader", &name));
            guarded.answers(&[&as_reader, line], &expected);
        }
        for (line, name) in [
            ("DISKSTORE REMOVE protocol", "diskstore|remove"),
            ("DISKSTORE CHECKPOINT", "diskstore|checkpoint"),
            ("DISKSTORE CONFIG", "diskstore|config"),
            ("CLIENT LIST", "client|list"),
        ] {
            let denied = noperm("writer", name);
            guarded.answers(&[&as_writer, line], &format!("+OK\r\n{denied}"));
            let expected = format!("+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n{denied}");
            guarded.answers(&[&as_writer, "MULTI", line, "EXEC"], &expected);
        }
        let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
        let expected = format!("+OK\r\n+OK\r\n{}{aborted}", noperm("reader", "set"));
        guarded.answers(&[&as_reader, "MULTI", "SET 7 x", "EXEC"], &expected);
        let expected = format!("+OK\r\n+OK\r\n+QUEUED\r\n+OK\r\n{}", noperm("reader", "exec"));
        guarded.answers(&[&as_writer, "MULTI", "SET 7 x", &as_reader, "EXEC"], &expected);
        let expected = format!("{NOAUTH}+OK\r\n-ERR EXEC without MULTI\r\n");
        guarded.answers(&["MULTI", &as_admin, "EXEC"], &expected);
    });
}

/// Method, path, more of the head, body.
type Asked = (&'static str, &'static str, &'static str, &'static str);

const JSON: &str = "content-type: application/json\r\n";
const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";
/// Every path that needs a token, by every method that does something there.
const GUARDED: &[Asked] = &[
    ("PUT", "/v1/slots/7", "", "x"),
    ("GET", "/v1/slots/7", "", ""),
    ("DELETE", "/v1/slots/7", "", ""),
    ("PUT", "/v1/keys/7", "", "x"),
    ("GET", "/v1/keys/7", "", ""),
    ("HEAD", "/v1/keys/7", "", ""),
    ("POST", "/v1/batch", JSON, r#"[{"op":"set","key":"7","value":"x"}]"#),
    ("GET", "/v1/keys?prefix=", "", ""),
    ("GET", "/v1/map", "", ""),
    ("GET", "/v1/whoami", "", ""),
    ("GET", "/api/kv?key=7", "", ""),
    ("POST", "/api/kv", JSON, r#"{"key":"7","value":"x"}"#),
    ("GET", "/api/keys", "", ""),
    ("GET", "/api/status", "", ""),
    ("GET", "/konsen?key=7", "", ""),
    ("POST", "/konsen", FORM, "7=x"),
    ("GET", "/health", "", ""),
    ("GET", "/ready", "", ""),
    ("GET", "/key/7", "", ""),
    ("POST", "/key", JSON, r#"{"7":"x"}"#),
    ("DELETE", "/key/7", "", ""),
    ("POST", "/join", JSON, r#"{"addr":"h:1","id":"n"}"#),
    ("GET", "/status", "", ""),
    ("GET", "/nodes", "", ""),
    ("GET", "/version", "", ""),
    ("GET", "/metrics", "", ""),
    ("GET", "/debug/pprof/profile?seconds=1", "", ""),
    ("GET", "/debug/pprof/heap", "", ""),
    ("GET", "/v1/backup", "", ""),
];

#[test]
fn each_path_asks_for_a_token_and_its_role() {
    nobody_gets_in(|guarded| {
        let Tokens { read, write, expired, .. } = &guarded.tokens;
        for (method, path, more, body) in GUARDED {
            let with = |token: &str| http(method, path, &format!("{more}{}", bearer(token)), body);
            guarded.denies(&http(method, path, more, body), "401", "no_token");
            guarded.denies(&with(expired), "401", "unauthenticated");
            if matches!(*method, "PUT" | "POST" | "DELETE") {
                guarded.denies(&with(read), "403", "forbidden");
            }
            if path.starts_with("/debug") || ["/join", "/v1/backup"].contains(path) {
                guarded.denies(&with(write), "403", "forbidden");
            }
        }
    });
}

#[test]
fn a_token_stands_in_one_header_of_one_request() {
    nobody_gets_in(|guarded| {
        let Tokens { read, write, admin, .. } = &guarded.tokens;
        let put = |more: &str| http("PUT", "/v1/slots/7", more, "x");
        // Other schemes and places, and headers that one of two programs in a row may overlook.
        for more in [
            "authorization: Basic Y2hpZWY6eA==",
            "authorization: Bearer",
            "authorization: Bearer  ",
            &format!("authorization: {admin}"),
            &format!("authorization: Bearer {admin} {admin}"),
            &format!("authorization: Bearer {admin}, Bearer {admin}"),
            &format!("cookie: authorization=Bearer {admin}"),
            &format!("x-authorization: Bearer {admin}"),
            &format!("proxy-authorization: Bearer {admin}"),
            &format!("authorization_: Bearer {admin}"),
        ] {
            guarded.denies(&put(&format!("{more}\r\n")), "401", "no_token");
        }
        guarded.denies(&put(&bearer(&format!("x{admin}"))), "401", "unauthenticated");
        guarded.denies(&put(&bearer(admin).repeat(2)), "400", "wrong");
        guarded.denies(&put(&[bearer("dst_wrong"), bearer(admin)].concat()), "400", "wrong");
        let path = format!("/v1/slots/7?access_token={admin}");
        guarded.denies(&http("PUT", &path, "", "x"), "401", "no_token");
        // Forms that hyper does not read at all.
        for more in [
            format!("authorization : Bearer {admin}\r\n"),
            format!("x: y\r\n authorization: Bearer {admin}\r\n"),
        ] {
            let found = guarded.node.ask(&put(&more));
            assert!(found.starts_with("HTTP/1.1 400 "), "{found}");
        }
        // A token behind the end of the head is a part of the body, or of a request that is not read.
        let smuggled = String::from_utf8(put(&bearer(admin))).unwrap();
        guarded.denies(&http("PUT", "/v1/slots/7", "", &smuggled), "401", "no_token");
        let head =
            "PUT /v1/slots/7 HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunked = format!("{head}1\r\nx\r\n0\r\n{}\r\n{smuggled}", bearer(admin));
        guarded.denies(chunked.as_bytes(), "411", "length_required");
        // The next request of the connection needs it anew.
        let mut client = guarded.node.connect();
        let found = client.http("GET", "/v1/whoami", &bearer(read), "").body;
        assert_eq!(found, r#"{"name":"reader","role":"read"}"#);
        client.http("GET", "/v1/whoami", "", "").is("401", "no_token");
        // Orders of an operator, with the token of a client.
        for (method, path) in [
            ("DELETE", "/v1/members/protocol"),
            ("POST", "/v1/members/protocol/demote"),
            ("POST", "/v1/members/protocol/replace?by=other"),
            ("POST", "/v1/transfer-leader"),
            ("POST", "/v1/checkpoint"),
            ("POST", "/v1/resize?slots=1000"),
            ("POST", "/v1/join-tokens"),
            ("GET", "/v1/config"),
            ("GET", "/v1/backup"),
        ] {
            guarded.denies(&http(method, path, &bearer(write), ""), "403", "forbidden");
            guarded.denies(&http(method, path, "", ""), "401", "no_token");
        }
        // A page of another site.
        for more in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
            guarded.denies(&put(&[&bearer(admin), more].concat()), "403", "cross_site");
        }
    });
}

#[test]
fn each_token_may_do_what_its_role_says() {
    let guarded = Guarded::start();
    let Tokens { read, write, admin, .. } = &guarded.tokens;
    let asked = |lines: &[&str]| guarded.node.ask(&resp(lines));
    assert_eq!(
        asked(&[&format!("AUTH {write}"), "SET 9 x", "ACL WHOAMI"]),
        "+OK\r\n+OK\r\n$6\r\nwriter\r\n+OK\r\n"
    );
    assert_eq!(
        asked(&[&format!("AUTH writer {write}"), "MULTI", "SET 9 x", "EXEC"]),
        "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n"
    );
    // Libraries that have a password and no name send `default`.
    assert_eq!(asked(&[&format!("AUTH default {read}"), "GET 9"]), "+OK\r\n$1\r\nx\r\n+OK\r\n");
    assert!(
        asked(&[&format!("HELLO 3 AUTH default {read}"), "GET 9"]).ends_with("$1\r\nx\r\n+OK\r\n")
    );
    assert!(asked(&[&format!("HELLO 3 AUTH reader {read} SETNAME me")]).starts_with("%7\r\n"));
    let list = asked(&[&format!("AUTH {admin}"), "CLIENT LIST"]);
    assert!(list.contains(" user=chief "), "{list}");
    let status = asked(&[&format!("DISKSTORE AUTH {read}"), "DISKSTORE STATUS"]);
    assert!(status.starts_with("+OK\r\n$") && status.contains("\"cluster_id\""), "{status}");
    let removed = asked(&[&format!("AUTH {admin}"), "DISKSTORE REMOVE nobody"]);
    assert!(removed.starts_with("+OK\r\n-ERR ") && !removed.contains("NOPERM"), "{removed}");
    let mut client = guarded.node.connect();
    for path in ["/livez", "/readyz", "/", "/console.js", "/openapi.json"] {
        assert_eq!(client.http("GET", path, "", "").status(), "200", "{path}");
    }
    assert!(client.http("GET", "/", "", "").body.contains("data-writes=\"token\""));
    assert_eq!(client.http("GET", "/v1/slots/9", &bearer(read), "").body, "x");
    assert_eq!(
        client
            .http("PUT", "/v1/slots/9", &format!("authorization: bearer  {write}\r\n"), "y")
            .status(),
        "204"
    );
    let json = |token| format!("content-type: application/json\r\n{}", bearer(token));
    let get = r#"[{"op":"get","key":"9"}]"#;
    assert_eq!(client.http("POST", "/v1/batch", &json(read), get).status(), "200");
    let metrics = client.http("GET", "/metrics", &bearer(read), "").body;
    for reason in ["no_token", "wrong_token", "role"] {
        assert!(
            metrics.contains(&format!("diskstore_access_denied_total{{reason=\"{reason}\"}} 0\n")),
            "{metrics}"
        );
    }
    client.http("GET", "/status", &bearer("dst_wrong"), "").is("401", "unauthenticated");
    let mut client = guarded.node.connect();
    assert!(
        client
            .http("GET", "/metrics", &bearer(read), "")
            .body
            .contains("_denied_total{reason=\"wrong_token\"} 1\n")
    );
}

#[test]
fn a_token_that_is_removed_ends_what_it_gave_and_a_wrong_file_changes_nothing() {
    let guarded = Guarded::start();
    let Tokens { file, write, read, .. } = &guarded.tokens;
    let mut writer = guarded.node.connect();
    writer.send(&array(&[b"AUTH", write.as_bytes()]));
    writer.expect(b"+OK\r\n");
    let mut web = guarded.node.connect();
    assert_eq!(web.http("PUT", "/v1/slots/7", &bearer(write), "x").status(), "204");
    let text = std::fs::read_to_string(file).unwrap();
    let wrong = [
        ("[[token]]\nname = 7\n".to_owned(), 0o600),
        (text.replace("sha256", "sha"), 0o600),
        (text.repeat(2), 0o600),
        (text.replace("name = \"writer\"", "name = \"default\""), 0o600),
        (text.clone(), 0o644),
        (text.clone(), 0o620),
    ];
    for (text, mode) in wrong {
        put(file, &text, mode);
        guarded.reload("the tokens stay as they were: their file is wrong");
        writer.send(&array(&[b"SET", b"7", b"y"]));
        writer.expect(b"+OK\r\n");
    }
    assert!(guarded.logged().contains("chmod 600"), "{}", guarded.logged());
    // Less, then nothing, then all again.
    put(file, &text.replacen("role = \"write\"", "role = \"read\"", 1), 0o600);
    guarded.reload("-tokens was read anew");
    writer.send(&array(&[b"SET", b"7", b"z"]));
    writer.expect(noperm("writer", "set").as_bytes());
    web.http("PUT", "/v1/slots/7", &bearer(write), "z").is("403", "forbidden");
    writer.send(&[array(&[b"MULTI"]), array(&[b"GET", b"7"])].concat());
    writer.expect(b"+OK\r\n+QUEUED\r\n");
    let without = text.split("[[token]]").filter(|table| !table.contains("writer"));
    put(file, &without.collect::<Vec<_>>().join("[[token]]"), 0o600);
    guarded.reload("-tokens was read anew");
    writer.send(&array(&[b"EXEC"]));
    writer.expect(NOAUTH.as_bytes());
    web.http("GET", "/v1/slots/7", &bearer(write), "").is("401", "unauthenticated");
    assert_eq!(guarded.node.ask(&resp(&[&format!("AUTH {write}")])), format!("{WRONGPASS}+OK\r\n"));
    // Another token of the same name is another token.
    let other = made(file, "writer", "write");
    guarded.reload("-tokens was read anew");
    writer.send(&array(&[b"GET", b"7"]));
    writer.expect(NOAUTH.as_bytes());
    writer.send(
        &[array(&[b"RESET"]), array(&[b"AUTH", other.as_bytes()]), array(&[b"SET", b"7", b"z"])]
            .concat(),
    );
    writer.expect(b"+RESET\r\n+OK\r\n+OK\r\n");
    assert!(guarded.node.ask(&resp(&[&format!("AUTH {read}"), "GET 7"])).contains('z'));
}

fn put(file: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_subscriber_whose_token_is_removed_hears_nothing_more() {
    let guarded = Guarded::start();
    let Tokens { file, write, read, .. } = &guarded.tokens;
    let mut subscriber = guarded.node.connect();
    subscriber
        .send(&[array(&[b"AUTH", read.as_bytes()]), array(&[b"SUBSCRIBE", b"news"])].concat());
    subscriber.expect(b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let publish = |word: &str| {
        guarded.node.ask(&resp(&[&format!("AUTH {write}"), &format!("PUBLISH news {word}")]))
    };
    assert_eq!(publish("first"), "+OK\r\n:1\r\n+OK\r\n");
    let message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nfirst\r\n";
    subscriber.expect(message);
    let text = std::fs::read_to_string(file).unwrap();
    put(file, &text.replace("name = \"reader\"", "name = \"other\""), 0o600);
    guarded.reload("-tokens was read anew");
    publish("second");
    assert_eq!(String::from_utf8_lossy(&subscriber.rest()), NOAUTH);
}

#[test]
fn many_wrong_tokens_are_answered_one_by_one_and_logged_once() {
    let guarded = Guarded::start();
    let mut client = guarded.node.connect();
    let begun = Instant::now();
    client.send(&array(&[b"AUTH", b"dst_wrong"]).repeat(5));
    client.expect(&WRONGPASS.repeat(5).into_bytes());
    assert!(begun.elapsed() >= Duration::from_millis(900), "they are tried all at once");
    // Others are not kept waiting, whatever their address is.
    let as_reader = format!("AUTH {}", guarded.tokens.read);
    assert_eq!(guarded.node.ask(&resp(&[&as_reader, "PING"])), "+OK\r\n+PONG\r\n+OK\r\n");
    assert_eq!(
        guarded.logged().matches("a client was refused by -tokens").count(),
        1,
        "{}",
        guarded.logged()
    );
}

#[test]
fn a_file_of_tokens_is_its_owners_alone_and_whole() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens.toml");
    std::fs::write(&file, "# ours\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let secret = made(&file, "one", "read");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("# ours\n") && text.contains("name = \"one\"") && !text.contains(&secret),
        "{text}"
    );
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    for (name, role, words) in [
        ("one", "read", "`one` is there twice"),
        ("two", "root", "read, write or admin"),
        ("default", "read", "is not `default`"),
    ] {
        let made = token_command(&file, name, role);
        assert_eq!(made.status.code(), Some(2), "{made:?}");
        assert!(
            made.stdout.is_empty() && String::from_utf8_lossy(&made.stderr).contains(words),
            "{made:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let start = |file: &Path| {
        let mut node = Command::new(env!("CARGO_BIN_EXE_diskstore"));
        let data = folder.path().join("data");
        let ended = node.arg("-data").arg(data).arg("-tokens").arg(file).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let said = start(&file);
    assert!(said.contains("others than its owner may use it (mode 0640): chmod 600 it"), "{said}");
    assert!(start(&folder.path().join("none")).contains("the file cannot be read"));
    assert!(start(folder.path()).contains("it is no regular file"));
    put(&file, &format!("[[token]]\nname = \"{secret}\n"), 0o600);
    let said = start(&file);
    assert!(said.contains("line 2: ") && !said.contains(&secret), "{said}");
}

#[test]
fn our_own_clients_present_a_token_out_of_the_environment_or_a_file() {
    let guarded = Guarded::start();
    let Tokens { file, read, write, admin, .. } = &guarded.tokens;
    let kept = file.with_file_name("writer.token");
    std::fs::write(&kept, format!("{write}\n")).unwrap();
    let address = format!("127.0.0.1:{}", guarded.node.port);
    let run = |line: &str, token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
        command.args(line.split(' ')).args(["-addr", &address]).env("DISKSTORE_TOKEN", token);
        let done = command.output().unwrap();
        let words = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(words).unwrap())
    };
    let denied = |line: &str, token: &str, words: &str| {
        let (code, said) = run(line, token);
        assert!(code == 1 && said.contains(words), "{line}: {code} {said}");
        assert!(token.is_empty() || !said.contains(token), "{said}");
    };
    denied("get 7", "", "NOAUTH Authentication required.");
    denied("status", "", "NOAUTH");
    denied("set 7 x", "dst_wrong", "WRONGPASS");
    denied("set 7 x", read, "NOPERM");
    denied("remove protocol", write, "NOPERM");
    denied("remove nobody", admin, "nobody");
    assert_eq!(run("set 7 hello", write), (0, "OK\n".to_owned()));
    assert_eq!(run("get 7", read), (0, "hello\n".to_owned()));
    let with_file = format!("set 7 there -token-file {}", kept.display());
    assert_eq!(run(&with_file, "dst_wrong"), (0, "OK\n".to_owned()), "the flag wins");
    let (code, status) = run("status", read);
    assert!(code == 0 && status.starts_with("health   1 of 1 voters answers"), "{status}");
    let backup = |name: &str, token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
        command.args(["backup", "-addr", &address, "-o"]).arg(file.with_file_name(name));
        command.env("DISKSTORE_TOKEN", token).output().unwrap()
    };
    let refused = backup("no", read);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs the role admin"));
    let taken = backup("yes", admin);
    assert!(taken.status.success(), "{taken:?}");
    let load = "bench -clients 4 -requests 200 -keys 50 -value-bytes 100 -warm-up 0s";
    let (code, said) = run(&format!("{load} -yes"), write);
    assert_eq!(code, 0, "{said}");
    denied(&format!("{load} -yes"), "dst_wrong", "WRONGPASS");
    denied(load, write, "holds"); // it was told how many values there are
    let (code, said) = run("get 7", "two words");
    assert!(code == 2 && said.contains("the variable DISKSTORE_TOKEN: this is no token"), "{said}");
}

/// A call of gRPC: its path, and its message with what stands before it.
const CALLS: [(&str, &[u8]); 9] = [
    ("/diskstore.v1.Store/Status", b"\0\0\0\0\0"),
    ("/diskstore.v1.Store/Get", b"\0\0\0\0\x04\x0a\x02\x08\x07"),
    ("/diskstore.v1.Store/Batch", b"\0\0\0\0\x08\x0a\x06\x0a\x02\x08\x07\x12\0"), // a get
    ("/diskstore.v1.Store/Scan", b"\0\0\0\0\0"),
    ("/konsen.KVService/Get", b"\0\0\0\0\x03\x0a\x017"),
    ("/diskstore.v1.Store/Set", b"\0\0\0\0\x04\x0a\x02\x08\x07"),
    ("/diskstore.v1.Store/Delete", b"\0\0\0\0\x04\x0a\x02\x08\x07"),
    ("/diskstore.v1.Store/Batch", b"\0\0\0\0\x08\x0a\x06\x0a\x02\x08\x07\x1a\0"), // a set
    ("/konsen.KVService/Put", b"\0\0\0\0\x07\x0a\x05\x0a\x03\x0a\x017"),
];
/// So many of them only read.
const READING_CALLS: usize = 5;

fn called(guarded: &Guarded, (path, body): (&str, &[u8]), header: Option<&str>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut headers = vec![("content-type", "application/grpc")];
    headers.extend(header.map(|header| ("authorization", header)));
    runtime.block_on(grpc::asked(&guarded.node, "POST", path, &headers, body.to_vec()))
}

#[test]
fn calls_of_grpc_are_made_by_those_alone_who_may_do_what_they_do() {
    let (forbidden, unauthenticated) = ("200 7", "200 16");
    nobody_gets_in(|guarded| {
        let Tokens { read, expired, .. } = &guarded.tokens;
        let (wrong, other) = (format!("Bearer {read}x"), format!("Basic {read}"));
        let expired = format!("Bearer {expired}");
        for header in [None, Some("Bearer "), Some(&*wrong), Some(&*other), Some(&*expired)] {
            for call in CALLS {
                assert_eq!(called(guarded, call, header), unauthenticated, "{} {header:?}", call.0);
            }
            let changes = ("/diskstore.v1.Store/Changes", &b"\0\0\0\0\0"[..]);
            assert_eq!(called(guarded, changes, header), unauthenticated);
        }
        let header = format!("Bearer {read}");
        for call in &CALLS[READING_CALLS..] {
            assert_eq!(called(guarded, *call, Some(&header)), forbidden, "{}", call.0);
        }
        let unknown = ("/diskstore.v1.Store/Drop", &b"\0\0\0\0\0"[..]);
        assert_eq!(called(guarded, unknown, Some(&header)), forbidden);
    });
    let guarded = Guarded::start();
    let Tokens { read, write, .. } = &guarded.tokens;
    let (read, write) = (format!("Bearer {read}"), format!("bearer {write}"));
    let health = ("/grpc.health.v1.Health/Check", &b"\0\0\0\0\0"[..]);
    assert_eq!(called(&guarded, health, None), "200 0", "a supervisor has no token");
    for (place, call) in CALLS.into_iter().enumerate() {
        let header = if place < READING_CALLS { &read } else { &write };
        let is_get = call.0.ends_with("/Get");
        let expected = if is_get { "200 5" } else { "200 0" }; // no value yet
        assert_eq!(called(&guarded, call, Some(header)), expected, "{}", call.0);
    }
}

#[test]
fn changes_end_with_the_token_of_who_follows_them() {
    let guarded = Guarded::start();
    let Tokens { file, read, write, .. } = &guarded.tokens;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = guarded.node.store().await;
        let mut request = tonic::Request::new(ChangesRequest::default());
        let token = format!("Bearer {read}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let mut changes = store.changes(request).await.unwrap().into_inner();
        assert!(changes.message().await.unwrap().is_some(), "where it begins");
        let text = std::fs::read_to_string(file).unwrap();
        let without = text.split("[[token]]").filter(|table| !table.contains("reader"));
        put(file, &without.collect::<Vec<_>>().join("[[token]]"), 0o600);
        guarded.reload("-tokens was read anew");
        let mut web = guarded.node.connect();
        assert_eq!(web.http("PUT", "/v1/slots/7", &bearer(write), "x").status(), "204");
        let ended = changes.message().await.unwrap_err();
        assert_eq!(ended.code(), tonic::Code::Unauthenticated, "{ended:?}");
    });
}
