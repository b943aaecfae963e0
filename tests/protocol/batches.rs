//! HTTP: many operations as one entry.

use super::*;

const JSON: &str = "content-type: application/json\r\n";

#[test]
fn a_batch_is_one_entry_and_its_conditions_are_each_its_own() {
    let node = Node::shared();
    let mut client = node.connect();
    let put = client.http("PUT", "/v1/slots/630", "", "first");
    let known = put.header("diskstore-index").unwrap().to_owned();
    let batch = format!(
        r#"[{{"op":"get","key":"630"}},{{"op":"set","key":"630","value":"second","if":{{"version":{known}}}}},
            {{"op":"set","key":"630","value":"third","if":{{"version":{known}}}}},{{"op":"get","key":"key:630"}},
            {{"op":"set","key":"631","value":{{"base64":"/wA="}},"if":"absent"}},{{"op":"delete","key":"632","if":"present"}}]"#
    );
    let response = client.http("POST", "/v1/batch", JSON, &batch);
    assert_eq!(response.status(), "200", "{}", response.body);
    let index = response.header("diskstore-index").unwrap();
    assert_eq!(response.header("diskstore-holders"), Some("0"));
    let expected = format!(
        r#"{{"results":[{{"value":"first","version":{known}}},{{"changed":true,"version":{index}}},{{"changed":false,"version":{index}}},{{"value":"second","version":{index}}},{{"changed":true,"version":{index}}},{{"changed":false,"version":0}}]}}"#
    );
    assert_eq!(response.body, expected);
    for level in ["linearizable", "local", "log"] {
        let reads = r#"[{"op":"get","key":"631"},{"op":"get","key":"633"}]"#;
        let header = format!("{JSON}diskstore-level: {level}\r\n");
        let response = client.http("POST", "/v1/batch", &header, reads);
        let expected = format!(
            r#"{{"results":[{{"value":{{"base64":"/wA="}},"version":{index}}},{{"value":null,"version":0}}]}}"#
        );
        assert_eq!(response.body, expected, "{level}");
        assert_eq!(response.header("diskstore-index"), None, "{level}");
    }
}

#[test]
fn a_batch_that_is_wrong_in_one_place_changes_nothing() {
    let node = Node::shared();
    let mut client = node.connect();
    let kept = r#"{"op":"set","key":"640","value":"x"}"#;
    let many = format!("[{}]", vec![r#"{"op":"get","key":"640"}"#; 4097].join(","));
    for (more, body, status, code) in [
        ("", format!("[{kept}]"), "415", "content_type"),
        ("content-type: text/plain\r\n", format!("[{kept}]"), "415", "content_type"),
        (
            JSON,
            format!(r#"[{kept},{{"op":"set","key":"641","value":{{"base64":"/w"}}}}]"#),
            "400",
            "wrong",
        ),
        (JSON, format!(r#"[{kept},{{"op":"delete","key":"641","more":1}}]"#), "400", "wrong"),
        (JSON, format!(r#"[{kept},{{"op":"delete","key":"name"}}]"#), "400", "wrong"),
        (JSON, format!("[{kept}] [{kept}]"), "400", "wrong"),
        (JSON, format!("[{kept}"), "400", "wrong"),
        (
            JSON,
            format!(r#"[{kept},{{"op":"set","key":"641","value":"{}"}}]"#, "x".repeat(1501)),
            "413",
            "too_large",
        ),
        (JSON, "[".repeat(1 << 20), "400", "wrong"),
        (JSON, many, "400", "wrong"),
    ] {
        client.http("POST", "/v1/batch", more, &body).is(status, code);
    }
    client.http("GET", "/v1/slots/640", "", "").is("404", "no_value");
    let content = format!("{JSON}content-length: {}\r\nconnection: close\r\n", (16 << 20) + 1);
    let told =
        node.ask(format!("POST /v1/batch HTTP/1.1\r\nhost: localhost\r\n{content}\r\n").as_bytes());
    assert_eq!(told.get(9..12), Some("413"), "{told}");
}
