"""Text for the tiny target from the interpreter's standard library."""

import hashlib
import os
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_PARTS = (("target", 0.70), ("train", 0.86), ("heldout", 0.93), ("serving", 1.0))  # name, upper end of its share
_LARGEST_DOCUMENT = 300_000
# Excluded: tests and vendored tools differ in style, `encodings` has tables of code points, `_sysconfigdata` depends on the build.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "__pycache__"}


def stdlib_documents() -> dict[str, str]:
    """Return the running interpreter's standard library as {relative path: text}, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    documents = {}
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = set(subfolders) - _SKIPPED
        for path in (Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")):
            if path.stat().st_size <= _LARGEST_DOCUMENT:
                with suppress(UnicodeDecodeError, PermissionError):
                    documents[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    return dict(sorted(documents.items()))


def split_documents(documents: Mapping[str, str]) -> dict[str, list[str]]:
    """Assign documents to `target`, `train`, `heldout` and `serving` by a hash of their name."""
    parts: dict[str, list[str]] = {part: [] for part, _ in _PARTS}
    for name, text in documents.items():
        position = int(name_hash(name)[:8], 16) / 16**8
        parts[next(part for part, end in _PARTS if position < end)].append(text)
    return parts


def name_hash(text: str) -> str:
    """Return the SHA-256 of a text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
