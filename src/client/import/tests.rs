//! An original made of its messages, and a node of ours that takes what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskstore_proto::api::node_server::{Node, NodeServer};
use hyper::server::conn::http2 as serving;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::{Status, async_trait};

use super::*;
use crate::cli::Form;

/// A node of the original: what it holds, by key, with epoch and clock.
#[derive(Debug, Clone, Default)]
struct FakeOriginal(Arc<BTreeMap<&'static str, (u64, u64, &'static str)>>);

#[async_trait]
impl Node for FakeOriginal {
    async fn health(
        &self,
        _: tonic::Request<api::HealthRequest>,
    ) -> Result<tonic::Response<api::HealthResponse>, Status> {
        Err(Status::unknown("not asked for"))
    }

    type InfoStream = BoxStream<api::InfoResponse>;

    async fn info(
        &self,
        _: tonic::Request<api::InfoRequest>,
    ) -> Result<tonic::Response<Self::InfoStream>, Status> {
        let keys = self.0.keys().map(|key| Bytes::from_static(key.as_bytes())).collect();
        let piece = api::InfoResponse { node_id: "1".to_owned(), keys, ..Default::default() };
        Ok(tonic::Response::new(Box::pin(futures_util::stream::iter([Ok(piece)]))))
    }

    async fn get(
        &self,
        request: tonic::Request<api::GetRequest>,
    ) -> Result<tonic::Response<api::NodeGetResponse>, Status> {
        let key = request.into_inner().key;
        let text = std::str::from_utf8(&key).unwrap();
        let clocked_entry = self.0.get(text).map(|(epoch, clock, value)| {
            let entry =
                api::Entry { key: key.clone(), value: (*value).into(), ..Default::default() };
            let clock = api::ClockValue { epoch: *epoch, clock: *clock };
            api::ClockedEntry { entry: Some(entry), clock: Some(clock) }
        });
        Ok(tonic::Response::new(api::NodeGetResponse { clocked_entry }))
    }

    async fn set(
        &self,
        _: tonic::Request<api::NodeSetRequest>,
    ) -> Result<tonic::Response<api::SetResponse>, Status> {
        panic!("nothing of the original is changed")
    }
}

/// Serves an original; its address.
fn serve_original(holds: &[(&'static str, (u64, u64, &'static str))]) -> String {
    let original = FakeOriginal(Arc::new(holds.iter().copied().collect()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(NodeServer::new(original.clone()));
                let connection = serving::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    address
}

/// A node that takes everything, and what it was told: each request in one line.
fn serve_target() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let (stream, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let count: usize = line.trim_end().strip_prefix('*').unwrap().parse().unwrap();
                let mut words = Vec::new();
                for _ in 0..count {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                    let length: usize = line.trim_end().strip_prefix('$').unwrap().parse().unwrap();
                    let mut word = vec![0; length + 2];
                    stream.read_exact(&mut word).await.unwrap();
                    words.push(String::from_utf8_lossy(&word[..length]).into_owned());
                }
                // Key `b` was written before.
                let version = if words[1] == "WRITE" || words[3] == "b" { "7" } else { "0" };
                told.send(words.join(" ")).unwrap();
                let reply = format!("*1\r\n$1\r\n{version}\r\n");
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
    });
    (address, heard)
}

fn asked(list: &str) -> RegisterAsked {
    RegisterAsked { list: list.to_owned(), level: Some("all".to_owned()), form: Form::default() }
}

#[test]
fn the_newest_of_each_key_is_copied_once() {
    let first = serve_original(&[("a", (1, 9, "old")), ("b", (2, 1, "b")), ("c", (1, 1, "c"))]);
    let second = serve_original(&[("a", (2, 1, "new")), ("b", (1, 9, "stale")), ("d", (1, 1, ""))]);
    let (target, heard) = serve_target();
    let from = format!("{first},{second}");
    let mut out = Vec::new();
    run(&from, Existing::LeftAlone, &asked(&target), &mut out).unwrap();
    let words =
        "3 keys were copied; 1 were left alone, for they had been written here (-overwrite)\n";
    assert_eq!(String::from_utf8(out).unwrap(), words);
    let written = |heard: std::sync::mpsc::Receiver<String>| {
        heard
            .iter()
            .filter_map(|line| line.strip_prefix("DISKSTORE WRITE all ").map(str::to_owned))
            .collect()
    };
    let heard: Vec<String> = written(heard);
    assert_eq!(heard, ["a new", "c c", "d "]);
    let (target, heard) = serve_target();
    run(&from, Existing::Overwritten, &asked(&target), &mut Vec::new()).unwrap();
    let heard: Vec<String> = written(heard);
    assert_eq!(heard, ["a new", "b b", "c c", "d "]);
}

#[test]
fn a_node_that_does_not_answer_ends_it_before_anything_is_copied() {
    let first = serve_original(&[("a", (1, 1, "a"))]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (target, heard) = serve_target();
    let mut out = Vec::new();
    let error = run(&format!("{first},{closed}"), Existing::LeftAlone, &asked(&target), &mut out)
        .unwrap_err();
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    assert_eq!(heard.iter().count(), 0);
    for (from, words) in [("h", "-addr"), ("", "-addr")] {
        let error =
            run(from, Existing::LeftAlone, &asked(&target), &mut out).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
