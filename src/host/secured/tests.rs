use std::path::PathBuf;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::host::{Listener, LocalNet, Net};
use crate::tls::authority::{Authority, Validity};
use crate::tls::{Ages, Credentials, Pem};

/// Beyond this a test that waits has failed.
const LONG: Duration = Duration::from_secs(20);
const ADDRESS: &str = "a:1";

/// An authority, and its certificate.
struct Signer {
    authority: Authority,
    certificate: Vec<u8>,
}

fn valid() -> Validity {
    let now = UnixTime::now().as_secs();
    Validity { not_before: now - 60, not_after: now + 86_400 }
}

impl Signer {
    fn new(name: &str) -> Signer {
        let (authority, pair) = Authority::generate(name, valid()).unwrap();
        Signer { authority, certificate: pair.certificate }
    }

    fn pem(&self, bearer: &Bearer) -> Pem {
        let own = self.authority.issue(bearer, &["a".to_owned()], valid()).unwrap();
        let (directory, authorities) = (PathBuf::from("tls"), self.certificate.clone());
        Pem { directory, authorities, own: Some(own) }
    }

    fn tls(&self, name: &str, mode: Mode) -> Arc<Tls> {
        let pem = self.pem(&Bearer::Member(name.to_owned()));
        Tls::new(Credentials::new(pem, mode).unwrap(), mode)
    }
}

/// Two nodes that can dial each other.
struct Two {
    net: LocalNet,
    dialling: Arc<Tls>,
    dialled: Arc<Tls>,
}

impl Two {
    fn of(signer: &Signer) -> Two {
        let (dialling, dialled) =
            (signer.tls("one", Mode::Require), signer.tls("two", Mode::Require));
        Two { net: LocalNet::default(), dialling, dialled }
    }

    fn net(&self, tls: &Arc<Tls>) -> Net {
        Net::Tls(tls.clone(), Box::new(Net::Local(self.net.clone())))
    }

    async fn listen(&self) -> Listener {
        self.net(&self.dialled).listen(ADDRESS).await.unwrap()
    }

    /// A connection, its handshake done on both sides.
    async fn connect(&self) -> (Stream, Stream) {
        let listener = self.listen().await;
        let net = self.net(&self.dialling);
        let accepting = async {
            let (mut accepted, _) = listener.accept().await.unwrap();
            accepted.open().await.map(|()| accepted)
        };
        let (dialled, accepted) = tokio::join!(net.dial(ADDRESS), accepting);
        (dialled.unwrap(), accepted.unwrap())
    }
}

fn name_of(stream: &Stream) -> &str {
    stream.standing().unwrap().bearer().unwrap().name()
}

async fn in_long<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it ends")
}

#[tokio::test]
async fn each_side_knows_the_others_name() {
    let (dialled, accepted) = Two::of(&Signer::new("CA")).connect().await;
    assert_eq!((name_of(&dialled), name_of(&accepted)), ("two", "one"));
}

/// Whoever has written everything does not come back.
#[tokio::test]
async fn all_that_was_written_arrives_though_the_writer_does_nothing_more() {
    let (dialled, accepted) = Two::of(&Signer::new("CA")).connect().await;
    let sent: Vec<u8> = (0..1_000_003_u32).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let (_keep, mut write) = dialled.into_halves().unwrap();
    let writing = tokio::spawn(async move {
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let count = write.write(rest).await.unwrap();
            rest = &rest[count..];
        }
        write // open still
    });
    let (mut read, _other) = accepted.into_halves().unwrap();
    let mut came = BytesMut::new();
    let reading = async {
        while came.len() < expected.len() {
            assert!(read.read_buf(&mut came).await.unwrap() > 0);
        }
    };
    in_long(reading).await;
    assert_eq!(&came[..], &expected[..]);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn one_half_may_end_before_the_other() {
    let (mut dialled, mut accepted) = Two::of(&Signer::new("CA")).connect().await;
    dialled.write_all(b"asked").await.unwrap();
    dialled.shutdown().await.unwrap();
    let mut came = Vec::new();
    in_long(accepted.read_to_end(&mut came)).await.unwrap();
    accepted.write_all(b"answered").await.unwrap();
    accepted.shutdown().await.unwrap();
    let mut answer = Vec::new();
    in_long(dialled.read_to_end(&mut answer)).await.unwrap();
    assert_eq!((&came[..], &answer[..]), (&b"asked"[..], &b"answered"[..]));
}

