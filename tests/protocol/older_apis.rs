//! HTTP: konsen's API and the web store's, in the very words of theirs.

use super::*;

const JSON: &str = "content-type: application/json\r\n";
const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";

impl Client {
    /// The status and the body of a response.
    fn told(&mut self, method: &str, path: &str, more: &str, body: &str) -> String {
        let response = self.http(method, path, more, body);
        format!("{} {}", response.status(), response.body)
    }

    /// How many entries the log has.
    fn log_count(&mut self) -> u64 {
        let status = self.http("GET", "/api/status", "", "").body;
        let count = status.split("\"logCount\":").nth(1).and_then(|rest| rest.split(',').next());
        count.unwrap().parse().unwrap()
    }
}

#[test]
fn konsens_json_is_answered_as_konsen_answers_it() {
    let node = Node::shared();
    let mut client = node.connect();
    for (method, path, more, body, answer) in [
        ("GET", "/api/kv?key=600", "", "", r#"200 {"found":false,"key":"600"}"#),
        ("POST", "/api/kv", JSON, r#"{"key":"600","value":"a<b\n"}"#, r#"200 {"success":true}"#),
        ("GET", "/api/kv?key=600", "", "", r#"200 {"found":true,"key":"600","value":"a<b\n"}"#),
        (
            "GET",
            "/api/kv?key=key%3A600&level=local",
            "",
            "",
            r#"200 {"found":true,"key":"key:600","value":"a<b\n"}"#,
        ),
        ("GET", "/api/kv", "", "", r#"400 {"error":"missing required query parameter: key"}"#),
        ("GET", "/api/kv?key=", "", "", r#"400 {"error":"missing required query parameter: key"}"#),
        ("GET", "/api/kv?key=x", "", "", r#"400 {"error":"key must be a slot number 0..999"}"#),
        ("POST", "/api/kv", JSON, r#"{"value":"x"}"#, r#"400 {"error":"key is required"}"#),
        (
            "POST",
            "/api/kv",
            JSON,
            r#"{"key":"600","value":"x","more":1}"#,
            r#"400 {"error":"invalid JSON: unknown field `more`, expected one of `key`, `value`, `encoding` at line 1 column 31"}"#,
        ),
        (
            "POST",
            "/api/kv",
            JSON,
            r#"{"key":"600","value":"_","encoding":"base64"}"#,
            r#"400 {"error":"invalid base64: Invalid symbol 95, offset 0."}"#,
        ),
        (
            "POST",
            "/api/kv",
            "content-type: text/plain\r\n",
            r#"{"key":"600","value":"x"}"#,
            r#"415 {"error":"the body is JSON: Content-Type: application/json"}"#,
        ),
        ("GET", "/api/kv?key=600", "", "", r#"200 {"found":true,"key":"600","value":"a<b\n"}"#),
        (
            "POST",
            "/api/kv",
            "",
            r#"{"key":"601","value":"/wA=","encoding":"base64"}"#,
            r#"200 {"success":true}"#,
        ),
        (
            "GET",
            "/api/kv?key=601",
            "",
            "",
            r#"200 {"encoding":"base64","found":true,"key":"601","value":"/wA="}"#,
        ),
        ("POST", "/api/kv", FORM, r#"{"key":"602"}"#, r#"200 {"success":true}"#),
        ("GET", "/api/kv?key=602", "", "", r#"200 {"found":true,"key":"602","value":""}"#),
        ("GET", "/api/keys?prefix=60", "", "", r#"200 {"keys":["600","601","602"]}"#),
        ("GET", "/api/keys?prefix=60&limit=2", "", "", r#"200 {"keys":["600","601"]}"#),
        ("GET", "/api/keys?prefix=none", "", "", r#"200 {"keys":[]}"#),
        ("DELETE", "/v1/slots/601", "", "", "204 "),
        ("GET", "/api/keys?prefix=60&level=local", "", "", r#"200 {"keys":["600","602"]}"#),
    ] {
        assert_eq!(client.told(method, path, more, body), answer, "{method} {path} {body}");
    }
}

#[test]
fn konsens_probes_name_role_and_leader() {
    let node = Node::shared();
    let mut client = node.connect();
    let told = |word| format!(r#"200 {{"leader":"protocol","role":"LEADER","status":"{word}"}}"#);
    assert_eq!(client.told("GET", "/health", "", ""), told("healthy"));
    assert_eq!(client.told("GET", "/ready", "", ""), told("ready"));
}

#[test]
fn what_konsen_cannot_read_is_answered_in_its_shape() {
    let node = Node::shared();
    let mut client = node.connect();
    let bad = client.http("POST", "/api/kv", JSON, "{");
    assert_eq!(bad.status(), "400");
    assert!(bad.body.starts_with(r#"{"error":"invalid JSON: EOF"#), "{}", bad.body);
    let long = format!(r#"{{"key":"600","value":"{}"}}"#, "x".repeat(1501));
    let answer = r#"413 {"error":"value is 1501 bytes, a slot holds at most 1500"}"#;
    assert_eq!(client.told("POST", "/api/kv", JSON, &long), answer);
}

#[test]
fn konsens_status_has_its_names() {
    let node = Node::shared();
    let mut client = node.connect();
    let status = client.http("GET", "/api/status", "", "");
    assert_eq!(status.header("content-type"), Some("application/json"));
    let digits = |char: char| char.is_ascii_digit();
    let names = status.body.split(digits).filter(|part| !part.is_empty()).collect::<String>();
    assert_eq!(
        names,
        r#"{"commitIndex":,"currentLeader":"protocol","currentTerm":,"lastApplied":,"logCount":,"matchIndex":{},"nextIndex":{},"node":"protocol","role":"LEADER"}"#
    );
}

#[test]
fn konsens_form_is_one_entry_and_its_values_are_text() {
    let node = Node::start();
    let mut client = node.connect();
    let before = client.log_count();
    let form = "610=a+b%26&611=%FF%00&610=second&612=&613";
    let post = client.http("POST", "/konsen", FORM, form);
    assert_eq!((post.status(), post.body.as_str()), ("200", ""));
    assert_eq!(client.log_count(), before + 1);
    for (key, value) in [("610", "a b&"), ("611", "\u{fffd}\0"), ("612", ""), ("613", "")] {
        let found = client.http("GET", &format!("/konsen?key={key}"), "", "");
        assert_eq!((found.status(), found.body.as_str()), ("200", value), "{key}");
        assert_eq!(found.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(found.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(client.told("GET", "/konsen?key=614", "", ""), "200 ");
    for (method, path, more, body, answer) in [
        ("GET", "/konsen", "", "", "400 missing required query parameter: key"),
        ("POST", "/konsen", FORM, "", "400 the form names no key"),
        ("POST", "/konsen", FORM, "610=x&nokey=y", "400 key must be a slot number 0..999"),
        ("POST", "/konsen", FORM, "610=%x", "400 behind a % there are two hexadecimal digits"),
        (
            "POST",
            "/konsen",
            JSON,
            "610=x",
            "415 the body is a form: Content-Type: application/x-www-form-urlencoded",
        ),
        ("GET", "/konsen?key=610", "", "", "200 a b&"),
    ] {
        assert_eq!(client.told(method, path, more, body), answer, "{method} {path} {body}");
    }
    assert_eq!(client.log_count(), before + 1, "what is refused is no entry");
    assert_eq!(
        client.told("POST", "/konsen", FORM, &"0=x&".repeat(4097)),
        "413 more than 4096 pairs"
    );
}

#[test]
fn the_web_stores_api_is_answered_as_its_clients_expect() {
    let node = Node::shared();
    let mut client = node.connect();
    for (method, path, more, body, answer) in [
        ("GET", "/key/620", "", "", r#"200 {"620":""}"#),
        ("POST", "/key", FORM, r#"{"620":"a","621":{"base64":"/wA="}}"#, "200 "),
        ("GET", "/key/620", "", "", r#"200 {"620":"a"}"#),
        ("GET", "/key/621?level=local", "", "", r#"200 {"621":{"base64":"/wA="}}"#),
        ("DELETE", "/key/620", "", "", "200 "),
        ("DELETE", "/key/620", "", "", "200 "),
        ("GET", "/key/620", "", "", r#"200 {"620":""}"#),
    ] {
        assert_eq!(client.told(method, path, more, body), answer, "{method} {path} {body}");
    }
    for (method, path, body) in [
        ("GET", "/key/", ""),
        ("GET", "/key", ""),
        ("DELETE", "/key/", ""),
        ("GET", "/key/name", ""),
        ("POST", "/key", "no JSON"),
        ("POST", "/key", "[]"),
        ("POST", "/key", "{}"),
        ("POST", "/key", r#"{"621":7}"#),
        ("POST", "/key", r#"{"621":"x","621":"y"}"#),
        ("POST", "/key", r#"{"621":"x","name":"y"}"#),
        ("POST", "/key", r#"{"621":{"base64":"!"}}"#),
        ("POST", "/join", r#"{"addr":"127.0.0.1:1"}"#),
    ] {
        client.http(method, path, JSON, body).is("400", "wrong");
    }
    assert_eq!(client.told("GET", "/key/621", "", ""), r#"200 {"621":{"base64":"/wA="}}"#);
    let join = client.http("POST", "/join", JSON, r#"{"addr":"127.0.0.1:1","id":"node2"}"#);
    join.is("501", "refused");
    assert!(
        join.body.contains("start the new one with -id NAME -join 127.0.0.1:"),
        "{}",
        join.body
    );
}
