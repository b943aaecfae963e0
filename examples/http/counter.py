"""A counter over HTTP with requests: examples/http/counter.py [http://127.0.0.1:11000 ...]

It counts slot 50 of a running diskstore up by compare-and-set, so that others may count at the same
time and no step is lost. It shows what each answer means:

- 412: another client was faster. Read again, then try again.
- 429 and 503: nothing was proposed. Ask again, here or at another node.
- 500 with the code unknown_outcome, or no answer: the write was done once, or not at all. Read again: if
  the version is the old one it was not done, if the value is ours it was.
"""

import sys
import time

import requests

NODES = sys.argv[1:] or ["http://127.0.0.1:11000"]
SLOT = "50"
STEPS = 20
PATIENCE_S = 60
UNKNOWN = "unknown"

session = requests.Session()


def ask(method, **options):
    """What the first node answers that has an answer; UNKNOWN if a write may have been done."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            answer = session.request(method, f"{NODES[0]}/v1/slots/{SLOT}", timeout=10, **options)
        except requests.RequestException:
            if method != "GET":
                return UNKNOWN
        else:
            if answer.status_code == 500 and answer.json()["error"]["code"] == "unknown_outcome":
                return UNKNOWN
            if answer.status_code not in (429, 503):
                return answer
            time.sleep(float(answer.headers["Retry-After"]))
        NODES.append(NODES.pop(0))
    raise TimeoutError("no node answers")


def read():
    """The value and its ETag; both None where there is none."""
    answer = ask("GET")
    if answer.status_code == 404:
        return None, None
    answer.raise_for_status()
    return answer.content, answer.headers["ETag"]


def add(mark):
    """Adds one. The mark tells this step from those of others."""
    while True:
        before, etag = read()
        count = int(before.split()[0]) + 1 if before else 1
        value = b"%d %s" % (count, mark)
        condition = {"If-Match": etag} if etag else {"If-None-Match": "*"}
        answer = ask("PUT", data=value, headers=condition)
        if answer == UNKNOWN:
            now, etag_now = read()
            if now == value:
                return count
            if etag_now != etag:
                raise RuntimeError("others have written since: nobody can say whether this step counts")
        elif answer.status_code != 412:
            answer.raise_for_status()
            return count


ask("DELETE")
counts = [add(b"step%d" % step) for step in range(STEPS)]
assert counts == list(range(1, STEPS + 1)), counts

# One entry of the log reads the last value and deletes it.
batch = [{"op": "get", "key": SLOT}, {"op": "delete", "key": SLOT}]
answer = session.post(f"{NODES[0]}/v1/batch", json=batch, timeout=10)
answer.raise_for_status()
print(answer.json()["results"][0]["value"])
assert read() == (None, None)
print("counted to", STEPS, "- ok")
