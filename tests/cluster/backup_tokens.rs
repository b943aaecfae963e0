//! Who may take a backup, and for how long.

use std::io::Read;
use std::path::Path;

use rustix::process::Signal;

use crate::backup::{LARGE, SMALL, begun, done, fill_large, refused, run};
use crate::http::Http;
use crate::nodes::{Cluster, wait_until};

#[test]
fn a_backup_takes_the_token_of_an_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [tokens, file] = ["tokens.toml", "backup"].map(path);
    let of_role = |role: &str| {
        let token = done(&["token", role, "-role", role, "-tokens", &tokens]);
        std::fs::write(path(role), token).unwrap();
        path(role)
    };
    let [reader, administrator] = ["read", "admin"].map(of_role);
    let mut cluster = Cluster::empty();
    let more = [&SMALL[..], &["-tokens", &tokens]].concat();
    cluster.add("node0", &more).start();
    let address = cluster.nodes[0].client_address();
    let words = |token: &str| {
        let run = run(&["backup", "-addr", &address, "-token-file", token, "-o", &file]);
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    wait_until("a backup", || words(&administrator).0 == Some(0));
    std::fs::remove_file(&file).unwrap();
    let (exit_code, refusal) = words(&reader);
    assert_eq!((exit_code, refusal.contains("says: ")), (Some(1), true), "{refusal}");
    let refusal = refused(1, &["backup", "-addr", &address, "-o", &file]);
    assert!(refusal.contains("says: "), "{refusal}");
    assert!(!Path::new(&file).exists());
}

#[test]
fn a_backup_ends_in_the_middle_once_its_token_counts_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [tokens, others] = ["tokens.toml", "others.toml"].map(path);
    let token = |file: &str| done(&["token", "one", "-role", "admin", "-tokens", file]);
    let (token, _other) = (token(&tokens), token(&others));
    let mut cluster = Cluster::empty();
    cluster.add("node0", &[&LARGE[..], &["-tokens", &tokens]].concat()).start();
    let node = &cluster.nodes[0];
    let header = format!("authorization: Bearer {}\r\n", token.trim());
    wait_until("it serves", || {
        let ready = Http::connect(node).and_then(|mut it| it.send("GET", "/readyz", "", ""));
        ready.is_ok_and(|ready| ready.status == 200)
    });
    fill_large(node, &["AUTH", token.trim()]);
    let mut stream = begun(node, &header);
    std::fs::rename(&others, &tokens).unwrap();
    node.signal(Signal::HUP);
    let mut who = Http::connect(node).unwrap();
    wait_until("the token to be gone", || {
        who.send("GET", "/v1/whoami", &header, "").unwrap().status == 401
    });
    let mut rest = Vec::new();
    // The connection may end as it likes.
    let ended = stream.read_to_end(&mut rest);
    assert!(rest.len() < 40 << 20, "{} bytes: {ended:?}", rest.len());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "its end is told, as if it were whole");
}
