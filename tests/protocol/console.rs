//! HTTP: the console's files, and what only it asks for.

use super::http::Response;
use super::*;

/// All that a browser loads, together.
const CONSOLE_BYTES_MAX: usize = 200 << 10;

#[track_caller]
fn got(client: &mut Client, path: &str) -> Response {
    let response = client.http("GET", path, "", "");
    assert_eq!(response.status(), "200", "{path} {}", response.body);
    response
}

#[test]
fn the_console_is_small_whole_and_asks_this_node_alone() {
    let node = Node::shared();
    let mut client = node.connect();
    let parts = ["/", "/console.css", "/console.js"].map(|path| got(&mut client, path));
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    assert!(bytes < CONSOLE_BYTES_MAX, "{bytes}");
    for part in &parts {
        let policy = part.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(part.header("x-content-type-options"), Some("nosniff"));
        // The pages of other members are linked to, not loaded.
        let elsewhere = part.body.replace("`http://${member.client}/`", "");
        assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:"), "another host");
    }
    let [page, _, script] = parts;
    for inline in ["<style", " style=", "onclick", "onload", "onsubmit", "javascript:"] {
        assert!(!page.body.contains(inline), "{inline}: the policy forbids it");
    }
    assert_eq!(page.body.matches("<script").count(), 1);
    assert!(page.body.contains("data-writes=\"yes\""), "this client is on the node's machine");
    for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.body.contains(markup), "{markup}: values would become markup");
    }
}

#[test]
fn the_map_has_two_bits_for_each_slot() {
    let node = Node::shared();
    let mut client = node.connect();
    assert_eq!(client.http("PUT", "/v1/slots/402", "", "x").status(), "204");
    client.http("DELETE", "/v1/slots/401", "", "").is("404", "no_value");
    let state = |map: &Response, slot: usize| map.bytes[slot / 4] >> (slot % 4 * 2) & 3;
    let map = got(&mut client, "/v1/map");
    assert_eq!(map.bytes.len(), 250);
    assert_eq!((state(&map, 402), state(&map, 401)), (1, 0));
    let recent = got(&mut client, "/v1/map?from=400&count=4&since=1");
    assert_eq!((recent.bytes.len(), state(&recent, 2), state(&recent, 1)), (1, 2, 0));
    assert_eq!(got(&mut client, "/v1/map?from=5000").bytes, b"");
    for wrong in ["count=1048577", "from=-1", "since=x", "more=1"] {
        client.http("GET", &format!("/v1/map?{wrong}"), "", "").is("400", "wrong");
    }
}

#[test]
fn keys_are_found_by_how_they_begin() {
    let node = Node::shared();
    let mut client = node.connect();
    for slot in [411, 412, 511] {
        assert_eq!(client.http("PUT", &format!("/v1/slots/{slot}"), "", "x").status(), "204");
    }
    let page = got(&mut client, "/v1/keys?prefix=41");
    let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let found: Vec<_> = page["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap().to_owned())
        .collect();
    assert!(found.contains(&"411".to_owned()) && found.contains(&"412".to_owned()), "{found:?}");
    assert!(found.iter().all(|key| key.starts_with("41")), "{found:?}");
    client.http("GET", "/v1/keys?from=0", "", "").is("400", "wrong");
}
