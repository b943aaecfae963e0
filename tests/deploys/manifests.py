"""The manifests and the compose file; run by tests/deploys.rs as: manifests.py DIRECTORY_OF_PROGRAMS

Every overlay is rendered, held against Kubernetes' own schemas, and looked through for what a schema
does not see: names that lead nowhere, flags that the programs refuse. Ends with `ok`.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import compose_spec
import kubernetes_validate
import yaml

import containers
import kustomize

KUBERNETES = containers.DEPLOYS / "kubernetes"
COMPOSE = containers.DEPLOYS / "docker" / "compose.yaml"
# What is laid over it for TLS.
SECURED = containers.DEPLOYS / "docker" / "compose.tls.yaml"
# Of Kubernetes.
VERSION = "1.29"
# What the programs answer.
PROBES = {"/livez", "/readyz"}
# No address of this machine: a program whose flags are right fails to listen there, and stops.
ELSEWHERE = "192.0.2.1:1"
USAGE = 2
OVERLAYS = {
    f"{program}{log}{monit}"
    for program in ("disk", "kv")
    for log in ("", "-logfolder", "-logger")
    for monit in ("", "-monit")
} | {"disk-tls", "kv-tls"}


def key(it):
    return it["kind"], it["metadata"]["name"]


def pod_of(it):
    """The pod of an object that makes pods."""
    return it["spec"].get("template", {}).get("spec") if it["kind"] != "ConfigMap" else None


def check_schema(where, it):
    try:
        kubernetes_validate.validate(it, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise AssertionError(f"{where}, {key(it)}: {error.path}: {error.message}") from error


def check_names(where, objects):
    """What refers to something refers to something that is there."""
    by_key = {key(it): it for it in objects}
    assert len(by_key) == len(objects), f"{where}: two objects have one name"
    labels = [it["spec"]["template"]["metadata"]["labels"] for it in objects if pod_of(it)]
    names = {port["name"] for it in objects if pod_of(it)
             for container in pod_of(it)["containers"] for port in container.get("ports", [])}
    for it in objects:
        selector = it.get("spec", {}).get("selector")
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= had.items() for had in labels), f"{where}, {key(it)}: selects nothing"
        if it["kind"] == "Service":
            for port in it["spec"]["ports"]:
                assert port["targetPort"] in names, f"{where}, {key(it)}: no port {port['targetPort']}"
        pod = pod_of(it)
        if not pod:
            continue
        if "serviceName" in it["spec"]:
            service = by_key["Service", it["spec"]["serviceName"]]["spec"]
            # Members have names before they are ready.
            assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"], where
        claims = {claim["metadata"]["name"] for claim in it["spec"].get("volumeClaimTemplates", [])}
        for volume in pod.get("volumes", []):
            claims.add(volume["name"])
            if "projected" in volume:
                check_secrets(where, volume["projected"]["sources"], it["spec"]["replicas"])
                continue
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in by_key, where
        assert pod["securityContext"]["runAsNonRoot"], where
        for container in pod["containers"]:
            security, at = container["securityContext"], f"{where}, {key(it)}, {container['name']}"
            assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}, at
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= claims, f"{at}: {mounted - claims} is no volume"
            ports = {port["name"] for port in container.get("ports", [])}
            scheme = "HTTPS" if "-tls" in container.get("args", []) else "HTTP"
            for probe in (container[word]["httpGet"] for word in container if word.endswith("Probe")):
                assert probe["path"] in PROBES and probe["port"] in ports, f"{at}: {probe}"
                assert probe.get("scheme", "HTTP") == scheme, f"{at}: {probe}"


def check_secrets(where, sources, replicas):
    """Each member finds the three files of -tls in a folder of its name."""
    paths = sorted(item["path"] for it in sources for item in it["secret"]["items"])
    files = [f"diskstore-{number}/{file}" for number in range(replicas) for file in ("ca.crt", "tls.crt", "tls.key")]
    assert paths == sorted(files), f"{where}: {paths}"


def check_flags(where, words, values, mounts, programs):
    """A program takes its flags. It is brought to its end by one more, which is wrong only to it."""
    with tempfile.TemporaryDirectory() as directory:
        mounts = {mount: f"{directory}{mount}" for mount in mounts}
        words, environment = containers.on_this_machine(words, values, mounts, programs)
        if "-tls" in words:
            folder = pathlib.Path(words[words.index("-tls") + 1])
            name = words[words.index("-id") + 1] if "-id" in words else folder.name
            made = folder.parent / "made"
            subprocess.run([pathlib.Path(programs) / "diskstore", "certs", name, "-out", made], check=True,
                           stdout=subprocess.DEVNULL)
            (made / name).rename(folder)
        if words[0] == "monit":
            words[1] = "no-such-program"
        else:
            words += ["-addr" if "bench" in words or "status" in words else "-port", ELSEWHERE]
        done = subprocess.run(words, env=environment, cwd=directory, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)
        said = f"{where}: {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        assert done.returncode == 1, said
        # It came so far as to want what is not there.
        assert any(it in done.stderr for it in (ELSEWHERE, "no-such-program")), said


def check_overlay(folder, programs, seen):
    where = folder.relative_to(containers.DEPLOYS)
    objects = kustomize.render(folder)
    if shutil.which("kubectl"):
        made = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout
        made = sorted(yaml.safe_load_all(made), key=key)
        assert made == sorted(objects, key=key), f"{where}: kubectl makes something else of it"
    config_maps = {it["metadata"]["name"]: it["data"] for it in objects if it["kind"] == "ConfigMap"}
    for it in objects:
        check_schema(where, it)
        for container in (pod_of(it) or {"containers": []})["containers"]:
            values = containers.environment(container, config_maps, f"{it['metadata']['name']}-1", "space")
            words = containers.command(container, values)
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if words not in seen:
                seen.append(words)
                check_flags(f"{where}, {key(it)}", words, values, mounts, programs)
    check_names(where, objects)
    return objects


def laid_over(below, above):
    """As docker compose puts a second file over a first one, as far as ours go: volumes are added."""
    both = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            both[name] = laid_over(below[name], value)
        else:
            both[name] = below.get(name, []) + value if name == "volumes" else value
    return both


def check_compose(compose, programs):
    # Without YAML's own merges, which not every reader of the format knows.
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose)).validate()
    nodes = [name for name, it in compose["services"].items() if name != "load"]
    for name, it in compose["services"].items():
        volumes = it.get("volumes", [])
        mounts = dict(reversed(volume.split(":")) for volume in volumes if isinstance(volume, str))
        assert set(mounts.values()) <= set(compose["volumes"]), f"compose, {name}: {mounts}"
        binds = {volume["target"]: volume["source"] for volume in volumes if not isinstance(volume, str)}
        is_secured = "-tls" in it["command"]
        own = name if name != "load" else nodes[0]
        assert binds == ({"/tls": f"../../certs/{own}"} if is_secured else {}), f"compose, {name}: {binds}"
        mounts |= binds
        assert set(it.get("depends_on", [])) <= set(nodes), f"compose, {name}"
        values = it.get("environment", {})
        for program in ("diskstore", "kvstore"):
            words = [word.replace("${PROGRAM:-diskstore}", program) for word in it["command"]]
            check_flags(f"compose, {name}", words, values, mounts, programs)
        if name != "load":
            assert values["MEMBER"] == name and values["MEMBERS"].split(",") == nodes, f"compose, {name}: {values}"
            words, flag = it["command"], lambda flag: it["command"][it["command"].index(flag) + 1]
            assert flag("-id") == flag("-advertise") == name and flag("-data") == values["MEMBER_DATA"], words
            test = it["healthcheck"]["test"]
            assert test[0] == "CMD" and test[-1] == f"{name}:11000", f"compose, {name}: {test}"
            assert ("-tls" in test) == is_secured and values.get("MEMBER_TLS") == ("/tls" if is_secured else None), test
            check_flags(f"compose, {name}, its health", test[1:], {}, binds, programs)
    build = compose["services"]["node0"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file(), build


def main(programs):
    seen = []
    overlays = sorted((KUBERNETES / "overlays").iterdir())
    assert {it.name for it in overlays} == OVERLAYS
    for folder in overlays:
        objects = check_overlay(folder, programs, seen)
        program = next(it["data"]["PROGRAM"] for it in objects if it["kind"] == "ConfigMap")
        assert program == {"disk": "diskstore", "kv": "kvstore"}[folder.name.split("-")[0]]
        assert (("Deployment", "diskstore-logger") in map(key, objects)) == ("-logger" in folder.name)
        members = next(it for it in objects if it["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"]
        assert ("-logfolder" in members[0]["args"]) == ("-logfolder" in folder.name)
        assert (len(members) == 2) == folder.name.endswith("-monit")
        assert ("-tls" in members[0]["args"]) == folder.name.endswith("-tls")
    check_overlay(KUBERNETES / "load", programs, seen)
    compose = yaml.safe_load(COMPOSE.read_text())
    check_compose(compose, programs)
    check_compose(laid_over(compose, yaml.safe_load(SECURED.read_text())), programs)
    print("ok")


main(pathlib.Path(sys.argv[1]))
