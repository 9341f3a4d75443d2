"""The files of an exported head: whether they are whole, and whether one head can take the place of another in a running engine."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import UserError
from lib.files import differing_keys, read_json
from lib.safetensors_header import read_header

FROZEN = ("embed_tokens.weight", "lm_head.weight")
"""Tensors of a head that are copies of the target's. The hash of a trained head leaves them out."""

CURE = "delete the folder, and the next run exports the head again"


class HeadDiffers(Exception):  # noqa: N818 - what it says of the head; no fault of the user
    """A head cannot take the place of the one in a running engine. The engine still serves the head that it has."""


class ExchangeFailed(Exception):  # noqa: N818
    """A head did not arrive whole in a running engine. What the engine serves now is not known."""


class _Tensor(NamedTuple):
    file: Path
    dtype: str
    shape: list[int]
    begin: int
    end: int


def require_whole(head: Path, sha256: str) -> None:
    """Raise UserError unless the files in the folder `head` are whole and hold the head that was trained, by the hash of its weights."""
    tensors = _tensors(head)
    digest = hashlib.sha256()
    for name in sorted(tensors.keys() - set(FROZEN)):
        digest.update(name.encode())
        tensor = tensors[name]
        with tensor.file.open("rb") as file:
            file.seek(tensor.begin)
            digest.update(file.read(tensor.end - tensor.begin))
    if digest.hexdigest() != sha256:
        raise UserError(f"{head} does not hold the head that was trained, its weights have another hash; {CURE}")


def require_alike(served: Path, head: Path) -> None:
    """Raise HeadDiffers unless two heads have the same configuration and tensors of the same names, types and shapes."""
    if differing := differing_keys(_described(served), _described(head)):
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise HeadDiffers(f"{head} differs from {served} in {differing[0]}{more}")


def _described(head: Path) -> dict[str, Any]:
    tensors = {name: [tensor.dtype, tensor.shape] for name, tensor in _tensors(head).items()}
    return read_json(head / "config.json", CURE) | {"tensors": tensors}


def _tensors(head: Path) -> dict[str, _Tensor]:
    files = sorted(head.glob("*.safetensors"))
    if not files:
        raise UserError(f"{head} holds no .safetensors file; {CURE}")
    return {name: tensor for file in files for name, tensor in _listed(file).items()}


def _listed(file: Path) -> dict[str, _Tensor]:
    """Return the tensors that the header of a .safetensors file lists. Raises UserError when they do not fill the file."""
    try:
        tensors, whole = read_header(file)
        size = file.stat().st_size
    except ValueError:
        raise UserError(f"{file} is truncated or no safetensors file; {CURE}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {CURE}") from None
    if whole != size:
        raise UserError(f"{file} is truncated or longer than its header says; {CURE}")
    return {name: _Tensor(file, *tensor) for name, tensor in tensors.items()}
