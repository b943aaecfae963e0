"""What clients of others find at leaderless nodes: tests/clients/leaderless.py NODE NODE NODE

redis-py, grpcio and requests, each with nothing of ours: of gRPC's messages grpcio knows what reflection tells it. The
calls are those of the README of leaderless-key-value-store, whose lines are typed with grpcurl.
"""

import sys
import time

import grpc
import redis
import requests
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

NODES = sys.argv[1:]
TIMEOUT_S = 60
SERVICES = {"api.Cluster", "api.Node", "api.Clock", "grpc.health.v1.Health"}


def expect(actual, expected):
    assert actual == expected, f"{actual!r}, expected {expected!r}"


# -- redis-py


def refused(words, call):
    """The call fails with an error of the server that has these words."""
    try:
        result = call()
    except redis.ResponseError as found:
        assert words in str(found), f"{found}, expected {words}"
    else:
        raise AssertionError(f"{result!r}, expected an error: {words}")


def with_redis_py(protocol):
    first, other = (client_of(node, protocol) for node in NODES[:2])
    expect(first.ping(), True)
    for value in [b"", b"\r\n", b"\0", b"hello", bytes(range(256)) * 4096]:
        expect(first.set("r", value), True)
        expect(other.get("r"), value)
        expect(other.strlen("r"), len(value))
    expect(other.exists("r", "r", "no"), 2)
    expect(first.delete("r", "no"), 1)
    expect((other.get("r"), other.exists("r"), other.strlen("r")), (None, 0, 0))
    expect(first.mset({"k1": "one", "k2": b"two"}), True)
    expect(other.mget("k1", "k2", "k3"), [b"one", b"two", None])
    # SCAN has the keys that are held here, and each of three nodes holds all of three replicas.
    expect({key for key in other.scan_iter(match="k*", count=2)}, {b"k1", b"k2"})
    expect(first.dbsize() >= 2, True)
    expect(first.info()["cluster_enabled"], 0)
    expect(first.execute_command("LEVEL", "all"), b"OK")
    expect(first.set("k1", "everywhere"), True)
    for node in NODES:
        near = client_of(node, protocol)
        expect(near.execute_command("LEVEL", "one"), b"OK")
        expect(near.get("k1"), b"everywhere")
        refused("level is one, quorum or all", lambda near=near: near.execute_command("LEVEL", "two"))
        near.close()
    with first.pipeline(transaction=False) as pipe:
        for number in range(300):
            pipe.set(f"p{number}", f"{number}")
        pipe.get("p7").delete("p7").get("p7")
        expect(pipe.execute(), [True] * 300 + [b"7", 1, None])
    # What needs an order is refused, and says who keeps one.
    for call in [
        lambda: first.incr("n"),
        lambda: first.append("n", "x"),
        lambda: first.getdel("n"),
        lambda: first.set("n", "x", nx=True),
        lambda: first.execute_command("MULTI"),
    ]:
        refused("use kvstore", call)
    # MULTI, SET and EXEC in one go: the connection ends behind MULTI, and nothing is carried out without it.
    try:
        result = first.pipeline().set("n", "x").execute()
    except redis.RedisError:
        expect(other.get("n"), None)
    else:
        raise AssertionError(f"{result!r} of a transaction")
    first.close()
    other.close()


def client_of(node, protocol):
    """One connection, so that its LEVEL is that of all that follows."""
    host, port = node.rsplit(":", 1)
    return redis.Redis(
        host=host, port=int(port), protocol=protocol, socket_timeout=TIMEOUT_S, single_connection_client=True
    )


# -- grpcio


