"""First steps over gRPC with grpcio: examples/grpc/first_steps.py [127.0.0.1:11000 ...]

It asks a running diskstore for its services and messages (reflection), so there is nothing to generate. It
writes slots 60 to 63, and follows the changes from node to node. Any nodes of a cluster will do.
"""

import itertools
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

NODES = sys.argv[1:] or ["127.0.0.1:11000"]
TIMEOUT_S = 30


class Service:
    """A service of a node, as reflection describes it: its methods, by their names."""

    def __init__(self, node, name):
        channel = grpc.insecure_channel(node)
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        for method in pool.FindServiceByName(name).methods:
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = call(
                f"/{name}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method.name, self.asking(call, request))
        self.message = lambda name: GetMessageClass(pool.FindMessageTypeByName(name))

    @staticmethod
    def asking(call, request):
        return lambda **fields: call(request(**fields), timeout=TIMEOUT_S)


def details(error):
    """Why a call failed, for programs, and whether a write may have been carried out all the same."""
    info = error_details_pb2.ErrorInfo()
    rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason, info.metadata["outcome"]


def effect(write):
    """What became of a write, by its name."""
    names = write.DESCRIPTOR.fields_by_name["effect"].enum_type.values_by_number
    return names[write.effect].name.removeprefix("EFFECT_")


store = Service(NODES[0], "diskstore.v1.Store")

# A value and its version.
version = store.Set(key={"slot": 60}, value=b"hello").version
found = store.Get(key={"slot": 60})
assert (found.value, found.version) == (b"hello", version)

# A write with a condition takes effect once.
store.Set(key={"slot": 60}, value=b"hello again", condition={"version": version})
try:
    store.Set(key={"slot": 60}, value=b"too late", condition={"version": version})
except grpc.RpcError as error:
    print(error.code().name, *details(error))

# A batch is one entry of the log.
batch = store.Batch(
    operations=[
        {"key": {"slot": 61}, "set": {"value": b"one"}},
        {"key": {"slot": 62}, "set": {"value": b"\xff\x00", "condition": {"absent": {}}}},
        {"key": {"slot": 60}, "get": {}},
    ]
)
print([result.WhichOneof("outcome") for result in batch.results], batch.results[2].value)

# All keys of a range, with their values.
for part in store.Scan(slots={"first": 60, "last": 69}, values=True):
    print({item.key.slot: item.value for item in part.items})

# konsen's clients send many pairs at once.
konsen = Service(NODES[-1], "konsen.KVService")
pairs = konsen.message("konsen.KVList")(kv_list=[{"key": b"62", "value": b"a"}, {"key": b"63", "value": b"b"}])
put = konsen.Put(data=pairs.SerializeToString())
print(put.success, konsen.Get(key=b"63").value)

# The changes from the first write on: each node tells some of them, and the next one goes on.
after = version - 1
cluster = ""
told = []
for node in itertools.cycle(NODES):
    for response in Service(node, "diskstore.v1.Store").Changes(after=after, cluster_id=cluster):
        event = response.WhichOneof("event")
        if event == "begun":
            cluster = response.begun.cluster_id
        elif event == "purged":
            raise LookupError(f"nothing is left up to {response.purged.up_to}: scan, and go on from there")
        else:
            assert response.change.index == after + 1, "no index is missing"
            after = response.change.index
            writes = {write.key.slot: effect(write) for write in response.change.writes}
            told += [writes] if writes else []
            break
    if len(told) == 5:
        break
for writes in told:
    print(writes)

for slot in range(60, 64):
    store.Delete(key={"slot": slot})
try:
    store.Get(key={"slot": 60})
except grpc.RpcError as error:
    print(error.code().name, *details(error))
