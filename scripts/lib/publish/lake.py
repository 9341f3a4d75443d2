"""The perf lake holds every confirmed measurement as a Hive-partitioned Parquet dataset that pandas, DuckDB and Spark read.

    <lake>/target=<name>/draft_kind=<kind>/hardware=<name>/<digest of the row>.parquet

One file holds one measurement and is named by a hash of its content. Parallel runs and retries write the same file, so every measurement
is there exactly once. The lake is a local path or s3://bucket/folder.
"""

import io
import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import UserError
from lib.files import digest, flat
from lib.hyperparameters import HYPERPARAMETERS
from lib.storage import open_storage

PARTITIONS = ("target", "draft_kind", "hardware")
"""Keys of a row that become folders, outermost first. As in Hive, they are not columns of the files."""

REQUIRED = (*PARTITIONS, "verdict", "arm", "role", "acceptance_length")
"""Required keys of a row. Every other column may be null."""

_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_TIME = pa.timestamp("us", tz="UTC")  # Spark cannot read nanoseconds

COLUMNS = {
    "verdict": ("verdict", _TEXT),
    "role": ("role", _TEXT),
    "arm": ("arm", _TEXT),
    "recorded_at": ("recorded_at", _TIME),
    **{one.column: (f"point.{one.name}", _COUNT if one.whole else _NUMBER) for one in HYPERPARAMETERS.values()},
    "seed": ("seed", _COUNT),
    "samples": ("samples", _COUNT),
    "draft_tokens_per_step": ("context.configuration.num_speculative_tokens", _COUNT),
    "acceptance_length": ("acceptance_length", _NUMBER),
    "drafts": ("drafts", _COUNT),
    "draft_tokens": ("draft_tokens", _COUNT),
    "accepted": ("accepted", _COUNT),
    "per_position_acceptance": ("per_position_acceptance", pa.list_(_NUMBER)),
    "output_throughput": ("output_throughput", _NUMBER),
    "concurrency": ("context.workload.concurrency", _COUNT),
    "isl": ("isl", _NUMBER),
    "osl": ("context.workload.output_tokens", _COUNT),
    "stop": ("context.workload.stop", _TEXT),
    "mean_output_tokens": ("mean_output_tokens", _NUMBER),
    "temperature": ("context.workload.temperature", _NUMBER),
    "vllm": ("context.stack.vllm", _TEXT),
    "device_name": ("context.identity.device_name", _TEXT),
    "dtype": ("context.identity.dtype", _TEXT),
}
"""Column -> its path in the row -> type. Output throughput is in tokens per second. isl is the mean number of tokens
of a prompt. osl is the largest number of an answer and mean_output_tokens the mean."""

SCHEMA = pa.schema({"id": _TEXT, **{name: kind for name, (_, kind) in COLUMNS.items()}, "record": _TEXT})
"""Schema of every file. `id` is the digest of the row, `record` the whole row as JSON."""


def append(url: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Add measurements that are not yet in the lake.

    Args:
        url: the lake, a local path or s3://bucket/folder.
        rows: nested dictionaries of JSON values. `COLUMNS` defines the columns, and `record` keeps the whole row.

    Returns:
        The file of every row, relative to the lake, in the order of the rows.

    Raises:
        UserError: a row lacks a required key or holds a value of the wrong type, or the lake cannot be written.
    """
    files = [_file(row) for row in rows]
    contents = [_parquet(row) for row in rows]
    storage = open_storage(url, "publish.lake")
    try:
        for file, content in zip(files, contents, strict=True):
            if storage.size(file) != len(content):  # missing or truncated
                storage.put(io.BytesIO(content), file)
    except Exception as error:  # boto3 raises its own exceptions
        raise UserError(
            f"publish.lake = {url} cannot be written ({type(error).__name__}: {error}); fix that and run again, or choose another place"
        ) from error
    return files


def _file(row: dict[str, Any]) -> str:
    """Return the path of a row in the lake after checking its required keys."""
    for key in REQUIRED:
        value = row.get(key)
        sound = isinstance(value, int | float) and math.isfinite(value) if key == "acceptance_length" else value and isinstance(value, str)
        if not sound:
            raise UserError(f"a row for the lake has {key} = {value!r}; give {key}, because the lake is ordered by it")
    folders = [f"{key}={_escaped(row[key])}" for key in PARTITIONS]
    return "/".join([*folders, f"{_id(row)}.parquet"])


def _id(row: dict[str, Any]) -> str:
    for key, leaf in flat(row).items():
        try:
            json.dumps(leaf, allow_nan=False)
        except (ValueError, TypeError):
            raise UserError(f"{_named(row)}: {key} = {leaf!r} is not JSON; remove it, or give null or a finite number") from None
    return digest(row, 32)


def _parquet(row: dict[str, Any]) -> bytes:
    """Return a row as the content of its Parquet file."""
    leaves = flat(row)
    values = {"id": _id(row), "record": json.dumps(row, sort_keys=True, allow_nan=False)}
    columns = {name: pa.array([value], _TEXT) for name, value in values.items()}
    for name, (path, kind) in COLUMNS.items():
        value = leaves.get(path)
        try:
            columns[name] = pa.array([_unrounded(value, kind)], kind)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{_named(row)}: {path} = {value!r} is not of type {kind} ({error}); correct it") from None
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer)
    return buffer.getvalue()


def _unrounded(value: Any, kind: Any) -> Any:
    """Return a value for pyarrow. Raises ValueError for values that pyarrow changes silently, such as fractions or times without zone."""
    if kind == _COUNT and isinstance(value, float) and not value.is_integer():
        raise ValueError("it is not a whole number")
    if kind == _TIME and value is not None:
        value = datetime.fromisoformat(value)
        if value.tzinfo is None:
            raise ValueError("it names no time zone")
    return value


def _named(row: dict[str, Any]) -> str:
    return f"row of verdict {row['verdict']}, arm {row['arm']}"


def _escaped(value: str) -> str:
    """Percent-encode as Hive does, and also the space. Characters beyond ASCII are kept, because Spark decodes single bytes."""
    return re.sub(r"[^A-Za-z0-9._~\x80-\U0010ffff-]", lambda found: f"%{ord(found[0]):02X}", value)
