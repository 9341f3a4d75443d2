"""The exact state of a training on disk, from which it resumes bit by bit.

A state folder holds `head/`, the head in fp32 in speculators' format, `optimizer.safetensors` in fp32, and `manifest.json` with identity,
samples, digests of the files, and within a rung its tally. It holds no random state, because the trainer has none.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.draft.trainer import Tally, Training
from lib.errors import UserError
from lib.files import flat, whole_directory
from lib.manifest import MANIFEST, CorruptState, read_manifest, write_manifest

_HEAD, _OPTIMIZER = "head/model.safetensors", "optimizer.safetensors"
FILE = re.compile(r"manifest\.json|optimizer\.safetensors|head/\w[\w.-]*\.(json|safetensors)", re.ASCII)
"""The paths of a state folder's files. They are tensors and JSON, so reading them runs no code."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """A state as read. `identity` is `Training.identity`, `head` is `head_tensors`, `optimizer` is `optimizer_tensors`.

    `tally` is the tally of the rung in progress, None between rungs.
    """

    samples: int
    identity: dict[str, dict[str, Any]]
    head: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    tally: Tally | None


def save_state(path: Path, training: Training, tally: Tally | None = None) -> None:
    """Write the state of `training` atomically to the folder `path`, with the tally of a rung in progress.

    Only rank 0 writes. Other ranks return.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    with whole_directory(path) as folder:
        training.model.save_pretrained((folder / _HEAD).parent)
        save_file(optimizer_tensors(training), folder / _OPTIMIZER)
        progress = {"tally": asdict(tally)} if tally else {}
        write_manifest(folder, {"samples": training.samples, "identity": training.identity(), **progress})


def read_state(path: Path) -> State:
    """Read and verify the state folder `path`. Raises CorruptState naming a missing or changed file."""
    manifest = read_manifest(path)
    try:
        tally = Tally(**manifest["tally"]) if "tally" in manifest else None
        return State(manifest["samples"], manifest["identity"], load_file(path / _HEAD), load_file(path / _OPTIMIZER), tally)
    except (FileNotFoundError, KeyError, TypeError):
        raise CorruptState(path / MANIFEST, "is not a whole manifest") from None


def load_state(path: Path, training: Training) -> Tally:
    """Load the state in `path` into a fresh `training`. Return the tally of the rung in progress, a new one between rungs.

    Raises CorruptState, and UserError naming the differences when the state belongs to another arm or other data.
    """
    state = read_state(path)
    found, asked = flat(state.identity), flat(training.identity())
    differing = [
        f"{key}={found.get(key)!r} (asked for {asked.get(key)!r})"
        for key in sorted(asked.keys() | found.keys())
        if asked.get(key) != found.get(key)
    ]
    if differing:
        raise UserError(f"state {path} belongs to another training: {', '.join(differing)}; resume with its settings or delete it")
    training.model.load_state_dict(state.head, strict=False)
    moments = {
        index: {moment: state.optimizer[f"{moment}.{name}"] for moment in _MOMENTS}
        for index, name in enumerate(_trained_names(training))
        if f"step.{name}" in state.optimizer
    }
    training.optimizer.load_state_dict({"state": moments, "param_groups": training.optimizer.state_dict()["param_groups"]})
    training.samples = state.samples
    return state.tally or Tally(first=state.samples)


def optimizer_tensors(training: Training) -> dict[str, Tensor]:
    """Return AdamW's step counts and moments, named "<moment>.<parameter>". Empty before the first step."""
    names = _trained_names(training)
    state = training.optimizer.state_dict()["state"]
    return {f"{moment}.{names[index]}": moments[moment] for index, moments in state.items() for moment in _MOMENTS}


def _trained_names(training: Training) -> list[str]:
    """Return the names of the optimizer's parameters in its order."""
    return [name for name, parameter in training.model.named_parameters() if parameter.requires_grad]
