"""What kustomize makes of a folder, as far as `deploys/kubernetes` uses it.

`resources` (files and folders), `components`, and `patches` with a `target` of kind and name and
operations of JSON Patch (RFC 6902: `add` and `replace`). Anything else is refused rather than passed
over. Where kubectl is installed, manifests.py compares this with what kubectl makes of the same folder.
"""

import copy
import pathlib

import yaml

KEYS = {"apiVersion", "kind", "resources", "components", "patches"}


def render(folder):
    """The objects of a folder with a kustomization.yaml, in its order."""
    return _apply(pathlib.Path(folder), [])


def _apply(folder, objects):
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(kustomization) - KEYS
    assert not unknown, f"{folder}: {unknown} is more than this renders"
    for resource in kustomization.get("resources", []):
        path = (folder / resource).resolve()
        if path.is_dir():
            objects = objects + render(path)
        else:
            objects = objects + list(yaml.safe_load_all(path.read_text()))
    for component in kustomization.get("components", []):
        objects = _apply((folder / component).resolve(), objects)
    objects = copy.deepcopy(objects)
    for patch in kustomization.get("patches", []):
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        targets = [it for it in objects if (it["kind"], it["metadata"]["name"]) == (kind, name)]
        assert targets, f"{folder}: a patch finds no {kind} {name}"
        for target in targets:
            for operation in yaml.safe_load(patch["patch"]):
                _change(target, operation)
    return objects


def _change(target, operation):
    *way, last = operation["path"].removeprefix("/").split("/")
    for step in way:
        target = target[int(step)] if isinstance(target, list) else target[step]
    value = operation["value"]
    match operation["op"], last:
        case "add", "-":
            target.append(value)
        case "add", _ if isinstance(target, dict):
            target[last] = value
        case "replace", _ if last in target:
            target[last] = value
        case _:
            raise AssertionError(f"{operation} is more than this renders, or has nothing to replace")
