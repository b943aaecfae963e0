//! Nodes that show each other certificates: a cluster under TLS, certificates and authorities that are
//! replaced under load, and those that nobody may get in with.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diskstore::peer::{Hello, Purpose};
use diskstore::tls::authority::{Authority, Validity};
use diskstore::tls::{Bearer, Certificate, Pair};
use rustix::process::Signal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::harness::{run, stderr, stdout};
use crate::load::{History, Load};
use crate::nodes::{Cluster, Node, wait_for, wait_until};
use crate::resp::{Value, dial_under_tls};

const NAMES: [&str; 3] = ["node0", "node1", "node2"];
/// Acknowledged writes between two steps.
const WRITES: u64 = 100;
/// How long an attempt waits for what it should not get.
const ATTEMPT_BOUND: Duration = Duration::from_secs(5);

/// Three nodes that are not started, and the certificates of their cluster. Tests ask them as `alice`.
struct Secured {
    cluster: Cluster,
    out: PathBuf,
}

fn certs(arguments: &[&str], out: &Path) -> String {
    let output = run(&[&["certs"], arguments, &["-out", out.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

impl Secured {
    fn new(more: &[&str]) -> Secured {
        let mut cluster = Cluster::empty();
        let out = cluster.folder.path().join("certs");
        for name in NAMES {
            let files = out.join(name).display().to_string();
            let geometry = ["-slots", "4096", "-value-size", "256", "-tls", &files];
            cluster.add(name, &[&geometry[..], more].concat());
        }
        let first = cluster.nodes[0].raft_address();
        for node in &mut cluster.nodes[1..] {
            node.arguments.extend(["-join".to_owned(), first.clone()]);
        }
        let named: Vec<String> =
            cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.host())).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        certs(&[&named[..], &["-client", "alice"]].concat(), &out);
        for node in &cluster.nodes {
            dial_under_tls(node.host(), &out.join("client-alice"));
        }
        Secured { cluster, out }
    }

    fn started(more: &[&str]) -> Secured {
        let mut secured = Secured::new(more);
        for node in &mut secured.cluster.nodes {
            node.start();
        }
        secured.cluster.wait_voters(3);
        secured
    }

    /// Has all nodes read their certificates again, and waits until they did.
    fn reload(&self, words: &str) {
        let before: Vec<usize> = self.cluster.nodes.iter().map(|node| node.words().len()).collect();
        for (node, before) in self.cluster.nodes.iter().zip(before) {
            node.signal(Signal::HUP);
            wait_until(words, || node.words().split_off(before).contains(words));
        }
    }
}

#[test]
fn three_nodes_that_show_certificates_are_a_cluster_and_replace_one_that_died() {
    let mut secured = Secured::started(&["-tls-mode", "mutual"]);
    let cluster = &mut secured.cluster;
    assert_eq!(cluster.nodes[1].asked(&["SET", "42", "hello"]), Value::Simple("OK".into()));
    assert_eq!(cluster.nodes[2].asked(&["GET", "42"]).text().as_deref(), Some("hello"));
    let listed = cluster.nodes[2].asked(&["CLIENT", "LIST"]).text().unwrap();
    assert!(listed.contains("certificate=diskstore://client/alice\n"), "{listed}");
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.wipe(leader);
    let other = cluster.nodes[(leader + 1) % 3].raft_address();
    let node = &mut cluster.nodes[leader];
    node.arguments.retain(|word| word != "-join");
    node.arguments.retain(|word| !word.ends_with(":12000"));
    node.arguments.extend(["-join".to_owned(), other]);
    node.start();
    cluster.wait_voters(3);
    assert_eq!(cluster.nodes[leader].asked(&["GET", "42"]).text().as_deref(), Some("hello"));
    for node in &mut cluster.nodes {
        node.stop();
        assert!(!node.words().contains("PRIVATE KEY"));
    }
}

/// A certificate of the same authority does not make a node another member.
#[test]
fn a_node_with_the_certificate_of_another_does_not_start_or_join() {
    let mut secured = Secured::new(&[]);
    let out = secured.out.clone();
    let nodes = &mut secured.cluster.nodes;
    nodes[0].start();
    let files = out.join("node1").display().to_string();
    let own = out.join("node2").display().to_string();
    for word in &mut nodes[2].arguments {
        if *word == own {
            word.clone_from(&files);
        }
    }
    let words = nodes[2].must_refuse(1);
    assert!(words.contains("the certificate is that of member node1"), "{words}");
    let plain: Vec<String> =
        nodes[1].arguments[..4].iter().chain(&nodes[1].arguments[6..]).cloned().collect();
    nodes[1].arguments = plain;
    nodes[1].start();
    wait_until("a refusal", || nodes[1].words().contains("TLS is spoken here"));
}

/// From plain to TLS, one node after the other, twice: everything is served meanwhile.
#[test]
fn a_cluster_moves_from_plain_to_tls_without_a_lost_write() {
    let mut secured = Secured::new(&[]);
    let out = secured.out.clone();
    for node in &mut secured.cluster.nodes {
        let at = node.arguments.iter().position(|word| word == "-tls").unwrap();
        node.arguments.drain(at..at + 2);
        node.start();
    }
    let folder = out.join("client-alice");
    for node in &secured.cluster.nodes {
        crate::resp::dial_plain(node.host());
    }
    secured.cluster.wait_voters(3);
    let history = History::new();
    for mode in ["prefer", "require"] {
        for index in 0..3 {
            let load = Load::start(&secured.cluster, &history);
            load.wait_more(WRITES);
            let node = &mut secured.cluster.nodes[index];
            node.stop();
            node.arguments.retain(|word| word != "-tls-mode" && word != "prefer");
            if mode == "prefer" {
                node.arguments
                    .extend(["-tls".to_owned(), out.join(&node.name).display().to_string()]);
            }
            node.arguments.extend(["-tls-mode".to_owned(), mode.to_owned()]);
            load.wait_more(WRITES);
            node.start();
            dial_under_tls(node.host(), &folder);
            secured.cluster.wait_voters(3);
            load.wait_more(WRITES);
            load.stop();
        }
    }
    history.check_everywhere(&secured.cluster);
}

/// First the certificates, then the authority, then the old one goes.
#[test]
fn certificates_and_authorities_are_replaced_under_load_without_a_failed_write() {
    let secured = Secured::started(&[]);
    let (cluster, out) = (&secured.cluster, secured.out.clone());
    let stolen = cluster.folder.path().join("stolen");
    std::fs::create_dir(&stolen).unwrap();
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        std::fs::copy(out.join("node1").join(name), stolen.join(name)).unwrap();
    }
    let history = History::new();
    let mut load = Load::start(cluster, &history);
    load.wait_more(WRITES);
    for step in [&["-renew"][..], &["-new-ca"], &["-renew"], &["-drop-old-ca"]] {
        certs(step, &out);
        secured.reload("certificates were replaced");
        load.wait_more(WRITES);
        // Clients go on with certificates of the new authority before the old one goes.
        load.stop();
        load = Load::start(cluster, &history);
        load.wait_more(WRITES);
    }
    load.stop();
    assert_eq!((history.refused(), history.unknown()), (0, 0), "refused and unknown writes");
    history.check_everywhere(cluster);
    let attempt =
        Attempt { shown: Shown::Folder(stolen), ..Attempt::hello(&cluster.nodes[0], 12000) };
    assert!(!attempt.gets_in(), "the old authority is trusted no more");
    std::fs::write(out.join("node0/tls.crt"), "no certificate").unwrap();
    cluster.nodes[0].signal(Signal::HUP);
    let words = "node0/tls.crt: there is no certificate in it";
    wait_until(words, || cluster.nodes[0].words().contains(words));
    assert_eq!(cluster.nodes[0].asked(&["PING"]), Value::Simple("PONG".into()));
}

/// What an attempt shows in its handshake.
#[derive(Clone)]
enum Shown {
    /// No TLS at all.
    Plain,
    /// TLS, and no certificate.
    Nothing,
    /// A certificate with its key.
    Pair(Pair),
    /// A certificate with a key that is not its own.
    OtherKey(Pair, Pair),
    /// What is in a folder.
    Folder(PathBuf),
}

/// An attempt to get in.
struct Attempt {
    address: String,
    shown: Shown,
    /// What is said once the way is open.
    said: Vec<u8>,
}

/// Takes any node for the right one: it is the node that must not be taken in.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

fn certified_key(certificate: &Pair, key: &Pair) -> CertifiedKey {
    let chain = CertificateDer::pem_slice_iter(&certificate.certificate);
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&key.key).unwrap();
    CertifiedKey::new(chain, rustls::crypto::ring::sign::any_supported_type(&key).unwrap())
}

