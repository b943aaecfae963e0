"""A counter with redis-py: examples/redis/counter.py [127.0.0.1:11000 ...]

Several threads count slot 71 of a running diskstore up. It shows three ways in which no step is lost, and what
each failure means:

- INCR is one entry of the log. If it is not answered, nobody knows whether it was applied: it is not sent again.
- WATCH, MULTI and EXEC: another client's write in between makes EXEC fail, and nothing is written.
- SET with IFVERSION: the version comes from GETVERSION, and may be kept for as long as one likes.
"""

import sys
import threading

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

NODES = sys.argv[1:] or ["127.0.0.1:11000"]
SLOT = 71
THREADS = 4
STEPS = 10
# All take each step at the same time, so that they get into each other's way.
together = threading.Barrier(THREADS, timeout=60)


def connect(node):
    host, port = node.rsplit(":", 1)
    # CLUSTERDOWN, BUSY and the like mean that nothing was proposed. A lost connection is another matter: a
    # client that repeats INCR by itself may count twice.
    return redis.Redis(host, int(port), protocol=3, socket_timeout=20, retry=Retry(ExponentialBackoff(), 0))


def by_increment(client):
    client.incr(SLOT)


def by_watching(client):
    with client.pipeline() as transaction:
        while True:
            try:
                transaction.watch(SLOT)
                count = int(transaction.get(SLOT) or 0)
                transaction.multi()
                transaction.set(SLOT, count + 1)
                transaction.execute()
                return
            except redis.WatchError:
                continue  # another thread was faster


def by_version(client):
    while True:
        value, version = client.execute_command("GETVERSION", SLOT)
        count = int(value or 0) + 1
        if client.execute_command("SET", SLOT, count, "IFVERSION", version):
            return


def run(ways, node):
    client = connect(node)
    for step in range(STEPS):
        together.wait()
        ways[step % len(ways)](client)


client = connect(NODES[0])
client.delete(SLOT)
ways = [by_increment, by_watching, by_version]
threads = [threading.Thread(target=run, args=(ways, NODES[n % len(NODES)])) for n in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
counted = int(client.getdel(SLOT))
assert counted == THREADS * STEPS, counted
assert client.get(SLOT) is None
print("counted to", counted, "- ok")
