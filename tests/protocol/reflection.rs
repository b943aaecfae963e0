//! A client of tonic that knows no message beforehand: it asks the node for its services and their
//! messages, and calls what it finds.

use std::str::FromStr;

use axum::http::uri::PathAndQuery;
use futures_util::stream;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ExtensionRequest, ServerReflectionRequest};

use super::*;

/// Reads messages that a descriptor describes.
#[derive(Clone)]
struct Described(MessageDescriptor);

impl Codec for Described {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Described;
    type Decoder = Described;

    fn encoder(&mut self) -> Described {
        self.clone()
    }

    fn decoder(&mut self) -> Described {
        self.clone()
    }
}

impl Encoder for Described {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Described {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), from);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// What a node says of itself.
async fn ask(channel: &Channel, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    request: DynamicMessage,
) -> Result<DynamicMessage, Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_str(&path).unwrap();
    let answer = client.unary(Request::new(request), path, Described(method.output())).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn whoever_knows_nothing_finds_every_service_and_calls_it() {
    let node = Node::shared();
    let address = format!("http://127.0.0.1:{}", node.port);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let MessageResponse::ListServicesResponse(list) =
        ask(&channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services")
    };
    let mut names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert!(
        ["diskstore.v1.Store", "grpc.health.v1.Health", "konsen.KVService"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );
    let mut pool = DescriptorPool::new();
    for name in names {
        let asked = MessageRequest::FileContainingSymbol(name.to_owned());
        let MessageResponse::FileDescriptorResponse(files) = ask(&channel, asked).await else {
            panic!("no file of {name}")
        };
        for file in files.file_descriptor_proto {
            pool.decode_file_descriptor_proto(&file[..]).unwrap();
        }
        assert!(pool.get_service_by_name(name).is_some(), "{name}");
    }

    let store = pool.get_service_by_name("diskstore.v1.Store").unwrap();
    let method = |name| store.methods().find(|method| method.name() == name).unwrap();
    let mut key = DynamicMessage::new(pool.get_message_by_name("diskstore.v1.Key").unwrap());
    key.set_field_by_name("slot", Value::U64(940));
    let with_key = |method: &MethodDescriptor| {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("key", Value::Message(key.clone()));
        request
    };
    let (set, get) = (method("Set"), method("Get"));
    let mut request = with_key(&set);
    request.set_field_by_name("value", Value::Bytes(b"found"[..].into()));
    let written = call(&channel, &set, request).await.unwrap();
    let found = call(&channel, &get, with_key(&get)).await.unwrap();
    assert_eq!(*found.get_field_by_name("value").unwrap(), Value::Bytes(b"found"[..].into()));
    assert_eq!(found.get_field_by_name("version"), written.get_field_by_name("version"));
    let delete = method("Delete");
    call(&channel, &delete, with_key(&delete)).await.unwrap();
    let missing = call(&channel, &get, with_key(&get)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);

    let unknown = ExtensionRequest { containing_type: "nobody".to_owned(), extension_number: 1 };
    for asked in [
        MessageRequest::FileContainingSymbol("diskstore.v1.Nothing".to_owned()),
        MessageRequest::FileByFilename("/etc/passwd".to_owned()),
        MessageRequest::FileContainingExtension(unknown),
    ] {
        let mut client = ServerReflectionClient::new(channel.clone());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
        let answers = client.server_reflection_info(stream::iter([request])).await;
        let first = answers.unwrap().into_inner().message().await;
        assert!(first.is_err(), "{first:?}");
    }
}