impl Attempt {
    /// One that says hello as another member to a port of a node.
    fn hello(node: &Node, port: u16) -> Attempt {
        let status = wait_for("a status", || node.status());
        let cluster_id = u128::from_str_radix(&status.cluster_id, 16).unwrap();
        let other = status.members.iter().find(|member| member.name != node.name);
        let from = other.map_or(7, |other| u64::from_str_radix(&other.id, 16).unwrap());
        let address = other.map_or_else(String::new, |other| other.raft.clone());
        let purpose = Purpose::Requests;
        let hello = Hello {
            cluster_id,
            from,
            to: 0,
            purpose,
            process: 5,
            token: 6,
            address,
            acknowledged: None,
        };
        let mut said = Vec::new();
        hello.put(&mut said);
        Attempt { address: format!("{}:{port}", node.host()), shown: Shown::Nothing, said }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(ATTEMPT_BOUND))?;
        stream.set_write_timeout(Some(ATTEMPT_BOUND))?;
        Ok(stream)
    }

    fn config(&self) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        let own = match &self.shown {
            Shown::Plain | Shown::Nothing => return builder.with_no_client_auth(),
            Shown::Pair(pair) => certified_key(pair, pair),
            Shown::OtherKey(pair, key) => certified_key(pair, key),
            Shown::Folder(folder) => {
                let [certificate, key] =
                    ["tls.crt", "tls.key"].map(|name| std::fs::read(folder.join(name)).unwrap());
                let pair = Pair { certificate, key };
                certified_key(&pair, &pair)
            }
        };
        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
    }

    /// What comes back, all of it within the bound.
    fn answer(&self) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        if matches!(self.shown, Shown::Plain) {
            stream.write_all(&self.said)?;
            return Ok(read_some(&mut stream));
        }
        let name = ServerName::try_from("diskstore").unwrap();
        let connection = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(&self.said)?;
        stream.flush()?;
        Ok(read_some(&mut stream))
    }

    /// Whether it is let in: to say anything under TLS; or, plain, to more than a refusal.
    fn gets_in(&self) -> bool {
        let answer = self.answer().unwrap_or_default();
        if !matches!(self.shown, Shown::Plain) {
            return !answer.is_empty();
        }
        let is_welcome = answer.get(8) == Some(&2) && answer.get(12) == Some(&1);
        let is_record = answer.starts_with(b"diskstore") || answer.starts_with(b"OK");
        is_welcome
            || answer.starts_with(b"+PONG")
            || answer.starts_with(b"HTTP/1.1 200")
            || is_record
    }
}

