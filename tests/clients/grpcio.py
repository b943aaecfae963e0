"""What a client of grpcio finds: tests/clients/grpcio.py PROGRAM NODE NODE NODE

It knows no message of the nodes before it asks them (reflection, in both versions), but for konsen's service, whose
bytes are written down here as konsen's clients send and take them.
"""

import sys
import threading

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

PROGRAM, *NODES = sys.argv[1:]
TIMEOUT_S = 60
SERVICES = {
    "diskstore.v1.Store",
    "konsen.KVService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
}

channels = [grpc.insecure_channel(node) for node in NODES]


class Store:
    """Our own service at one node, as reflection describes it."""

    def __init__(self, channel):
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        for method in pool.FindServiceByName("diskstore.v1.Store").methods:
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(
                f"/diskstore.v1.Store/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method.name.lower(), self.asking(call, request))

    @staticmethod
    def asking(call, request):
        return lambda **fields: call(request(**fields), timeout=TIMEOUT_S)


def refusal(call, **fields):
    """The code and the details of a call that is refused."""
    try:
        answer = call(**fields)
    except grpc.RpcError as error:
        info = error_details_pb2.ErrorInfo()
        rpc_status.from_call(error).details[0].Unpack(info)
        assert info.domain == "diskstore", info
        return error.code().name, info.reason, info.metadata["outcome"]
    raise AssertionError(f"{fields} is not refused: {answer}")


def key(number):
    """A key that both programs have."""
    return {"slot": number} if PROGRAM == "diskstore" else {"bytes": b"key %d" % number}


stores = [Store(channel) for channel in channels]

# -- what there is
for channel in channels:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=TIMEOUT_S)
    found = {service.name for service in answer.list_services_response.service}
    assert found - {"grpc.reflection.v1alpha.ServerReflection"} | {"grpc.reflection.v1.ServerReflection"} == SERVICES, found
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", "diskstore.v1.Store", "konsen.KVService"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

# -- values, at another node each time
for turn, (here, there) in enumerate(zip(stores, stores[1:] + stores[:1])):
    value = b"\x00\xff" + b"%d" % turn
    version = here.set(key=key(turn), value=value).version
    found = there.get(key=key(turn))
    assert (found.value, found.version) == (value, version)
    again = there.set(key=key(turn), value=b"again", condition={"version": version}).version
    stale = {"key": key(turn), "value": b"x", "condition": {"version": version}}
    assert refusal(here.set, **stale) == ("FAILED_PRECONDITION", "CONDITION", "not_applied")
    assert here.get(key=key(turn), level="LEVEL_LOCAL").version in (version, again)
    assert there.delete(key=key(turn)).version > again
    for refused in (refusal(here.get, key=key(turn)), refusal(here.delete, key=key(turn))):
        assert refused == ("NOT_FOUND", "NO_VALUE", "not_applied")
assert refusal(stores[0].get) == ("INVALID_ARGUMENT", "WRONG", "not_applied")

# -- many at once, side by side over one connection
def write(number):
    for step in range(10):
        stores[0].set(key=key(100 + number), value=b"%d" % step)


threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gets = [{"key": key(100 + number), "get": {}} for number in range(20)]
for store in stores:
    batch = store.batch(operations=gets)
    assert batch.index == 0 and [result.value for result in batch.results] == [b"9"] * 20
    asked = {"slots": {"first": 100, "last": 119}} if PROGRAM == "diskstore" else {"prefix": b"key 1"}
    items = [item for part in store.scan(values=True, **asked) for item in part.items]
    assert sorted(item.value for item in items) == [b"9"] * 20
    assert {item.key.WhichOneof("name") for item in items} == {"slot" if PROGRAM == "diskstore" else "bytes"}

# -- the same changes at every node
def changes(store, last):
    told = []
    stream = store.changes(after=0)
    for answer in stream:
        if answer.WhichOneof("event") == "change":
            told.append((answer.change.index, answer.change.term, [str(write.key) for write in answer.change.writes]))
            if answer.change.index == last:
                stream.cancel()
                return told


last = stores[0].set(key=key(7), value=b"the last").version
first, *others = [changes(store, last) for store in stores]
assert [index for index, *_ in first] == list(range(1, last + 1))
assert all(other == first for other in others)

# -- konsen's bytes
def konsen(channel, method, data):
    call = channel.unary_unary(f"/konsen.KVService/{method}")  # bytes as they are
    return call(data, timeout=TIMEOUT_S)


for channel in channels:
    # PutReq{data: KVList{kv_list: [{key: "61", value: "a"}, {key: "62", value: ""}]}}
    put = b"\x0a\x0f\x0a\x07\x0a\x0261\x12\x01a\x0a\x04\x0a\x0262"
    assert konsen(channel, "Put", put) == b"\x08\x01"
for channel in channels:
    assert konsen(channel, "Get", b"\x0a\x0261") == b"\x08\x01\x12\x01a"
    assert konsen(channel, "Get", b"\x0a\x0262") == b"\x08\x01"
    try:
        konsen(channel, "Get", b"\x0a\x0263")
        raise AssertionError("63 has no value")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error

print(PROGRAM, "ok")
