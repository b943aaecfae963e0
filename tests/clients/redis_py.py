"""redis-py against a running cluster; run by tests/clients.rs as: redis_py.py PROTOCOL HOST...

Each host is a node with its client port 11000. Ends with `ok` if everything was as it should be.
"""

import sys
import threading

import redis

SLOTS = 4096
VALUE_BYTES = 1024
THREADS = 8
ROUNDS = 25


def expect(actual, expected):
    assert actual == expected, f"{actual!r}, expected {expected!r}"


def refused(error, words, call):
    """The call fails with exactly this class, and says so in these words."""
    try:
        result = call()
    except redis.RedisError as found:
        assert type(found) is error, f"{type(found)}: {found}"
        assert words in str(found), f"{found}, expected {words}"
    else:
        raise AssertionError(f"{result!r}, expected {error} {words}")


def values_come_back_byte_for_byte(first, other):
    every_byte = bytes(range(256)) * (VALUE_BYTES // 256)
    for value in [b"", b"\r\n", b"\0", b"hello", every_byte]:
        expect(first.set(1, value), True)
        expect(first.get(1), value)
        expect(other.get(1), value)
        expect(first.strlen(1), len(value))
    expect(first.get("0001"), every_byte)
    expect(first.get("key:000000000001"), every_byte)
    expect(first.getrange(1, 254, 257), b"\xfe\xff\x00\x01")
    expect(first.delete(1, 2), 1)
    expect(first.get(1), None)
    expect(first.exists(1), 0)


def commands_answer_as_the_client_expects(first, other):
    expect(first.set(2, "a", nx=True), True)
    expect(first.set(2, "b", nx=True), None)
    expect(first.set(2, "c", xx=True, get=True), b"a")
    expect(first.getdel(2), b"c")
    expect(first.setnx(2, "d"), True)
    expect(first.append(2, "ef"), 3)
    expect(first.setrange(2, 1, "ZZ"), 3)
    expect(other.get(2), b"dZZ")
    expect(first.type(2), b"string")
    expect(first.incr(3), 1)
    expect(other.incr(3, 41), 42)
    expect(first.decr(3), 41)
    expect(first.mset({4: "four", 5: b"five"}), True)
    expect(other.mget(4, 5, 6), [b"four", b"five", None])
    expect(first.ping(), True)
    expect(first.echo("x"), b"x")
    expect(first.info()["loading"], 0)
    expect(first.config_get("save")["save"], "")
    expect(first.dbsize() >= 4, True)
    assert first.wait(1, 10_000) >= 1
    first.client_setname("tester")


def pipelines_with_and_without_a_transaction(first, other):
    for transaction in [True, False]:
        with first.pipeline(transaction=transaction) as pipe:
            pipe.set(10, "0").incr(10).incr(10).get(10).mget(10, 11)
            expect(pipe.execute(), [True, 1, 2, b"2", [b"2", None]])
            # An error takes its own place only.
            pipe.set(10, "x").incr(10).get(10)
            results = pipe.execute(raise_on_error=False)
            expect([results[0], results[2]], [True, b"x"])
            expect(type(results[1]), redis.ResponseError)
            # Many at once.
            for slot in range(100, 600):
                pipe.set(slot, b"%d" % slot)
            expect(pipe.execute(), [True] * 500)
        expect(other.mget(range(100, 600)), [b"%d" % slot for slot in range(100, 600)])
        expect(first.delete(*range(100, 600)), 500)
    # What is wrong with a key is the reply to its own command.
    pipe = first.pipeline().set(10, "y").set("name", "z")
    refused(redis.ResponseError, "key must be a slot number 0..4095", pipe.execute)
    expect(first.get(10), b"y")
    # A command that is none takes its transaction with it.
    pipe = first.pipeline().set(10, "lost")
    pipe.execute_command("NONSENSE")
    refused(redis.ResponseError, "unknown command 'NONSENSE'", pipe.execute)
    expect(first.get(10), b"y")


def a_watch_guards_one_key(first, other):
    first.set(20, "5")
    with first.pipeline() as pipe:
        pipe.watch(20)
        seen = int(pipe.get(20))
        pipe.multi()
        pipe.set(20, seen + 1)
        expect(pipe.execute(), [True])
        expect(other.get(20), b"6")

        pipe.watch(20)
        pipe.get(20)
        other.set(20, "70")
        pipe.multi()
        pipe.set(20, "lost")
        refused(redis.WatchError, "Watched variable changed", pipe.execute)
        expect(first.get(20), b"70")

        # What a log entry cannot depend on is refused with the reason.
        pipe.watch(20)
        refused(redis.ResponseError, "WATCH takes one key", lambda: pipe.watch(21))
        pipe.multi()
        pipe.set(20, "lost")
        refused(redis.exceptions.ExecAbortError, "WATCH failed", pipe.execute)
        pipe.watch(20)
        pipe.multi()
        pipe.set(21, "elsewhere")
        refused(redis.exceptions.ExecAbortError, "of the watched key", pipe.execute)
        expect(first.get(21), None)

        pipe.watch(20)
        pipe.unwatch()
        other.set(20, "71")
        pipe.multi()
        pipe.set(20, "72")
        expect(pipe.execute(), [True])
    # The helper of the client tries again until it holds.
    first.set(22, 0)

    def increment(pipe):
        value = int(pipe.get(22))
        pipe.multi()
        pipe.set(22, value + 1)

    def work():
        for _ in range(ROUNDS):
            first.transaction(increment, 22)

    in_threads(work, 2)
    expect(first.get(22), b"%d" % (2 * ROUNDS))


def errors_are_of_the_class_that_callers_catch(first, _other):
    error = redis.ResponseError
    refused(error, "key must be a slot number 0..4095", lambda: first.get("name"))
    refused(error, "key must be a slot number 0..4095", lambda: first.set(SLOTS, "x"))
    long = b"x" * (VALUE_BYTES + 1)
    words = "value is 1025 bytes, a slot holds at most 1024"
    refused(error, words, lambda: first.set(1, long))
    refused(error, words, lambda: first.append(1, long))
    refused(error, "unknown command 'NONSENSE'", lambda: first.execute_command("NONSENSE", 1))
    refused(error, "values do not expire", lambda: first.set(1, "x", ex=10))
    refused(error, "values do not expire", lambda: first.expire(1, 10))
    refused(error, "no other types", lambda: first.lpush(1, "x"))
    refused(error, "MSETNX is refused", lambda: first.msetnx({1: "x"}))
    first.set(1, "word")
    refused(error, "not an integer", lambda: first.incr(1))
    expect(first.get(1), b"word")
    expect(first.delete(1), 1)


def a_scan_finds_every_slot_once(first, other):
    expect(list(first.scan_iter()), [])
    slots = list(range(0, SLOTS, 3))
    first.mset({slot: "x" for slot in slots})
    expect(other.dbsize(), len(slots))
    for count in [None, 1000]:
        expect(sorted(int(key) for key in other.scan_iter(count=count)), slots)
    expect(sorted(int(key) for key in first.scan_iter(match="12?")), [120, 123, 126, 129])
    expect(first.dbsize(), len(slots))
    expect(first.delete(*slots), len(slots))


def a_pool_serves_many_threads(first, other):
    first.set(30, 0)

    def work():
        for round in range(ROUNDS):
            client = other if round % 2 else first
            client.incr(30)
            slot = 1000 + threading.get_ident() % 1000
            client.set(slot, "mine")

    in_threads(work, THREADS)
    expect(other.get(30), b"%d" % (THREADS * ROUNDS))


def messages_reach_subscribers_of_every_node(first, other):
    def told(listener, kind, channel, data, pattern=None):
        message = listener.get_message(timeout=60)
        expect([message[name] for name in ["type", "pattern", "channel", "data"]],
               [kind, pattern, channel, data])

    with first.pubsub() as here, other.pubsub() as there:
        here.subscribe("news")
        told(here, "subscribe", b"news", 1)
        there.psubscribe("ne*")
        told(there, "psubscribe", b"ne*", 1)
        there.subscribe("__index__:news")
        told(there, "subscribe", b"__index__:news", 2)
        begin = int(there.get_message(timeout=60)["data"])
        expect(first.publish("news", b"one\r\n\0"), 1)
        expect(other.publish("news", ""), 2)
        with first.pipeline() as pipe:
            pipe.set(40, "x").publish("news", "two").publish("other", "three")
            expect(pipe.execute(), [True, 1, 0])
        last = (begin, 0)
        for data in [b"one\r\n\0", b"", b"two"]:
            told(here, "message", b"news", data)
            message = there.get_message(timeout=60)
            place, text = message["data"].split(b" ", 1)
            expect([message["channel"], text], [b"__index__:news", data])
            place = tuple(int(number) for number in place.split(b"-"))
            assert place > last, f"{place} behind {last}"
            last = place
            told(there, "pmessage", b"news", data, pattern=b"ne*")
        expect(first.pubsub_channels(), [b"news"])
        expect(first.pubsub_numsub("news", "none"), [(b"news", 1), (b"none", 0)])
        expect(other.pubsub_numpat(), 1)
        here.unsubscribe()
        told(here, "unsubscribe", b"news", 0)
    refused(redis.ResponseError, "a message holds at most 1048576",
            lambda: first.publish("news", b"x" * ((1 << 20) + 1)))


def in_threads(work, count):
    failures = []

    def guarded():
        try:
            work()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(failures, [])


def main():
    protocol, *hosts = sys.argv[1:]
    clients = [
        redis.Redis(host=host, port=11000, protocol=int(protocol), socket_timeout=60)
        for host in hosts
    ]
    for part in [
        values_come_back_byte_for_byte,
        commands_answer_as_the_client_expects,
        pipelines_with_and_without_a_transaction,
        a_watch_guards_one_key,
        errors_are_of_the_class_that_callers_catch,
        a_pool_serves_many_threads,
        a_scan_finds_every_slot_once,
        messages_reach_subscribers_of_every_node,
    ]:
        # Whichever node is asked, whichever looks.
        for first, other in zip(clients, clients[1:] + clients[:1]):
            print(part.__name__, protocol, first.get_connection_kwargs()["host"], flush=True)
            first.delete(*range(SLOTS))
            part(first, other)
    print(redis.__version__, "ok")


main()
