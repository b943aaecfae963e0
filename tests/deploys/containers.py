"""What a container of a manifest or a compose file runs, as a command on this machine."""

import os
import pathlib
import re

DEPLOYS = pathlib.Path(__file__).parents[2] / "deploys"


def expand(text, values):
    """What the kubelet makes of $(NAME)."""

    def value(match):
        assert match[1] in values, f"$({match[1]}) in {text!r} stands for nothing"
        return values[match[1]]

    return re.sub(r"\$\((\w+)\)", value, text)


def environment(container, config_maps, pod, namespace):
    """The environment of a container of a pod, in the order in which values may name each other."""
    values = {}
    for source in container.get("envFrom", []):
        values |= config_maps[source["configMapRef"]["name"]]
    fields = {"metadata.name": pod, "metadata.namespace": namespace}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            values[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            values[variable["name"]] = expand(variable["value"], values)
    return values


def command(container, values):
    """Its command line."""
    return [expand(word, values) for word in container["command"] + container.get("args", [])]


def on_this_machine(words, values, mounts, programs):
    """The same with directories of this machine, and with our programs first on the PATH."""

    def moved(text):
        for mount, directory in mounts.items():
            if text == mount or text.startswith(f"{mount}/"):
                return f"{directory}{text[len(mount):]}"
        return text

    path = f"{programs}:{DEPLOYS / 'docker'}:{os.environ['PATH']}"
    inherited = {"PATH": path, "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    return [moved(word) for word in words], {key: moved(it) for key, it in values.items()} | inherited
