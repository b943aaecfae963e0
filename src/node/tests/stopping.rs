//! Clients of a node that stops: what came as it did has an answer, which says that nothing was done.

use std::sync::Arc;

use diskstore_storage::disk::SimDisk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::whole::{LONG, start};
use crate::host::{LocalNet, Stream};
use crate::node::Node;
use crate::server::{Access, Server};

const ADDRESS: &str = "127.0.0.1:11000";

/// A node that serves clients, until it is told to stop.
struct Served {
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Served {
        let (net, disk) = (LocalNet::default(), SimDisk::new(11));
        let node = start(&net, &disk, 0).await;
        let (stop, stopping) = watch::channel(false);
        let listener = node.host().net.listen(ADDRESS).await.unwrap();
        let server = Server::new(node.clone(), &[], Arc::new(Access::free()));
        let server = tokio::spawn(server.run(listener, stopping));
        Served { node, stop, server }
    }

    async fn dial(&self) -> Stream {
        self.node.host().net.dial(ADDRESS).await.unwrap()
    }

    /// What a client hears that asks for this just as the node stops, until its connection ends.
    async fn ask_at_the_stop(self, mut client: Stream, request: &[u8]) -> String {
        self.stop.send_replace(true);
        client.write_all(request).await.unwrap();
        let mut found = String::new();
        timeout(LONG, client.read_to_string(&mut found)).await.expect("an end").unwrap();
        timeout(LONG, self.server).await.expect("its sessions end").unwrap();
        timeout(LONG, self.node.stop()).await.unwrap();
        found
    }
}

/// Asks for this, and reads as many bytes as the expected answer has.
async fn ask(client: &mut Stream, request: &str, expected: &str) {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut found = vec![0; expected.len()];
    timeout(LONG, client.read_exact(&mut found)).await.expect("an answer").unwrap();
    assert_eq!(String::from_utf8_lossy(&found), expected);
}

#[tokio::test]
async fn a_request_of_http_that_comes_at_the_stop_is_told_that_nothing_was_done() {
    let served = Served::start().await;
    let mut client = served.dial().await;
    ask(&mut client, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", "HTTP/1.1 200 OK\r\n").await;
    let put = b"PUT /v1/slots/7 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx";
    let found = served.ask_at_the_stop(client, &put.repeat(2)).await;
    let (_, found) = found.split_once("\r\n\r\nok\n").expect("the rest of the first answer");
    assert!(found.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{found}");
    assert!(found.contains("\r\nconnection: close\r\n"), "{found}");
    assert!(found.ends_with(r#"{"code":"unavailable","message":"this node is stopping"}}"#));
    assert_eq!(found.matches("HTTP/1.1").count(), 1, "nothing is read behind it: {found}");
}

#[tokio::test]
async fn an_order_that_comes_at_the_stop_is_refused_as_a_write_is() {
    let served = Served::start().await;
    let mut client = served.dial().await;
    ask(&mut client, "PING\r\n", "+PONG\r\n").await;
    let asked =
        b"SET 7 x\r\nDISKSTORE CHECKPOINT\r\nDISKSTORE INVITE 60\r\nDISKSTORE REMOVE node9\r\n\
                  MULTI\r\nDISKSTORE CHECKPOINT\r\nEXEC\r\nPING\r\nQUIT\r\n";
    let found = served.ask_at_the_stop(client, asked).await;
    let lines: Vec<&str> = found.lines().collect();
    let [refused, rest @ ..] = &lines[..] else { panic!("{found}") };
    assert!(refused.starts_with('-') && refused.ends_with("this node is stopping"), "{found}");
    assert_eq!(rest[..3], [*refused; 3], "{found}");
    assert_eq!(rest[rest.len() - 2..], ["+PONG", "+OK"], "{found}");
}
