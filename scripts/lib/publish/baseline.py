"""Standing baselines: the current best configuration for a target, its data and its serving, and all former ones.

A baseline file is named by the context of its numbers, so each context has its own file.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import AfterValidator, ValidationError, model_validator

from lib.config import Point
from lib.errors import UserError
from lib.files import differing_keys, digest, flat, write_json
from lib.reading import read_json
from lib.records.context import Record
from lib.records.measurement import Filled

OF_AN_ENTRY = ("verdict", "point", "over", "recipe", "asked")
"""Required keys of an entry."""


def _json(section: dict[str, Any]) -> dict[str, Any]:
    for key, leaf in flat(section).items():
        try:
            json.dumps(leaf, allow_nan=False)
        except ValueError:
            raise ValueError(f"{key} = {leaf} is not a finite number") from None
    return section


def _complete(entry: dict[str, Any]) -> dict[str, Any]:
    missing = [key for key in OF_AN_ENTRY if not entry.get(key)]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing")
    for name in ("point", "over"):
        Point.model_validate(entry[name])
    return entry


Section = Annotated[Filled, AfterValidator(_json)]
Entry = Annotated[Section, AfterValidator(_complete)]


class Baseline(Record):
    """One file of the folder `baselines/`."""

    key: str
    context: Section
    recipe: Section
    """The recipe shared by all arms of the search behind the current entry."""
    asked: Section
    """The serving settings of the current entry's measurement."""
    current: Entry
    history: list[Entry]
    """The former current entries, oldest first."""

    @model_validator(mode="after")
    def _unedited(self) -> "Baseline":
        if not self.key.endswith(f"-{digest(self.context)}"):
            raise ValueError(f"key = {self.key} does not match this context, whose digest is {digest(self.context)}")
        for name in ("recipe", "asked"):
            differing = differing_keys(getattr(self, name), self.current[name])
            if differing:
                raise ValueError(f"{name} does not match the current entry ({', '.join(differing)})")
        return self


def bench_of(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the serving settings without the number of repeats, which differs between verdict and selection."""
    return {key: value for key, value in asked.items() if key != "repeats"}


def check_folder(folder: Path, key: str) -> None:
    """Raise UserError naming `key` for a folder that cannot be written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"{key} = {folder}: {there} is not a folder; move it away or choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{key} = {folder}: {there} is not writable; change its permissions or choose another place")


def context_key(model: str, method: str, hardware: str, context: dict[str, Any]) -> str:
    """Return the name of a context, a readable prefix and a digest of the whole context, such as `glm-5.1-eagle3-GB300-1f3a9c`."""
    name = f"{Path(model).name.lower()}-{method}-{hardware}"
    return f"{re.sub('[^A-Za-z0-9._]+', '-', name).strip('.-')}-{digest(context)}"


def promote(folder: Path, key: str, entry: dict[str, Any], context: dict[str, Any]) -> bool:
    """Make an entry the current one of `<folder>/<key>.json`. The former entry moves to the history.

    Args:
        folder: the folder of the baselines.
        key: the result of `context_key`.
        entry: the keys `OF_AN_ENTRY` and other keys from the verdict, as JSON values.
        context: the context of its numbers.

    Returns:
        Whether the file changed. It does not change when the entry's verdict was promoted before.

    Raises:
        UserError: the file was edited or cannot be read, or the folder cannot be written.
    """
    path = folder / f"{key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{key}.lock"):
            history = _entries(read_baseline(path)) if path.exists() else []
            if entry["verdict"] in [former["verdict"] for former in history]:
                return False
            if history and history[-1]["point"] != entry["over"]:
                raise UserError(f"{path} holds another point than the champion was compared with; run with --config baseline={path}")
            baseline = Baseline(key=key, context=context, recipe=entry["recipe"], asked=entry["asked"], current=entry, history=history)
            write_json(path, baseline.model_dump(mode="json"))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); make {folder} a writable folder") from None
    return True


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises UserError when the file is missing, truncated, edited, or lacks a field."""
    cure = "restore the file as it was promoted" if path.exists() else "name a file that a verdict promoted"
    values = read_json(path, str(path), cure)
    try:
        return Baseline.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        reason = f"{where}: {fault['msg']}" if where else fault["msg"]
        raise UserError(f"{path}: {reason}; restore the file as it was promoted") from None


def require_same_context(path: Path, baseline: Baseline, recipe: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse a baseline whose training or serving settings differ from the search.

    Raises:
        UserError: names the file, the keys that differ, and the cure.
    """
    differing = differing_keys({"recipe": baseline.recipe, "asked": baseline.asked}, {"recipe": recipe, "asked": bench_of(asked)})
    if differing:
        raise UserError(
            f"{path} has another context ({', '.join(differing)} differ); name a baseline of this target, data and serving "
            "configuration, or write its point under standing in the space file (it is measured again in any case)"
        )


def _entries(baseline: Baseline) -> list[dict[str, Any]]:
    """Return all entries of a baseline, oldest first."""
    return [*baseline.history, baseline.current]
