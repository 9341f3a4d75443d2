"""Atomic files: written under a temporary name, synced, renamed."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from lib.errors import UserError

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""Pattern of temporary files and directories."""

ABANDONED_AFTER_S = 3600
"""Seconds without a write after which a temporary file counts as abandoned."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_WHOLE_BYTES = 64 * 2**20
_BLOCKS, _BLOCK_BYTES = 64, 64 * 2**10


@contextmanager
def whole_file(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On a clean exit it replaces `path` atomically, otherwise it is removed.

    A path has one writer at a time unless `shared` is set. Temporary files of killed writers are removed: those of `path` at once, or with
    `shared` all abandoned ones in the folder.
    """
    if shared:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
    temporary = _neighbour(path) if shared else _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`. On a clean exit it replaces `path`, otherwise it is removed."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_dir() or file.stat().st_nlink == 1:  # a hard link shares its mode with another file
                file.chmod(file.stat().st_mode | 0o044)  # some libraries write files that only the owner can read
        if path.exists() or path.is_symlink():
            discard(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a directory atomically by renaming it first. After a kill, the next writer of the path removes the rest."""
    doomed = _neighbour(path)
    path.rename(doomed)
    remove(doomed)


def remove(path: Path) -> None:
    """Remove a file, a directory, or a link but not its target. Nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def full(error: BaseException) -> bool:
    """Return whether a file system, a quota or a limit leaves no room for a file. Libraries that are not Python's only say so."""
    return getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL)


def _temporary(path: Path) -> Path:
    """Return a temporary path beside `path` after removing those of killed writers. `path` has one writer at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        remove(leftover)
    return _neighbour(path)


def _remove_abandoned(folder: Path) -> None:
    for leftover in filter(lambda path: TEMPORARY.fullmatch(path.name), folder.iterdir()):
        with suppress(FileNotFoundError):  # the writer has renamed it meanwhile
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER_S:
                leftover.unlink()


def _neighbour(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON. Raises ValueError for NaN and infinities, which are not JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, cure: str, name: str = "") -> dict[str, Any]:
    """Read the JSON object in a file written by a program. `lib.reading` reads files written by people.

    Args:
        path: the file.
        cure: the end of the error message.
        name: name of the file in the error message, by default the path.

    Raises:
        UserError: the file is missing, is not valid JSON, or holds no object.
    """
    try:
        value = from_json(path.read_bytes(), allow_inf_nan=False)  # this reader raises ValueError for deep nesting
    except (OSError, ValueError) as error:
        raise UserError(f"{name or path} cannot be read ({error}); {cure}") from None
    if not isinstance(value, dict):
        raise UserError(f"{name or path} holds no keys; {cure}")
    return value


def sampled(path: Path) -> bytes:
    """Return the bytes for a partial hash of a file: the content, or above 64 MiB 64 evenly spaced blocks of 64 KiB."""
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return path.read_bytes()
    blocks = []
    with path.open("rb") as handle:
        for block in range(_BLOCKS):
            handle.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
            blocks.append(handle.read(_BLOCK_BYTES))
    return b"".join(blocks)


def digest(value: Any, length: int = 6) -> str:
    """Return `length` hex digits of the SHA-256 of `value` as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, part in value.items() for key, leaf in flat(part, f"{prefix}.{name}" if prefix else name).items()}


def differing_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the dotted names of the leaves in which two nested dictionaries differ."""
    first, second, missing = flat(one), flat(other), object()
    return [key for key in sorted(first | second) if first.get(key, missing) != second.get(key, missing)]
