"""The members and the logger of an overlay as plain processes, each in a network of its own that stands
for its pod; run by tests/deploys.rs, within a network and mounts of its own, as:
topology.py DIRECTORY_OF_PROGRAMS DIRECTORY

Names are lines of /etc/hosts, which stands for the DNS of the cluster: they come late, and stay old for
a while when a pod comes back at another address. Ends with `ok`.
"""

import http.client
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import containers
import kustomize

PROGRAMS, DIRECTORY = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
HOSTS, SWITCH = DIRECTORY / "hosts", DIRECTORY / "nsswitch.conf"
NAMESPACE = "space"
# Far more than anything takes.
PATIENCE_S = 120
OBJECTS = kustomize.render(containers.DEPLOYS / "kubernetes" / "overlays" / "disk-logger")
MAPS = {it["metadata"]["name"]: it["data"] for it in OBJECTS if it["kind"] == "ConfigMap"}
CONTAINERS = {it["metadata"]["name"]: it["spec"]["template"]["spec"]["containers"][0]
              for it in OBJECTS if it["kind"] in ("StatefulSet", "Deployment")}


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def wait_until(what, is_so):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.1)
    return found


class Pod:
    """A pod that keeps its name and its volume, and gets another address at each start."""

    addresses = {}  # what the DNS has
    count = 0

    def __init__(self, name, host, of, more=()):
        self.name, self.host, self.of, self.more = name, f"{host}.{NAMESPACE}.svc", CONTAINERS[of], list(more)
        self.volume, self.process, self.starts = DIRECTORY / name, None, 0

    def start(self):
        Pod.count += 1
        self.starts += 1
        number = Pod.count
        self.network, self.address = f"pod{number}", f"10.9.0.{number + 1}"
        ip("netns", "add", self.network)
        ip("link", "add", f"veth{number}", "type", "veth", "peer", "name", "eth0", "netns", self.network)
        ip("link", "set", f"veth{number}", "master", "lan", "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"]):
            ip("-n", self.network, *words)
        self.volume.mkdir(exist_ok=True)
        values = containers.environment(self.of, MAPS, self.name, NAMESPACE)
        words = containers.command(self.of, values) + self.more
        words, environment = containers.on_this_machine(words, values, {"/data": self.volume}, PROGRAMS)
        self.log = DIRECTORY / f"{self.name}-{self.starts}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["ip", "netns", "exec", self.network, *words], env=environment,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        ip("netns", "delete", self.network)  # its address goes with it

    def announce(self):
        """The DNS hears of its address."""
        Pod.addresses[self.host] = self.address
        HOSTS.write_text("127.0.0.1 localhost\n" + "".join(f"{at} {host}\n" for host, at in Pod.addresses.items()))

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.address}:11000{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, http.client.HTTPException):  # it starts: no server, or one that says so its own way
            return 0, ""

    def probes(self):
        """Every probe of the container is content."""
        paths = {self.of[word]["httpGet"]["path"] for word in self.of if word.endswith("Probe")}
        wait_until(f"{self.name}: {paths}", lambda: all(self.get(path)[0] == 200 for path in paths))

    def status(self):
        return json.loads(self.get("/status")[1])

    def said(self, *words):
        return subprocess.run([PROGRAMS / "diskstore", *words, "-addr", f"{self.address}:11000"],
                              capture_output=True, text=True)

    def ask(self, *words):
        done = self.said(*words)
        assert done.returncode == 0, f"{self.name}: {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def read(self, key):
        """Asked until it is answered, as a client may that only reads."""
        done = wait_until(f"{self.name}: get {key}", lambda: (it := self.said("get", key)).returncode == 0 and it)
        return done.stdout.strip()

    def is_well(self):
        """Everybody answers under the names that the log has."""
        done = self.said("status")
        return done.returncode == 0 and "3 of 3 voters answer" in done.stdout


def main():
    for words in (["link", "set", "lo", "up"], ["link", "add", "lan", "type", "bridge"],
                  ["addr", "add", "10.9.0.1/24", "dev", "lan"], ["link", "set", "lan", "up"]):
        ip(*words)
    HOSTS.write_text("127.0.0.1 localhost\n")
    SWITCH.write_text("hosts: files\n")
    for words in (["--bind", HOSTS, "/etc/hosts"], ["--bind", SWITCH, "/etc/nsswitch.conf"],
                  ["-t", "tmpfs", "tmpfs", "/run"]):
        subprocess.run(["mount", *words], check=True)
    # A small file; the rest is as the overlay has it.
    small = ["-slots", "4096"]
    pods = [Pod(f"diskstore-{number}", f"diskstore-{number}.diskstore", "diskstore", small) for number in range(3)]
    logger = Pod("diskstore-logger-x7k2p", "diskstore-logger", "diskstore-logger")
    everybody = [*pods, logger]
    try:
        story(pods, logger)
    except BaseException:
        for log in sorted(DIRECTORY.glob("*.log")):
            print(f"--- {log.name}", log.read_text()[-4000:], sep="\n")
        raise
    finally:
        for pod in everybody:
            if pod.process and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()


def story(pods, logger):
    first, second, third = pods
    # All at once, and no name leads anywhere yet.
    for pod in [*pods, logger]:
        pod.start()
    wait_until("a member to ask in vain", lambda: "not joined yet" in second.log.read_text())
    for pod in [*pods, logger]:
        pod.announce()
    for pod in [*pods, logger]:
        pod.probes()
    wait_until("three voters", first.is_well)
    assert "founds a cluster" in first.log.read_text()
    second.ask("set", "42", "hello")
    assert third.read("42") == "hello"
    cluster = first.status()["cluster_id"]

    # Pods come back at other addresses; the DNS has the old ones for a while. One of them leads.
    for pod in [third, first, logger]:
        wait_until(f"all to be well before {pod.name} goes", second.is_well)
        old = pod.address
        pod.kill()
        pod.start()
        wait_until(f"{pod.name} to be up", lambda: pod.get("/livez")[0] == 200)
        assert pod.address != old
        pod.announce()
        pod.probes()
        wait_until(f"{pod.name} to be found again", second.is_well)
    first.ask("set", "43", "again")
    assert third.read("43") == "again"

    # The first member's volume is lost: it joins, and founds no second cluster.
    first.kill()
    shutil.rmtree(first.volume)
    first.start().announce()
    first.probes()
    wait_until("the first member to be replaced", lambda: first.is_well() and second.is_well())
    assert first.status()["cluster_id"] == cluster
    assert "founds a cluster" not in first.log.read_text()
    assert first.read("42") == "hello"
    members = second.status()["members"]
    assert sorted(it["name"] for it in members) == ["diskstore-0", "diskstore-1", "diskstore-2", "logger"], members
    records = "".join(it.read_text(errors="replace") for it in (logger.volume / "records").iterdir())
    wait_until("the logger to have all", lambda: logger.status()["applied"] >= first.status()["committed"])
    assert "hello" in records and "again" in records, records[-500:]
    print("ok")


main()
