"""Headers of safetensors files, read without loading a tensor."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import from_json

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class StoredTensor(NamedTuple):
    """A tensor in a file. `begin` and `end` are bytes of the file."""

    dtype: str
    shape: list[int]
    begin: int
    end: int


class _Told(BaseModel):
    """What a header says of a tensor."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


_HEADER = TypeAdapter(dict[str, _Told])


def read_header(file: Path) -> tuple[dict[str, StoredTensor], int]:
    """Return the tensors of a file by name, and the bytes that a whole file has.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not begin with such a header.
    """
    with file.open("rb") as content:
        try:
            start = 8 + int.from_bytes(content.read(8), "little")
            if start > file.stat().st_size:
                raise ValueError("it would be longer than the file")
            header = from_json(content.read(start - 8))  # this reader raises ValueError for deep nesting
            header.pop("__metadata__", None)
            told = _HEADER.validate_python(header)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"no safetensors header, {' '.join(str(error).split())[:200]}") from None
    tensors = {name: StoredTensor(one.dtype, one.shape, *(start + offset for offset in one.data_offsets)) for name, one in told.items()}
    return tensors, max((tensor.end for tensor in tensors.values()), default=start)
