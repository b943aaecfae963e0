//! HTTP: our own API, what is refused, and forms that take a request for another.

use super::*;

/// One response, its head in small letters.
pub(super) struct Response {
    pub(super) head: String,
    pub(super) body: String,
    pub(super) bytes: Vec<u8>,
}

impl Client {
    /// Asks over a connection that stays open.
    pub(super) fn http(&mut self, method: &str, path: &str, more: &str, body: &str) -> Response {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{more}\r\n"
        );
        self.send(format!("{head}{body}").as_bytes());
        self.response(method)
    }

    pub(super) fn response(&mut self, method: &str) -> Response {
        let mut head = String::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            head.extend([line.to_ascii_lowercase().as_str(), "\n"]);
        }
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut bytes = vec![0; if method == "HEAD" { 0 } else { length }];
        self.stream.read_exact(&mut bytes).unwrap();
        Response { head, body: String::from_utf8_lossy(&bytes).into_owned(), bytes }
    }
}

impl Response {
    pub(super) fn status(&self) -> &str {
        &self.head[9..12]
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    pub(super) fn is(&self, status: &str, code: &str) {
        assert_eq!(self.status(), status, "{} {}", self.head, self.body);
        let code = format!(r#"{{"error":{{"code":"{code}","message":""#);
        assert!(self.body.starts_with(&code), "{}", self.body);
    }
}

#[test]
fn a_value_is_put_read_and_deleted_over_one_connection() {
    let node = Node::shared();
    let mut client = node.connect();
    client.http("GET", "/v1/slots/300", "", "").is("404", "no_value");
    let put = client.http("PUT", "/v1/slots/300", "", "a\r\nvalue");
    assert_eq!((put.status(), put.body.as_str()), ("204", ""));
    let tag = put.header("etag").unwrap().to_owned();
    assert_eq!(put.header("diskstore-index"), Some(tag.trim_matches('"')));
    assert_eq!(
        (put.header("diskstore-term"), put.header("diskstore-holders")),
        (Some("1"), Some("0"))
    );
    for path in
        ["/v1/slots/300", "/v1/keys/300", "/v1/keys/key:300", "/v1/slots/%33%30%30?level=local"]
    {
        let found = client.http("GET", path, "", "");
        assert_eq!((found.status(), found.body.as_str()), ("200", "a\r\nvalue"), "{path}");
        assert_eq!(found.header("etag"), Some(tag.as_str()));
    }
    let head = client.http("HEAD", "/v1/slots/300", "", "");
    assert_eq!((head.status(), head.header("content-length")), ("200", Some("8")));
    let known = client.http("GET", "/v1/slots/300", &format!("if-none-match: {tag}\r\n"), "");
    assert_eq!((known.status(), known.body.as_str()), ("304", ""));
    for level in ["linearizable", "lease", "local", "log"] {
        let path = format!("/v1/slots/300?level={level}");
        assert_eq!(client.http("GET", &path, "", "").body, "a\r\nvalue");
        let header = format!("diskstore-level: {level}\r\n");
        assert_eq!(client.http("GET", "/v1/slots/300", &header, "").body, "a\r\nvalue");
    }
    let two = client.http("GET", "/v1/slots/300?level=log", "diskstore-level: local\r\n", "");
    two.is("400", "wrong");
    assert_eq!(client.http("DELETE", "/v1/slots/300", "", "").status(), "204");
    client.http("DELETE", "/v1/slots/300", "", "").is("404", "no_value");
    client.http("GET", "/v1/slots/300", "", "").is("404", "no_value");
}

#[test]
fn a_condition_is_decided_by_the_entry() {
    let node = Node::shared();
    let mut client = node.connect();
    let path = "/v1/slots/301";
    client.http("PUT", path, "if-match: *\r\n", "x").is("412", "condition");
    client.http("PUT", path, "if-match: \"7777777\"\r\n", "x").is("412", "condition");
    let first = client.http("PUT", path, "if-none-match: *\r\n", "first");
    assert_eq!(first.status(), "204");
    client.http("PUT", path, "if-none-match: *\r\n", "x").is("412", "condition");
    let known = format!("if-match: {}\r\n", first.header("etag").unwrap());
    assert_eq!(client.http("PUT", path, &known, "second").status(), "204");
    client.http("PUT", path, &known, "x").is("412", "condition");
    client.http("DELETE", path, &known, "").is("412", "condition");
    for wrong in [
        "if-match: 7\r\n",
        "if-match: \"7\", \"8\"\r\n",
        "if-none-match: \"7\"\r\n",
        "if-match: *\r\nif-match: *\r\n",
        "if-match: *\r\nif-none-match: *\r\n",
    ] {
        client.http("PUT", path, wrong, "x").is("400", "wrong");
    }
    assert_eq!(client.http("GET", path, "", "").body, "second");
}

#[test]
fn what_is_no_request_of_the_api_says_why_and_changes_nothing() {
    let node = Node::shared();
    let mut client = node.connect();
    assert_eq!(client.http("PUT", "/v1/slots/302", "", "kept").status(), "204");
    client.http("GET", "/nowhere", "", "").is("404", "no_such_path");
    client.http("GET", "/v1/slots/1000", "", "").is("400", "wrong");
    client.http("GET", "/v1/slots/x", "", "").is("400", "wrong");
    client.http("GET", "/v1/slots/302?level=fresh", "", "").is("400", "wrong");
    client.http("PUT", "/v1/slots/302?nonsense=1", "", "x").is("400", "wrong");
    client
        .http("PUT", "/v1/slots/302", "content-type: multipart/form-data\r\n", "x")
        .is("415", "content_type");
    client.http("PUT", "/v1/slots/302", "", &"x".repeat(1501)).is("413", "too_large");
    let post = client.http("POST", "/v1/slots/302", "", "x");
    post.is("405", "method");
    assert_eq!(post.header("allow"), Some("get,head,put,delete"));
    let options = client.http("OPTIONS", "/v1/slots/302", "", "");
    assert_eq!((options.status(), options.header("allow")), ("204", Some("get,head,put,delete")));
    assert_eq!(options.header("access-control-allow-origin"), None);
    assert_eq!(client.http("GET", "/v1/slots/302", "", "").body, "kept");
}

#[test]
fn what_a_proxy_may_read_otherwise_or_another_site_sends_is_refused() {
    let node = Node::shared();
    let path = "/v1/slots/303";
    assert_eq!(node.connect().http("PUT", path, "", "kept").status(), "204");
    let host = "host: localhost\r\n";
    let put = |headers: &str, body: &str| format!("PUT {path} HTTP/1.1\r\n{headers}\r\n{body}");
    let smuggled = format!("0\r\n\r\nPUT {path} HTTP/1.1\r\n{host}content-length: 1\r\n\r\nx");
    let cases = [
        (put(&format!("{host}transfer-encoding: chunked\r\n"), "1\r\nx\r\n0\r\n\r\n"), "411"),
        (
            put(&format!("{host}content-length: 4\r\ntransfer-encoding: chunked\r\n"), &smuggled),
            "411",
        ),
        (
            put(&format!("{host}transfer-encoding: chunked\r\ncontent-length: 4\r\n"), &smuggled),
            "411",
        ),
        (put(&format!("{host}transfer-encoding: x, identity\r\n"), &smuggled), "400"),
        (put(&format!("{host}content-length: 1\r\ncontent-length: 2\r\n"), "xy"), "400"),
        (put(&format!("{host}content-length: +1\r\n"), "x"), "400"),
        (put(&format!("{host}content-length : 1\r\n"), "x"), "400"),
        (put(&format!("{host}a: b\r\n c: d\r\ncontent-length: 1\r\n"), "x"), "400"),
        (put(&format!("{host}{host}content-length: 1\r\n"), "x"), "400"),
        (put("content-length: 1\r\n", "x"), "400"),
        (put("host: evil.example\r\ncontent-length: 1\r\n", "x"), "421"),
        (put(&format!("{host}origin: http://evil.example\r\ncontent-length: 1\r\n"), "x"), "403"),
        (put(&format!("{host}origin: null\r\ncontent-length: 1\r\n"), "x"), "403"),
        (put(&format!("{host}sec-fetch-site: cross-site\r\ncontent-length: 1\r\n"), "x"), "403"),
        (format!("PUT {path} HTTP/1.0\r\n{host}content-length: 1\r\n\r\nx"), "505"),
        (put(&format!("{host}content-length: 99999999\r\nconnection: close\r\n"), "x"), "413"),
        (put(&format!("{host}a: {}\r\ncontent-length: 1\r\n", "a".repeat(99_000)), "x"), "431"),
        (put(&format!("{host}{}content-length: 1\r\n", "a: b\r\n".repeat(99)), "x"), "431"),
    ];
    for (request, status) in cases {
        let found = node.ask(request.as_bytes());
        assert_eq!(
            found.get(9..12),
            Some(status),
            "{}\n{found}",
            &request[..request.len().min(200)]
        );
        assert_eq!(found.matches("HTTP/1.1 ").count(), 1, "one answer, then the end: {found}");
    }
    assert_eq!(node.connect().http("GET", path, "", "").body, "kept");
    let same = "origin: http://LOCALHOST\r\nsec-fetch-site: same-origin\r\n";
    assert_eq!(node.connect().http("PUT", path, same, "ours").status(), "204");
}

#[test]
fn requests_in_pieces_and_in_a_row_are_answered_in_order() {
    let node = Node::shared();
    let mut client = node.connect();
    let request = "PUT /v1/slots/304 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nab";
    for byte in request.as_bytes() {
        client.send(&[*byte]);
    }
    assert_eq!(client.response("PUT").status(), "204");
    let get = "GET /v1/slots/304 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.send([request, get, get].concat().as_bytes());
    let found = [(); 3].map(|()| client.response("GET").body);
    assert_eq!(found, ["", "ab", "ab"]);
    client.send(b"PUT /v1/slots/304 HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n");
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"c");
    assert_eq!(client.response("PUT").status(), "204");
}

#[test]
fn a_bare_line_feed_ends_a_line_and_never_makes_two_requests_of_one() {
    let node = Node::shared();
    let path = "/v1/slots/305";
    let put =
        format!("PUT {path} HTTP/1.1\nhost: localhost\ncontent-length: 2\nconnection: close\n\nab");
    let found = node.ask(put.as_bytes());
    assert_eq!(found.get(9..12), Some("204"), "{found}");
    // What stands between two line feeds is a header, whatever a proxy makes of it.
    let hidden = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\na: b\ncontent-length: 60\r\nconnection: close\r\n\r\n\
         PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx"
    );
    let found = node.ask(hidden.as_bytes());
    assert_eq!(found.matches("HTTP/1.1 ").count(), 1, "{found}");
    let found = node
        .ask(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\na: b\rc: d\r\n\r\n").as_bytes());
    assert_eq!(found.get(9..12), Some("400"), "{found}");
    assert_eq!(node.connect().http("GET", path, "", "").body, "ab");
}

#[test]
fn the_description_is_served() {
    let node = Node::shared();
    let found = node.connect().http("GET", "/openapi.json", "", "");
    assert_eq!((found.status(), found.header("content-type")), ("200", Some("application/json")));
    assert!(found.body.starts_with("{\n  \"openapi\": \"3.1.0\","), "{}", found.body);
}
