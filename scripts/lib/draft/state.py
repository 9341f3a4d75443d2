"""The exact state of a training on disk: what it takes to go on as if it had never stopped.

A state folder holds `head.safetensors` and `optimizer.safetensors` in fp32, and `manifest.json`: identity, samples, the files' digests.
There is no random state in it, for the trainer keeps none.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.draft.heads import head_tensors, tensor_hash
from lib.draft.trainer import Training
from lib.errors import UserError
from lib.files import read_json, whole_directory, write_json

MANIFEST = "manifest.json"
_HEAD, _OPTIMIZER = "head.safetensors", "optimizer.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class CorruptState(UserError):  # noqa: N818 - what the folder is, as its message says
    """A state folder is not what its manifest says."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"state: {file} {what}; delete the folder, the rung is trained again")


@dataclass(frozen=True)
class State:
    """A state as read: `identity` is `Training.identity`, `head` is `head_tensors`, `optimizer` is `optimizer_tensors`."""

    samples: int
    identity: dict[str, dict[str, Any]]
    head: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_state(path: Path, training: Training) -> None:
    """Write the state of `training` to the folder `path`, whole or not at all. Of several ranks only rank 0 writes; the others return."""
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    with whole_directory(path) as folder:
        save_file(head_tensors(training.model), folder / _HEAD)
        save_file(optimizer_tensors(training), folder / _OPTIMIZER)
        files = {name: _sha256(folder / name) for name in (_HEAD, _OPTIMIZER)}
        write_json(folder / MANIFEST, {"samples": training.samples, "identity": training.identity(), "files": files})


def read_state(path: Path) -> State:
    """Read and verify the state folder `path`. Raises CorruptState naming the file that is missing or altered."""
    try:
        manifest = read_json(path / MANIFEST)
    except FileNotFoundError:
        raise CorruptState(path / MANIFEST, "is missing") from None
    except json.JSONDecodeError:
        raise CorruptState(path / MANIFEST, "is not JSON") from None
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise CorruptState(path / name, "is missing")
        if _sha256(path / name) != digest:
            raise CorruptState(path / name, "differs from the digest in the manifest")
    return State(manifest["samples"], manifest["identity"], load_file(path / _HEAD), load_file(path / _OPTIMIZER))


def load_state(path: Path, training: Training) -> None:
    """Bring a fresh `training` to where the state in `path` left off.

    Raises CorruptState, and UserError naming what differs when the state belongs to another head, recipe, trial or data.
    """
    state = read_state(path)
    asked = training.identity()
    differing = [
        f"{part}.{key}={state.identity[part].get(key)!r} (asked for {asked[part].get(key)!r})"
        for part in asked
        for key in sorted(asked[part].keys() | state.identity[part].keys())
        if asked[part].get(key) != state.identity[part].get(key)
    ]
    if differing:
        raise UserError(f"state {path} is of another training: {', '.join(differing)}; resume with its settings or start at sample 0")
    training.model.load_state_dict(state.head, strict=False)
    moments = {
        index: {moment: state.optimizer[f"{moment}.{name}"] for moment in _MOMENTS}
        for index, name in enumerate(_trained_names(training))
        if f"step.{name}" in state.optimizer
    }
    training.optimizer.load_state_dict({"state": moments, "param_groups": training.optimizer.state_dict()["param_groups"]})
    training.samples = state.samples


def optimizer_tensors(training: Training) -> dict[str, Tensor]:
    """Return AdamW's step counts and moments, named "<moment>.<parameter>"; empty before the first step."""
    names = _trained_names(training)
    state = training.optimizer.state_dict()["state"]
    return {f"{moment}.{names[index]}": moments[moment] for index, moments in state.items() for moment in _MOMENTS}


def optimizer_hash(training: Training) -> str:
    """Return the SHA-256 of `optimizer_tensors`."""
    return tensor_hash(optimizer_tensors(training))


def _trained_names(training: Training) -> list[str]:
    """Return the names of the optimizer's parameters in its order."""
    return [name for name, parameter in training.model.named_parameters() if parameter.requires_grad]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
