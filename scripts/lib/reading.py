"""The only reader of files that users write or copy. It returns plain data, or raises an error of one line."""

import json
import math
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lib.errors import UserError

LARGEST_MIB = 16
"""Largest size of a file written by a person. Files of prompts and records have their own limits."""

MOST_VALUES = 200_000
"""Largest number of values in one file, counting every use of an alias. More would take minutes to check."""

DEEPEST = 50
"""Deepest nesting of a file."""

LONGEST = 1_000
"""Largest number of characters in a value."""

LARGEST = 2**63 - 1
"""Largest whole number that tables, tensors and engines can hold."""

_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


def read_text(path: Path, name: str, cure: str, *, largest_mib: float = LARGEST_MIB) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        path: the file.
        name: name of the file in the error message, a key with its value or the path.
        cure: the end of the error message.
        largest_mib: largest allowed size in MiB.

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
    """Return the mapping of a YAML file. Raises UserError as `read_text` does, and for anything but a mapping or for a repeated key."""
    return parse_yaml(read_text(path, name, cure), name, cure)


def parse_yaml(text: str, name: str, cure: str) -> dict[str, Any]:
    """Return the mapping of a YAML text. Raises UserError when it is no mapping, or repeats a key."""
    try:
        return _mapping(yaml.load(text, _Loader), name, cure)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}{f': {error.problem}' if isinstance(error, _DuplicateKeyError) else ''})" if mark else ""
        raise UserError(f"{name}: not YAML{where}; correct it") from None
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name}: not YAML that can be read ({_short(error)}); correct it") from None


def read_json(path: Path, name: str, cure: str, *, largest_mib: float = LARGEST_MIB) -> dict[str, Any]:
    """Return the object of a JSON file. Raises UserError as `read_text` does, and for anything but an object or for a repeated key."""
    return parse_json(read_text(path, name, cure, largest_mib=largest_mib), name, cure)


def parse_json(text: str, name: str, cure: str) -> dict[str, Any]:
    """Return the object of a JSON text. Raises UserError when it is no object, or repeats a key."""
    try:
        return _mapping(json.loads(text, object_pairs_hook=_distinct), name, cure)
    except (RecursionError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: not JSON ({_short(error)}); {cure}") from None


def require_plain(values: Any, source: str) -> None:
    """Raise UserError for values no key takes: excessive nesting or length, infinite or too large numbers, unprintable texts.

    The message starts with `source` and names the key.
    """
    for keys, value in _bounded(values, source, "correct it"):
        if fault := _fault_of(keys[-1]) if keys else None:
            raise UserError(f"{source}: key {fault}; correct it")
        if fault := _fault_of(value):
            raise UserError(f"{source}: {_joined(keys)} = {fault}; correct it")


def shown(value: Any) -> str:
    """Return the Python form of a value for a message, shortened if long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text):,} characters)"


def _fault_of(value: Any) -> str | None:
    """Return a value and its fault, None without a fault."""
    if isinstance(value, int) and abs(value) > LARGEST:  # Python does not print numbers above 4,300 digits
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1:,} digits: input should be at most {LARGEST}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}: input should be a finite number"
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{shown(value)}: input should have at most {LONGEST:,} characters"
    if isinstance(value, str) and _CONTROL.search(value):
        return f"{shown(value)}: input should be printable text in one line"
    return None


class _DuplicateKeyError(yaml.constructor.ConstructorError):  # type: ignore[misc]
    pass


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader that refuses a repeated key in a mapping, where PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise _DuplicateKeyError(None, None, f"key {key!r} is repeated", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        values: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is repeated")
    return values


def _mapping(value: Any, name: str, cure: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: holds no keys; {cure}")
    if not all(isinstance(key, str) for key in value):
        key = next(key for key in value if not isinstance(key, str))
        raise UserError(f"{name}: key {key!r} is not text; put it in quotes")
    for _ in _bounded(value, name, cure):
        pass
    return value


def _bounded(values: Any, name: str, cure: str) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every value with its keys in any order, without recursion. Raises UserError for too deep nesting or too many values."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), values)]
    count = 0
    while waiting:
        keys, value = waiting.pop()
        count += 1
        if len(keys) > DEEPEST:
            raise UserError(f"{name}: {_joined(keys[:3])} is nested more than {DEEPEST} deep; {cure}")
        if count > MOST_VALUES:
            raise UserError(f"{name}: more than {MOST_VALUES:,} values; {cure}")
        yield keys, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple | set) else ()
        waiting.extend(((*keys, key), each) for key, each in inner)


def _joined(keys: tuple[Any, ...]) -> str:
    return ".".join(str(key) for key in keys)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
