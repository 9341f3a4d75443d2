"""Strategic merge of a pod patch, which holds the additions of a cluster's owner to every pod."""

import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from .status import CONTAINER

# The lists that Kubernetes merges element by element, and the key that identifies an element. It replaces other lists whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
DIRECTIVE = "$patch"
QUANTITY = re.compile(r"\.(limits|requests|overhead)\.|\.(sizeLimit|divisor)$")  # text or a number, although the client's types say text


def merge(base: Any, patch: Any, field: str = "") -> Any:
    """Return base with a patch merged into it as the API server merges a strategic merge patch."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return _merge_mappings(base, patch)
    if isinstance(base, list) and isinstance(patch, list) and field in MERGE_KEYS:
        return _merge_lists(base, patch, MERGE_KEYS[field])
    return _without_directives(patch)


def _merge_mappings(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get(DIRECTIVE) == "replace":
        return dict(_without_directives(patch))
    merged = dict(base)
    for key, value in patch.items():
        if value is None or (isinstance(value, dict) and value.get(DIRECTIVE) == "delete"):
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value, key)
    return merged


def _merge_lists(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(element == {DIRECTIVE: "replace"} for element in patch):
        return list(_without_directives(patch))
    merged = {element[key]: element for element in base}
    for element in patch:
        if element.get(DIRECTIVE) == "delete":
            merged.pop(element[key], None)
        else:
            merged[element[key]] = merge(merged.get(element[key]), element)
    return list(merged.values())


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_directives(inner) for key, inner in value.items() if key != DIRECTIVE and inner is not None}
    if isinstance(value, list):
        kept = [inner for inner in value if not (isinstance(inner, dict) and inner.get(DIRECTIVE))]
        return [_without_directives(inner) for inner in kept]
    return deepcopy(value)


def read_patch(path: Path) -> dict[str, Any]:
    """Return the pod patch of a file, or raise ValueError with one line that states its fault."""
    try:
        patch = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"pod patch {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise ValueError(f"pod patch {path}: not YAML{f' (line {where.line + 1})' if where else ''}") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits, nested too deep
        raise ValueError(f"pod patch {path}: not YAML that can be read") from None
    if (
        not isinstance(patch, dict)
        or not patch.keys() <= {"metadata", "spec"}
        or not all(isinstance(each, dict) for each in patch.values())
    ):
        raise ValueError(f"pod patch {path}: not a pod patch, which is a mapping with the keys metadata and spec, each a mapping")
    for fault in _faults(patch.get("metadata", {}), "V1ObjectMeta", "metadata"), _faults(patch.get("spec", {}), "V1PodSpec", "spec"):
        if fault:
            raise ValueError(f"pod patch {path}: not a pod patch: {fault}")
    containers = merge({"spec": {"containers": [{"name": CONTAINER}]}}, patch)["spec"].get("containers", [])
    if not any(container.get("name") == CONTAINER for container in containers):
        raise ValueError(f"pod patch {path}: not a pod patch: spec.containers takes away the container {CONTAINER}, in which the job runs")
    return patch


def _faults(value: Any, kind: str, place: str) -> str:
    """Return the first fault at a place by Kubernetes' own types, or an empty string."""
    if value is None:
        return ""
    if outer := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return f"{place} is not a list"
        key = MERGE_KEYS.get(place.rsplit(".", 1)[-1])
        for index, element in enumerate(value):
            if key and not (isinstance(element, dict) and (key in element or DIRECTIVE in element)):
                return f"{place}[{index}] has no {key}, by which the list is merged"
            if fault := _faults(element, outer[1], f"{place}[{index}]"):
                return fault
        return ""
    if outer := re.fullmatch(r"dict\((.*), (.*)\)", kind):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            return f"{place} is not a mapping of text"
        return next(filter(None, (_faults(inner, outer[2], f"{place}.{name}") for name, inner in value.items())), "")
    model = getattr(client, kind, None)
    if model is None:  # a scalar or free-form
        if kind in ("str", "int", "bool") and isinstance(value, dict | list):
            return f"{place} is not a single value"
        if (kind == "int" and type(value) is not int) or (kind == "bool" and not isinstance(value, bool)):
            return f"{place} is {value!r}, not {'a whole number' if kind == 'int' else 'true or false'}"
        if QUANTITY.search(place) and type(value) in (int, float) and math.isfinite(value):
            return ""
        return f"{place} is not text but {value!r}: put it in quotes" if kind == "str" and not isinstance(value, str) else ""
    if not isinstance(value, dict):
        return f"{place} is not a mapping"
    kinds = {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}
    for name, inner in value.items():
        if name == DIRECTIVE:
            continue
        if name not in kinds:
            return f"{place} has no field {name}"
        if fault := _faults(inner, kinds[name], f"{place}.{name}"):
            return fault
    return ""
