"""The weights of a target, read from the headers of its safetensors files."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.errors import UserError

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_UNREAD = ("embed_tokens.weight", "wte.weight")


def is_dense(target: Path) -> bool:
    """Return whether a decoding step reads all weights of a target: there are safetensors to count, and no experts.

    Raises UserError when the header of one cannot be read.
    """
    try:
        tensors = dict(_tensors(target))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"target.path={target}: the header of a safetensors file cannot be read ({error}); finish the download") from None
    return bool(tensors) and not any(".experts." in name for name in tensors)


def weight_bytes(target: Path, engine: dict[str, Any]) -> int:
    """Return the bytes of weights that a step reads: all but an input embedding that is not the output layer as well."""
    tensors = dict(_tensors(target))
    untied = any(name.endswith("lm_head.weight") for name in tensors)
    read = [tensor for name, tensor in tensors.items() if not (untied and name.endswith(_UNREAD))]
    size = None if engine["quantization"] else _BYTES[engine["dtype"].removeprefix("torch.")]
    return sum(stored if size is None else count * size for count, stored in read)


def _tensors(target: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name, number of elements and bytes of every tensor, from the headers of the safetensors files."""
    for file in sorted(target.glob("*.safetensors")):
        with file.open("rb") as handle:
            header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                first, last = tensor["data_offsets"]
                yield name, (math.prod(tensor["shape"]), last - first)
