"""The files that people write or copy, each read here and nowhere else: plain data, or one line that says what is wrong with the file."""

import json
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lib.errors import UserError

LARGEST_MIB = 16
"""Size above which no file is one that a person writes. Files of prompts and records have limits of their own."""

MOST_VALUES = 200_000
"""Values in one file, aliases counted as often as they are named: what is above would take minutes to check."""

DEEPEST = 50
"""Nesting above which a file is refused."""


def read_text(path: Path, name: str, cure: str, *, largest_mib: float = LARGEST_MIB) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        path: the file.
        name: how the message names it: a key and its value, or the path.
        cure: what the message ends with.
        largest_mib: size above which the file is refused, in MiB.

    Raises:
        UserError: the file is missing, a folder, not readable, too large or not UTF-8.
    """
    try:
        if path.is_dir():
            raise UserError(f"{name}: a folder, not a file; {cure}")
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: a device or pipe, not a file; {cure}")
        size = path.stat().st_size
        if size > largest_mib * 2**20:
            raise UserError(f"{name}: {size / 2**20:.0f} MiB are more than the {largest_mib:g} MiB allowed; {cure}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; {cure}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}); {cure}") from None


def read_yaml(path: Path, name: str, cure: str) -> dict[str, Any]:
    """Return the mapping of a YAML file. Raises UserError as `read_text` does, and when the file holds anything else or a key twice."""
    text = read_text(path, name, cure)
    try:
        return _mapping(yaml.load(text, _Loader), name, cure)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}{f': {error.problem}' if isinstance(error, _DuplicateKeyError) else ''})" if mark else ""
        raise UserError(f"{name}: not YAML{where}; correct it") from None
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name}: not YAML that can be read ({_short(error)}); correct it") from None


def read_json(path: Path, name: str, cure: str, *, largest_mib: float = LARGEST_MIB) -> dict[str, Any]:
    """Return the object of a JSON file. Raises UserError as `read_text` does, and when the file holds anything else or a key twice."""
    return parse_json(read_text(path, name, cure, largest_mib=largest_mib), name, cure)


def parse_json(text: str, name: str, cure: str) -> dict[str, Any]:
    """Return the object of a JSON text. Raises UserError when it is none, or names a key twice."""
    try:
        return _mapping(json.loads(text, object_pairs_hook=_distinct), name, cure)
    except (RecursionError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: not JSON ({_short(error)}); {cure}") from None


class _DuplicateKeyError(yaml.constructor.ConstructorError):  # type: ignore[misc]
    pass


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, but a key that stands twice in a mapping is an error: PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise _DuplicateKeyError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        values: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return values


def _mapping(value: Any, name: str, cure: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: holds no keys; {cure}")
    if not all(isinstance(key, str) for key in value):
        key = next(key for key in value if not isinstance(key, str))
        raise UserError(f"{name}: key {key!r} is not text; put it in quotes")
    for number, depth in enumerate(_depths(value)):
        if depth > DEEPEST or number > MOST_VALUES:
            what = f"nested more than {DEEPEST} deep" if depth > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise UserError(f"{name}: {what}; {cure}")
    return value


def _depths(value: Any) -> Iterator[int]:
    """Yield the depth of every value, in any order, without recursion."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        yield depth
        if depth <= DEEPEST:
            inner = one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple | set) else ()
            waiting.extend((each, depth + 1) for each in inner)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
