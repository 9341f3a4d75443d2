"""The manifest of a state folder holds facts about the state and a digest of every file. Reading it needs no torch."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from lib.errors import UserError
from lib.files import write_json

MANIFEST = "manifest.json"


class CorruptState(UserError):  # noqa: N818 - the state of the folder, as its message says
    """A state folder does not match its manifest."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"state: {file} {what}; delete the folder, and the rung is trained again")


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `facts` and the SHA-256 of every file in `folder`."""
    files = {file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the facts of a state folder after checking every file.

    Raises:
        CorruptState: a file is missing or changed. The message names it.
        UserError: the manifest exists but cannot be read.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise CorruptState(folder / MANIFEST, "is missing") from None
    except OSError as error:
        raise UserError(f"state: {folder / MANIFEST} cannot be read ({error.strerror}); make it accessible") from None
    try:
        facts: dict[str, Any] = from_json(content, allow_inf_nan=False)
        files = dict(facts.pop("files"))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CorruptState(folder / MANIFEST, "is not a whole manifest") from None
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise CorruptState(folder / name, "is missing")
        if _sha256(folder / name) != digest:
            raise CorruptState(folder / name, "differs from the digest in the manifest")
    return facts


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