fn read_some(stream: &mut impl Read) -> Vec<u8> {
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).unwrap_or_default();
    answer.truncate(count);
    answer
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn valid() -> Validity {
    Validity { not_before: now() - 3600, not_after: now() + 86_400 }
}

/// The beginning of a handshake as others write it, before anything was agreed on.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]); // random
    body.push(0); // session
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // suites of TLS 1.2
    body.extend([1, 0]); // no compression
    body.extend([0, 0]); // no extensions
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    let mut record = vec![0x16, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

/// What may be shown and is not enough, by what is wrong with it.
fn wrong_certificates(authority: &Authority) -> Vec<(&'static str, Shown)> {
    let (foreign, _) = Authority::generate("diskstore CA", valid()).unwrap();
    let (_, own_signed) = Authority::generate("node1", valid()).unwrap();
    let expired = Validity { not_before: now() - 7200, not_after: now() - 3600 };
    let early = Validity { not_before: now() + 3600, not_after: now() + 7200 };
    let (member, client) = (Bearer::Member("node1".into()), Bearer::Client("alice".into()));
    let by = |authority: &Authority, bearer, validity| {
        authority.issue(bearer, &["localhost".to_owned()], validity).unwrap()
    };
    // A member that signs for another as if it were an authority.
    let leaf = by(authority, &member, valid());
    let [certificate, key] =
        [&leaf.certificate, &leaf.key].map(|pem| String::from_utf8(pem.clone()).unwrap());
    let lower = Authority::load(&certificate, &key).unwrap();
    let mut by_leaf = by(&lower, &member, valid());
    by_leaf.certificate.extend_from_slice(&leaf.certificate);
    let other_key = by(authority, &member, valid());
    vec![
        ("plain", Shown::Plain),
        ("no certificate", Shown::Nothing),
        ("self-signed", Shown::Pair(own_signed)),
        ("another authority", Shown::Pair(by(&foreign, &member, valid()))),
        ("a client of another authority", Shown::Pair(by(&foreign, &client, valid()))),
        ("expired", Shown::Pair(by(authority, &member, expired))),
        ("an expired client", Shown::Pair(by(authority, &client, expired))),
        ("not yet valid", Shown::Pair(by(authority, &member, early))),
        ("another key", Shown::OtherKey(leaf, other_key)),
        ("signed by a member", Shown::Pair(by_leaf)),
    ]
}

/// Bytes that are no handshake of TLS 1.3.
fn raw_bytes() -> [(&'static str, Vec<u8>); 8] {
    let mut garbage = vec![0x16, 3, 1, 0xff, 0xff];
    garbage.resize(20_000, 0xff);
    [
        ("TLS 1.2", client_hello([3, 3])),
        ("SSL 3", client_hello([3, 0])),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
        ("half a handshake", client_hello([3, 3])[..20].to_vec()),
        ("a record of any bytes", garbage),
        ("a message of 16 MiB", vec![0x16, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff, 3, 3, 0]),
        ("data before a handshake", [&[0x17, 3, 3, 0, 4][..], b"PING"].concat()),
        ("an alert", vec![0x15, 3, 3, 0, 2, 2, 0]),
    ]
}

/// Every attempt, at every port of a node, by what should keep it out.
fn attempts(secured: &Secured) -> Vec<(String, Attempt)> {
    let node = &secured.cluster.nodes[0];
    let read = |name: &str| std::fs::read_to_string(secured.out.join(name)).unwrap();
    let authority = Authority::load(&read("ca.crt"), &read("ca.key")).unwrap();
    let client = authority.issue(&Bearer::Client("alice".into()), &[], valid()).unwrap();
    let hello = Attempt::hello(node, 12000).said;
    let ports: [(u16, Vec<u8>); 5] = [
        (11000, b"*1\r\n$4\r\nPING\r\n".to_vec()),
        (11000, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
        (12000, hello.clone()),
        (13000, hello),
        (14000, b"diskstore-end-x-1\n".to_vec()),
    ];
    let wrong = wrong_certificates(&authority);
    let mut all = Vec::new();
    for (port, said) in ports {
        let mut add = |what: &str, shown, said| {
            let address = format!("{}:{port}", node.host());
            all.push((format!("{what}, port {port}"), Attempt { address, shown, said }));
        };
        for (what, shown) in &wrong {
            add(what, shown.clone(), said.clone());
        }
        if port != 11000 {
            // The authority signed it, for something else.
            add("a client's certificate", Shown::Pair(client.clone()), said.clone());
        }
        for (what, said) in raw_bytes() {
            add(what, Shown::Plain, said);
        }
    }
    all
}

/// Members of the right authority that say hello in the name of another.
fn other_names(secured: &Secured) -> Vec<Attempt> {
    let node = &secured.cluster.nodes[0];
    let read = |name: &str| std::fs::read_to_string(secured.out.join(name)).unwrap();
    let authority = Authority::load(&read("ca.crt"), &read("ca.key")).unwrap();
    let mut others = Vec::new();
    for name in ["node0", "node2", "mallory"] {
        let bearer = Bearer::Member(name.to_owned());
        let shown = Shown::Pair(authority.issue(&bearer, &[], valid()).unwrap());
        let hello = Attempt::hello(node, 12000);
        let claimed = wait_for("a status", || node.status());
        let first = claimed.members.iter().find(|member| member.name != "node0").unwrap();
        if first.name != name {
            others.push(Attempt { shown, ..hello });
        }
    }
    others
}

#[test]
fn nobody_gets_in_without_the_right_certificate() {
    let mut secured = Secured::new(&["-tls-mode", "mutual"]);
    let folder = secured.cluster.folder.path().join("records").display().to_string();
    std::fs::create_dir(&folder).unwrap();
    let node = &mut secured.cluster.nodes[0];
    let (join, recovery) = (node.join_address(), format!("{}:14000", node.host()));
    let more = ["-hjoin", &join, "-logfolder", &folder, "-hrecov", &recovery];
    node.arguments.extend(more.map(str::to_owned));
    for node in &mut secured.cluster.nodes {
        node.start();
    }
    secured.cluster.wait_voters(3);
    let attempts = attempts(&secured);
    assert!(attempts.len() >= 60, "{}", attempts.len());
    let node = &secured.cluster.nodes[0];
    // A handshake that stands still all the while.
    let stalled: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(&attempts[0].1.address).unwrap();
            stream.write_all(&client_hello([3, 3])[..30]).unwrap();
            stream
        })
        .collect();
    for (what, attempt) in &attempts {
        assert!(!attempt.gets_in(), "{what}");
        assert_eq!(node.ask(&["PING"]).unwrap(), Value::Simple("PONG".into()), "after: {what}");
    }
    drop(stalled);
    let others = other_names(&secured);
    assert!(others.len() >= 2);
    for attempt in others {
        let answer = attempt.answer().unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("the certificate is that of member"), "{answer}");
    }
    // What is right gets in, so the others were kept out by what is wrong with them.
    let right = Shown::Folder(secured.out.join("client-alice"));
    let (_, ping) = &attempts[0];
    let allowed = Attempt { address: ping.address.clone(), shown: right, said: ping.said.clone() };
    assert!(allowed.gets_in());
    replay(node, &secured.out.join("client-alice"));
    secured.cluster.wait_voters(3);
    for node in &mut secured.cluster.nodes {
        node.stop();
        assert!(!node.words().contains("PRIVATE KEY"));
    }
}