/// Whoever holds a key of an authority that was taken away.
#[tokio::test]
async fn nothing_more_is_read_of_what_an_authority_signed_that_was_taken_away() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let two = Two::of(&old);
    let (mut dialled, mut accepted) = two.connect().await;
    let mut byte = [0];
    dialled.write_all(b"12").await.unwrap();
    accepted.read_exact(&mut byte).await.unwrap();
    let member = Bearer::Member("two".into());
    let both = [&new.certificate[..], &old.certificate].concat();
    let pem = Pem { authorities: both, ..new.pem(&member) };
    two.dialled.replace(pem).unwrap();
    accepted.read_exact(&mut byte).await.unwrap();
    two.dialled.replace(new.pem(&member)).unwrap();
    dialled.write_all(b"3").await.unwrap();
    let refused = in_long(accepted.read_exact(&mut byte)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn whoever_dialled_makes_a_connection_anew_once_certificates_were_replaced() {
    let signer = Signer::new("CA");
    let two = Two::of(&signer);
    let (dialled, _accepted) = two.connect().await;
    let standing = dialled.standing().unwrap().clone();
    assert!(!standing.is_old());
    let grown_old = tokio::spawn(standing.clone().grown_old());
    two.dialling.replace(signer.pem(&Bearer::Member("one".into()))).unwrap();
    assert!(standing.is_old());
    in_long(grown_old).await.unwrap();
    let other = two.dialling.replace(signer.pem(&Bearer::Member("two".into()))).unwrap_err();
    assert!(other.to_string().contains("that of member two, and this is member one"), "{other}");
}

/// One of the two may go on.
#[tokio::test]
async fn a_connection_of_members_has_an_age_and_a_snapshot_may_go_on() {
    let signer = Signer::new("CA");
    let ages =
        Ages { renewed_after: Duration::from_millis(20), cut_after: Duration::from_millis(40) };
    let aging = |name: &str| {
        let pem = signer.pem(&Bearer::Member(name.to_owned()));
        let credentials = Credentials::new(pem, Mode::Require).unwrap();
        Tls::aging(credentials, Mode::Require, ages)
    };
    let two = Two { net: LocalNet::default(), dialling: aging("one"), dialled: aging("two") };
    let (mut long, mut snapshot) = two.connect().await;
    for end in [&long, &snapshot] {
        end.standing().unwrap().allow_long();
    }
    let (dialled, mut accepted) = two.connect().await;
    let ended = in_long(accepted.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut, "{ended}");
    assert!(dialled.standing().unwrap().is_old());
    long.write_all(b"1").await.unwrap();
    assert_eq!(in_long(snapshot.read_u8()).await.unwrap(), b'1');
}

#[tokio::test]
async fn a_client_or_a_stranger_is_no_member() {
    let signer = Signer::new("CA");
    let two = Two::of(&signer);
    let listener = two.listen().await;
    let client = signer.pem(&Bearer::Client("two".into()));
    let client = Tls::new(Credentials::new(client, Mode::Require).unwrap(), Mode::Require);
    // The stranger takes the node for what it is.
    let other = Signer::new("CA");
    let authorities = [&other.certificate[..], &signer.certificate].concat();
    let stranger = Pem { authorities, ..other.pem(&Bearer::Member("two".into())) };
    let stranger = Tls::new(Credentials::new(stranger, Mode::Require).unwrap(), Mode::Require);
    for tls in [client, stranger] {
        let net = two.net(&tls);
        let accepting = async {
            let (mut accepted, _) = listener.accept().await.unwrap();
            in_long(accepted.open()).await.unwrap_err()
        };
        let (dialled, refused) = tokio::join!(net.dial(ADDRESS), accepting);
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
        // A dialler of TLS 1.3 may be done before it hears that it was refused.
        if let Ok(mut dialled) = dialled {
            assert!(in_long(dialled.read_u8()).await.is_err());
        }
    }
    assert_eq!(two.dialled.refused_count(), 2);
}

#[tokio::test]
async fn plain_bytes_are_refused_unless_they_are_preferred_to_nothing() {
    let signer = Signer::new("CA");
    let two = Two::of(&signer);
    let listener = two.listen().await;
    let plain = Net::Local(two.net.clone());
    let mut dialled = plain.dial(ADDRESS).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    dialled.write_all(b"hello").await.unwrap();
    let refused = accepted.read_u8().await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    accepted.write_all(b"no").await.unwrap();
    let mut answer = [0; 2];
    dialled.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"no", "it is told in plain bytes");
    drop(listener);
    let prefers = Two { dialled: signer.tls("two", Mode::Prefer), ..two };
    let listener = prefers.listen().await;
    let mut dialled = plain.dial(ADDRESS).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    dialled.write_all(b"hello").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'h');
    assert!(accepted.standing().unwrap().bearer().is_none());
}

#[test]
fn no_key_is_shown() {
    let tls = Signer::new("CA").tls("one", Mode::Require);
    let shown = format!("{tls:?} {:?}", tls.current());
    assert!(!shown.contains("PRIVATE") && !shown.contains("48, 119"), "{shown}");
}