class Caller:
    """Calls a node as grpcurl does: a method by name, a request as JSON, the answers as JSON."""

    def __init__(self, node):
        self.channel = grpc.insecure_channel(node)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, name, request="{}", level=None):
        service, method_name = name.split("/")
        method = self.pool.FindServiceByName(service).methods_by_name[method_name]
        asked = json_format.Parse(request, GetMessageClass(method.input_type)())
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = kind(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        metadata = [("x-level", level)] if level else []
        answer = call(asked, timeout=TIMEOUT_S, metadata=metadata)
        parts = list(answer) if method.server_streaming else [answer]
        return [json_format.MessageToDict(part) for part in parts]

    def refused(self, name, request="{}", level=None):
        try:
            answer = self.call(name, request, level)
        except grpc.RpcError as error:
            return error.code().name
        raise AssertionError(f"{name} {request} is not refused: {answer}")


def with_grpcio():
    first, second, third = callers = [Caller(node) for node in NODES]
    for caller in callers:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        (answer,) = stub.ServerReflectionInfo(asked, timeout=TIMEOUT_S)
        found = {service.name for service in answer.list_services_response.service}
        assert SERVICES <= found, found
        health = health_pb2_grpc.HealthStub(caller.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="api.Cluster"), timeout=TIMEOUT_S)
        expect(answer.status, health_pb2.HealthCheckResponse.SERVING)

    # -- the README's lines
    entry = '{"entry": {"key": "a", "value": "hello"}}'
    expect(first.call("api.Cluster/Set", entry), [{}])
    expect(second.call("api.Cluster/Get", '{"key": "a"}'), [{"entry": {"key": "a", "value": "hello"}}])
    (info,) = third.call("api.Cluster/Info")
    expect((info["replicationLevel"], len(info["storageNodes"])), ("3", 3))
    (health,) = first.call("api.Node/Health")
    expect((health["nodeId"], health["status"]), ("1", "ONLINE"))
    expect(third.call("api.Node/Set", '{"entry": {"key": "d", "value": "x"}}'), [{}])  # never worked there
    (held,) = third.call("api.Node/Get", '{"key": "d"}')
    expect(held["clockedEntry"]["entry"], {"key": "d", "value": "x"})
    pieces = third.call("api.Node/Info")
    assert {"a", "d"} <= {key for piece in pieces for key in piece.get("keys", [])}, pieces

    # -- an original's coordinator: the clock of a node, one more, and a store under that
    (shown,) = third.call("api.Clock/Get")
    epoch, clock = shown["value"]["epoch"], int(shown["value"].get("clock", 0)) + 1
    value = '{"epoch": %s, "clock": %d}' % (epoch, clock)
    expect(third.call("api.Clock/Set", '{"value": %s}' % value), [{}])
    stored = '{"clocked_entry": {"entry": {"key": "c", "value": "three"}, "clock": %s}}' % value
    expect(third.call("api.Node/Set", stored), [{}])
    (held,) = third.call("api.Node/Get", '{"key": "c"}')
    expect(held["clockedEntry"]["clock"], {"epoch": epoch, "clock": str(clock)})

    # -- levels, and what is refused
    expect(first.call("api.Cluster/Set", '{"entry": {"key": "b", "value": "all"}}', level="all"), [{}])
    for caller in callers:
        expect(caller.call("api.Cluster/Get", '{"key": "b"}', level="one")[0]["entry"]["value"], "all")
        expect(caller.refused("api.Cluster/Get", '{"key": "none"}'), "NOT_FOUND")
        expect(caller.call("api.Node/Get", '{"key": "none"}'), [{}])
        expect(caller.refused("api.Cluster/Set"), "INVALID_ARGUMENT")
        expect(caller.refused("api.Cluster/Get", '{"key": "b"}', level="two"), "INVALID_ARGUMENT")


# -- requests


def with_requests():
    urls = [f"http://{node}" for node in NODES]
    with requests.Session() as session:
        put = session.put(f"{urls[0]}/v1/keys/a/b%20c", data=b"\x00\xff", timeout=TIMEOUT_S)
        expect((put.status_code, put.headers["etag"] != '"0"'), (204, True))
        for url in urls:
            got = session.get(f"{url}/v1/keys/a/b%20c", params={"level": "quorum"}, timeout=TIMEOUT_S)
            expect((got.status_code, got.content, got.headers["etag"]), (200, b"\x00\xff", put.headers["etag"]))
        known = {"if-none-match": put.headers["etag"]}
        expect(session.get(f"{urls[1]}/v1/keys/a/b%20c", headers=known, timeout=TIMEOUT_S).status_code, 304)
        held = {"if-match": put.headers["etag"]}
        refusal = session.put(f"{urls[1]}/v1/keys/a/b%20c", data=b"x", headers=held, timeout=TIMEOUT_S)
        expect((refusal.status_code, "use kvstore" in refusal.text), (501, True))
        for found in ["true", "false"]:
            erased = session.delete(f"{urls[2]}/v1/keys/a/b%20c", timeout=TIMEOUT_S)
            expect((erased.status_code, erased.headers["leaderless-deleted"]), (204, found))
        expect(session.get(f"{urls[0]}/v1/keys/a/b%20c", timeout=TIMEOUT_S).status_code, 404)
        wrong = session.get(f"{urls[0]}/v1/keys/a", params={"level": "two"}, timeout=TIMEOUT_S)
        expect(wrong.status_code, 400)
        for path, words in [("livez", "ok"), ("readyz", "ready"), ("metrics", "grpc_server_handled_total")]:
            assert words in session.get(f"{urls[0]}/{path}", timeout=TIMEOUT_S).text, path
        status = session.get(f"{urls[0]}/status", timeout=TIMEOUT_S).json()
        expect((status["standing"], status["clashes"], len(status["peers"])), ("ready", 0, 2))


def wait_until_ready():
    """A cluster begins once its nodes have found each other, and one that comes last first copies what it missed.

    Until then each says that it cannot: a write that wants all of them waits for the last.
    """
    for node in NODES:
        client = client_of(node, 2)
        expect(client.execute_command("LEVEL", "all"), b"OK")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                client.set("ready", node)
                break
            except redis.ResponseError as found:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
        client.close()


wait_until_ready()
for protocol in [2, 3]:
    with_redis_py(protocol)
with_grpcio()
with_requests()
print("leaderless ok")