/// Copies what is written.
struct Copied {
    stream: TcpStream,
    written: Vec<u8>,
}

impl Read for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Copied {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.extend_from_slice(bytes);
        self.stream.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Says all that a good client said once more, byte for byte: it changes nothing.
fn replay(node: &Node, folder: &Path) {
    let attempt = Attempt {
        address: node.client_address(),
        shown: Shown::Folder(folder.to_owned()),
        said: Vec::new(),
    };
    let copied = Copied { stream: attempt.connect().unwrap(), written: Vec::new() };
    let name = ServerName::try_from("diskstore").unwrap();
    let connection = ClientConnection::new(Arc::new(attempt.config()), name).unwrap();
    let mut stream = StreamOwned::new(connection, copied);
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\n7\r\n$6\r\nbefore\r\n").unwrap();
    assert_eq!(read_some(&mut stream), b"+OK\r\n");
    let said = stream.sock.written;
    assert_eq!(node.asked(&["SET", "7", "after"]), Value::Simple("OK".into()));
    let mut again = attempt.connect().unwrap();
    again.write_all(&said).unwrap();
    let mut rest = Vec::new();
    drop(again.read_to_end(&mut rest)); // the node's own handshake, and the end
    assert_eq!(node.asked(&["GET", "7"]).text().as_deref(), Some("after"));
}

#[test]
fn certs_replaces_nothing_unasked_and_says_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certs");
    let json = certs(&["node0", "node1=10.0.0.1,db.example", "-json"], &out);
    let written: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(written.as_array().unwrap().len(), 6, "{json}");
    assert!(!json.contains("PRIVATE"), "{json}");
    let before = std::fs::read(out.join("node0/tls.key")).unwrap();
    let refused = run(&["certs", "node2", "node0", "-out", out.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("it is there already; -renew"), "{}", stderr(&refused));
    assert!(!out.join("node2").exists(), "nothing is written before all was checked");
    assert_eq!(std::fs::read(out.join("node0/tls.key")).unwrap(), before);
    certs(&["-renew", "-days", "30"], &out);
    let renewed = std::fs::read(out.join("node1/tls.crt")).unwrap();
    let renewed = Certificate::read_pem(&renewed).unwrap();
    assert_eq!(renewed.bearer, Bearer::Member("node1".into()));
    for host in ["10.0.0.1", "db.example", "node1", "127.0.0.1"] {
        assert!(renewed.hosts.iter().any(|other| other == host), "{:?}", renewed.hosts);
    }
    assert!(u64::try_from(renewed.not_after).unwrap() < now() + 31 * 86_400);
    assert_ne!(std::fs::read(out.join("node0/tls.key")).unwrap(), before);
    certs(&["-new-ca"], &out);
    let old = run(&["certs", "-drop-old-ca", "-out", out.to_str().unwrap()]);
    assert!(stderr(&old).contains("the older authority signed it"), "{}", stderr(&old));
    for name in ["ca.key", "ca.crt", "ca.key.old", "node0/tls.key", "node0/tls.crt", "node0/ca.crt"]
    {
        let mode = std::fs::metadata(out.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
