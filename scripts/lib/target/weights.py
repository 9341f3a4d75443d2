"""The weights of a target, read from the headers of its safetensors files."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.safetensors_header import read_header
from lib.target.load import TargetFacts, read_weight_map

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_EMBEDDING = re.compile(r"(?:language_model\.|model\.)*embed_tokens\.weight")
_LAYER = re.compile(r"^(?:language_model\.|model\.|transformer\.|gpt_neox\.)*(?:layers|h)\.(\d+)\.")
_UNREAD = ("embed_tokens.weight", "wte.weight")


def check_weights(target: Path, facts: TargetFacts) -> bool:
    """Return whether a decoding step reads all weights of a target, so that it has no experts.

    Only headers are read. Raises UserError when a safetensors file is truncated or has no header, or when tensors of the index, a layer, or
    rows of the embedding are missing.
    """
    tensors = dict(_tensors(target))
    indexed = {name for index in target.glob("*.safetensors.index.json") for name in read_weight_map(index)}
    numbers = {int(found[1]) for name in tensors if (found := _LAYER.search(name))}
    absent = sorted(indexed - tensors.keys()) or [
        f"layer {number}" for number in range(facts.num_layers) if numbers and number not in numbers
    ]
    if absent:
        raise UserError(f"target.path={target} lacks {absent[0]} and {len(absent) - 1} more weights; finish the download")
    for name, (shape, _) in tensors.items():
        if _EMBEDDING.fullmatch(name) and shape != [facts.vocab_size, facts.hidden_size]:
            said = f"vocab_size = {facts.vocab_size} and hidden_size = {facts.hidden_size}"
            raise UserError(f"target.path={target}: config.json says {said}, but {name} is {shape}; correct it")
    return not any(".experts." in name for name in tensors)


def tensor_names(target: Path) -> set[str]:
    """Return the names of all tensors. Raises UserError for a safetensors file that cannot be read."""
    return {name for name, _ in _tensors(target)}


def weight_bytes(target: Path, engine: dict[str, Any]) -> int:
    """Return the bytes of weights that a step reads, which excludes an input embedding that is not also the output layer."""
    tensors = dict(_tensors(target))
    untied = any(name.endswith("lm_head.weight") for name in tensors)
    read = [tensor for name, tensor in tensors.items() if not (untied and name.endswith(_UNREAD))]
    size = None if engine["quantization"] else _BYTES[engine["dtype"].removeprefix("torch.")]
    return sum(stored if size is None else math.prod(shape) * size for shape, stored in read)


def _tensors(target: Path) -> Iterator[tuple[str, tuple[list[int], int]]]:
    """Yield name, shape and bytes of every tensor, from the headers of the safetensors files. Raises UserError for one that is cut."""
    for file in sorted(target.glob("*.safetensors")):
        try:
            tensors, whole = read_header(file)
            if (size := file.stat().st_size) < whole:
                raise ValueError(f"it has {size} of {whole} bytes")
        except (OSError, ValueError) as error:
            raise UserError(f"target.path={target}: {file.name} cannot be read ({error}); finish the download") from None
        for name, tensor in tensors.items():
            yield name, (tensor.shape, tensor.end - tensor.begin)
