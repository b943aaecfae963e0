//! Targets of text: configuration files, tokens, certificates, patterns; and seeds of what clients send.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::seen;
use crate::config::{Address, Tokens, parse_cluster as parse_list, parse_settings};
use crate::leaderless::file;
use crate::messages::glob::matches;
use crate::tls::authority::{Authority, Validity};
use crate::tls::{Certificate, authority};

fn owned(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Lists of members, in all three languages.
pub(super) fn parse_cluster_text(text: &str) {
    for name in ["cluster.yml", "config.json", "cluster.toml"] {
        match parse_list(Path::new(name), text) {
            Ok(file) => seen(format!("{file:?}")),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    seen(Address::parse(text));
}

/// As [`parse_cluster_text`], of what is text at all.
pub(super) fn parse_cluster(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        parse_cluster_text(text);
    }
}

pub(super) fn clusters() -> Vec<Vec<u8>> {
    owned(&[
        "servers:\n  node1: 127.0.0.1:10001\n  node2: \"[::1]:10002\"\nhttpServers:\n  node1: :20001\nlocalServerName: node1\n",
        "{\"object\": {\"total\": 2, \"Servers\": [{\"mypid\": 1, \"url\": \"127.0.0.1:1\"}, {\"mypid\": 2, \"url\": \"a:2\"}]}}",
        "id = \"node1\"\n[members.node1]\nraft = \"127.0.0.1:1\"\nport = \":2\"\n[members.node2]\nraft = \"b:1\"\n",
        "servers: &a {x: [1, *a]}\n",
    ])
}

/// A node's own configuration file.
pub(super) fn parse_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = parse_settings(Path::new("diskstore.toml"), text) {
        assert!(!error.to_string().is_empty());
    }
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    owned(&[
        "id = \"node0\"\nport = \":11000\"\nslots = 1_000\nheartbeat-ms = 100\n",
        "prot = 1\n",
        "id = [[]]\n",
    ])
}

/// The leaderless store's files.
pub(super) fn parse_leaderless(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match file::parse(text) {
        Ok(file) => seen(format!("{file:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub(super) fn leaderless() -> Vec<Vec<u8>> {
    owned(&[
        "node:\n  id: 1\n  address: 127.0.0.1:8001\n  badger_db_folder: /tmp/a\n",
        "cluster:\n  replication_level: 2\n  nodes:\n    - id: 1\n      address: 127.0.0.1:8001\n      virtual_node_count: 3\n",
        "storage_node:\n  id: 1\n  bind_address: :8001\n  metrics_address: :9001\n",
        "coordinator_node:\n  bind_address: :8000\n  timeout: 1m30s\n",
    ])
}

/// A file of tokens.
pub(super) fn parse_tokens(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = Tokens::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}

pub(super) fn tokens() -> Vec<Vec<u8>> {
    let hash = "0123456789abcdef".repeat(4);
    let one = format!("[[token]]\nname = \"alice\"\nrole = \"admin\"\nsha256 = \"{hash}\"\n");
    let ends = format!("{one}expires = \"2030-01-01T00:00:00Z\"\n");
    vec![one.into_bytes(), ends.into_bytes()]
}

/// A certificate as DER, and a chain as PEM.
pub(super) fn read_certificate(input: &[u8]) {
    seen(Certificate::read(&CertificateDer::from(input)));
    seen(Certificate::read_pem(input));
    seen(authority::check(&CertificateDer::from(input)));
    seen(authority::split(input));
    if let Ok(text) = std::str::from_utf8(input) {
        seen(authority::end(text));
        seen(authority::has_signed(text, input));
    }
}

pub(super) fn certificates() -> Vec<Vec<u8>> {
    let validity = Validity { not_before: 1_700_000_000, not_after: 1_800_000_000 };
    let (_, pair) =
        Authority::generate("fuzzed", validity).expect("invariant: a name and two times");
    let pem = pair.certificate;
    let text = String::from_utf8_lossy(&pem).into_owned();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body);
    vec![der.unwrap_or_default(), pem]
}

/// A pattern of PSUBSCRIBE and a channel, with a zero between them.
pub(super) fn match_glob(input: &[u8]) {
    let (pattern, text) = input.split_at(input.iter().position(|byte| *byte == 0).unwrap_or(0));
    matches(pattern, text.get(1..).unwrap_or_default());
    assert!(matches(b"*", text));
}

pub(super) fn globs() -> Vec<Vec<u8>> {
    owned(&["a*b?[c-e]\\*\0axxbyd*", "[^a-\0b", "****\0aaaaaaa", "[]\\\0"])
}

// ---- seeds of the targets in `server`

pub(super) fn resp() -> Vec<Vec<u8>> {
    owned(&[
        "*3\r\n$3\r\nSET\r\n$2\r\n42\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$2\r\n42\r\n",
        "PING\r\nSET 1 \"a\\x00b\\n\"\r\nGET 'it\\'s'\r\n",
        "*1\r\n$4\r\nPING\r\n*-1\r\n*0\r\n",
        "*70000\r\n$3\r\nDEL\r\n$1\r\n1\r\n",
        "*2\r\n$3\r\nGET\r\n$99999999\r\n",
    ])
}

pub(super) fn lines() -> Vec<Vec<u8>> {
    owned(&["get-1\nset-2-value\r\n15000-delete-3\n", "0-get-1\n\n\nset-\n", "99999-SET-1-a-b\n"])
}

pub(super) fn protobufs() -> Vec<Vec<u8>> {
    vec![
        b"\x12\x05127.0\x18\x01\x22\x0242\x2a\x05hello\x00".to_vec(),
        b"\x0a\x041500\x18\x02\x22\x011\x00\x00".to_vec(),
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
    ]
}

pub(super) fn http() -> Vec<Vec<u8>> {
    owned(&[
        "PUT /v1/slots/42?level=log HTTP/1.1\r\nhost: localhost\r\nif-match: \"7\"\r\ncontent-length: 5\r\n\r\nhello",
        "POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 84\r\n\r\n[{\"op\":\"set\",\"key\":\"1\",\"value\":{\"base64\":\"/wA=\"},\"if\":\"absent\"},{\"op\":\"get\",\"key\":\"2\"}]",
        "POST /kv HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 9\r\n\r\na=b&c=%41",
        "POST /key HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"1\":\r\n4\r\n\"a\"}\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    ])
}

pub(super) fn grpc() -> Vec<Vec<u8>> {
    vec![
        // A key of slot 7, a set of "a" if the version is 9, a get of the same key.
        b"\x00\x0a\x0b\x0a\x02\x08\x07\x1a\x05\x0a\x01a\x12\x00\x0a\x06\x0a\x02\x08\x07\x12\x00"
            .to_vec(),
        b"\x01\x0a\x03\x12\x01k\x12\x01v\x1a\x02\x20\x09".to_vec(),
        b"\x02\x0a\x06\x0a\x011\x12\x01a".to_vec(),
        b"\x03\x0a\x011\x12\x012\x18\x05".to_vec(),
    ]
}
