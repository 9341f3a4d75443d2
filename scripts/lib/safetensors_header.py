"""Headers of safetensors files, read without loading a tensor."""

from pathlib import Path
from typing import NamedTuple

from pydantic_core import from_json


class StoredTensor(NamedTuple):
    """A tensor in a file. `begin` and `end` are bytes of the file."""

    dtype: str
    shape: list[int]
    begin: int
    end: int


def read_header(file: Path) -> tuple[dict[str, StoredTensor], int]:
    """Return the tensors of a file by name, and the bytes that a whole file has.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not begin with such a header.
    """
    with file.open("rb") as content:
        try:
            start = 8 + int.from_bytes(content.read(8), "little")
            header = from_json(content.read(start - 8))  # this reader raises ValueError for deep nesting
            header.pop("__metadata__", None)
            tensors = {
                name: StoredTensor(told["dtype"], told["shape"], *(start + offset for offset in told["data_offsets"]))
                for name, told in header.items()
            }
            return tensors, max((tensor.end for tensor in tensors.values()), default=start)
        except (AttributeError, LookupError, MemoryError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"no safetensors header, {error}") from None
