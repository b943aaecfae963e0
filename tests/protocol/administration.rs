//! Orders of an operator over HTTP, to a cluster of one member: what it can do, and what is refused.

use super::*;

#[test]
fn a_lone_member_is_told_why_its_votes_stay_and_carries_out_the_rest() {
    let node = Node::shared();
    let mut client = node.connect();
    let members = client.http("GET", "/v1/members", "", "");
    assert!(members.body.contains(r#""name":"protocol""#), "{}", members.body);
    for (method, path, words) in [
        ("POST", "/v1/members/protocol/demote", "is the last voter"),
        ("DELETE", "/v1/members/protocol", "is the last voter"),
        ("POST", "/v1/members/nobody/promote", "nobody"),
        ("POST", "/v1/members/protocol/replace?by=protocol", "are one member"),
        ("POST", "/v1/resize?slots=1001", "no room for 1001 slots"),
        ("POST", "/v1/resize?slots=999", "only become more"),
    ] {
        let refused = client.http(method, path, "", "");
        refused.is("409", "order_refused");
        assert!(refused.body.contains(words), "{path}: {}", refused.body);
    }
    let checkpoint = client.http("POST", "/v1/checkpoint", "", "");
    assert!(checkpoint.body.contains(r#""node":"protocol""#), "{}", checkpoint.body);
    for (path, body) in [
        ("/v1/members/protocol/promote", r#"{"promoted":"protocol"}"#),
        ("/v1/transfer-leader?to=protocol", r#"{"leader":"protocol"}"#),
        ("/v1/resize?slots=1000", r#"{"slots":1000}"#),
    ] {
        assert_eq!(client.http("POST", path, "", "").body, body, "{path}: it is so already");
    }
    let token = client.http("POST", "/v1/join-tokens?seconds=60", "", "");
    assert_eq!((token.status(), token.header("cache-control")), ("201", Some("no-store")));
    assert!(token.body.contains(r#""token":"dsj_"#), "{}", token.body);
    let config = client.http("GET", "/v1/config", "", "").body;
    assert!(config.contains(r#""slots":"1000""#), "{config}");
}

#[test]
fn an_order_that_is_no_order_is_refused_and_so_is_one_of_another_site() {
    let node = Node::shared();
    let mut client = node.connect();
    for (method, path) in [
        ("POST", "/v1/members/protocol/replace"),
        ("POST", "/v1/members/%FF/demote"),
        ("POST", "/v1/resize"),
        ("POST", "/v1/resize?slots=-1"),
        ("POST", "/v1/resize?slots=1000&slots=1000"),
        ("POST", "/v1/join-tokens?seconds=0"),
        ("POST", "/v1/join-tokens?seconds=31536001"),
        ("POST", "/v1/checkpoint?now"),
        ("GET", "/v1/config?name=slots"),
    ] {
        client.http(method, path, "", "").is("400", "wrong");
    }
    client.http("POST", "/v1/checkpoint", "", "{}").is("413", "too_large");
    let mut client = node.connect();
    client.http("GET", "/v1/checkpoint", "", "").is("405", "method");
    for more in ["origin: http://elsewhere.example\r\n", "sec-fetch-site: cross-site\r\n"] {
        for (method, path) in [
            ("DELETE", "/v1/members/protocol"),
            ("POST", "/v1/transfer-leader"),
            ("POST", "/v1/checkpoint"),
            ("POST", "/v1/join-tokens"),
        ] {
            node.connect().http(method, path, more, "").is("403", "cross_site");
        }
    }
}
