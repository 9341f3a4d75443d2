"""Every measurement is in the lake exactly once, whichever process wrote it, and every reader sees the same.

Spark needs Java and does not run here. Its requirements are checked by inspection. All files have one schema, no column has type null, and
times are in microseconds. Folders unescape to the values by Spark's `unescapePathName`, and no data is under a name that begins with a dot
or an underscore, which Spark skips.
"""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
from lib.errors import UserError
from lib.files import ABANDONED_AFTER_S
from lib.publish.lake import COLUMNS, SCHEMA, append

from tests.s3 import BUCKET, KEY, SECRET, S3Server, s3_server  # noqa: F401 - a fixture
from tests.unit.publish.writers import start

WRITER = """
import json, sys
from lib.publish.lake import append
from tests.unit.publish.test_lake import measurement
lake, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for seed in range(first, last):
    append(lake, [measurement(seed=seed)])
    print(seed, flush=True)
"""

DYING = """
import os, signal, sys
from tests.unit.publish.test_lake import measurement
from lib.publish import lake
def die(*arguments, **names):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], die)
lake.append(sys.argv[1], [measurement(seed=0)])
"""


def measurement(**changes: Any) -> dict[str, Any]:
    return {
        "verdict": "v1",
        "role": "champion",
        "arm": "gb8-lr3e-4",
        "target": "zai-org/GLM-5.1",
        "draft_kind": "eagle3",
        "hardware": "GB300",
        "recorded_at": "2026-01-02T03:04:05.678901+02:00",
        "point": {"global_batch": 8, "lr": 3e-4, "warmup": 0.05, "accum": 2, "weight_decay": 0.1},
        "layout": {"ranks": 1, "micro_batch": 4, "accumulation": 2},
        "seed": 0,
        "samples": 4096,
        "acceptance_length": 2.5,
        "per_position_acceptance": [0.8, 0.5, 0.2],
        "drafts": 100,
        "draft_tokens": 300,
        "accepted": 150,
        "output_throughput": 1234.5,
        "isl": 517.25,
        "mean_output_tokens": 40.5,
        "context": {
            "identity": {"device_name": "NVIDIA GB300", "dtype": "torch.bfloat16"},
            "configuration": {"num_speculative_tokens": 3},
            "workload": {"concurrency": 16, "output_tokens": 64, "stop": "eos", "temperature": 0.0},
            "stack": {"vllm": "0.32.0"},
        },
    } | changes


BARE = {key: measurement()[key] for key in ("verdict", "role", "arm", "target", "draft_kind", "hardware", "acceptance_length")}


def seeds(lake: Path) -> list[int]:
    """Return the seeds in the lake, in which duckdb, pandas and pyarrow must agree."""
    by_duckdb = sorted(
        row[0] for row in duckdb.sql(f"SELECT seed FROM read_parquet('{lake}/**/*.parquet', hive_partitioning = true)").fetchall()
    )
    assert sorted(pd.read_parquet(lake)["seed"]) == by_duckdb
    assert sorted(ds.dataset(lake, partitioning="hive").to_table()["seed"].to_pylist()) == by_duckdb
    return by_duckdb


def files(lake: Path) -> list[Path]:
    return sorted(path for path in lake.rglob("*") if path.is_file())


def test_a_measurement_becomes_a_row_of_columns_and_is_kept_whole(tmp_path: Path) -> None:
    [file] = append(str(tmp_path), [measurement()])
    assert re.fullmatch(r"target=zai-org%2FGLM-5\.1/draft_kind=eagle3/hardware=GB300/[0-9a-f]{32}\.parquet", file)
    [row] = pd.read_parquet(tmp_path).to_dict("records")
    assert row["id"] == Path(file).stem
    assert json.loads(row["record"]) == measurement()
    assert (row["target"], row["draft_kind"], row["hardware"]) == ("zai-org/GLM-5.1", "eagle3", "GB300")
    assert row["recorded_at"] == pd.Timestamp("2026-01-02T01:04:05.678901Z")
    assert list(row["per_position_acceptance"]) == [0.8, 0.5, 0.2]
    expected = {"accumulation": 2, "draft_tokens_per_step": 3, "concurrency": 16, "isl": 517.25, "osl": 64, "vllm": "0.32.0", "lr": 3e-4}
    assert {name: row[name] for name in expected} == expected
    assert not [name for name in COLUMNS if name != "per_position_acceptance" and pd.isna(row[name])]


def test_the_best_acceptance_per_target_and_draft_kind_is_one_plain_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lengths = {("a", "eagle3"): (2.0, 2.5), ("a", "dflash"): (3.0, 2.9), ("b/c", "eagle3"): (1.5,)}
    append(
        "lake",
        [
            measurement(target=target, draft_kind=kind, acceptance_length=length)
            for (target, kind), values in lengths.items()
            for length in values
        ],
    )
    best = duckdb.sql(
        "SELECT target, draft_kind, max(acceptance_length) AS best "
        "FROM read_parquet('lake/**/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY ALL"
    )
    assert best.fetchall() == [("a", "dflash", 3.0), ("a", "eagle3", 2.5), ("b/c", "eagle3", 1.5)]


@pytest.mark.parametrize("name", ["zai-org/GLM-5.1", "a=b", "two words", "50%", "%2F", "a+b", "q?[x]*:'\"#{}\\", "模型-é", ".hidden", "_x"])
def test_a_name_comes_back_from_its_folder_as_it_was(tmp_path: Path, name: str) -> None:
    lake = tmp_path / "lake"
    append(str(lake), [measurement(target=name), measurement(target="other")])
    names = sorted([name, "other"])
    assert sorted(pd.read_parquet(lake)["target"]) == names
    assert sorted(ds.dataset(lake, partitioning="hive").to_table()["target"].to_pylist()) == names
    found = duckdb.sql(f"SELECT target FROM read_parquet('{lake}/**/*.parquet', hive_partitioning = true)").fetchall()
    assert sorted(row[0] for row in found) == names
    by_spark = [re.sub("%([0-9A-F]{2})", lambda code: chr(int(code[1], 16)), path.name.partition("=")[2]) for path in lake.iterdir()]
    assert sorted(by_spark) == names


def test_all_files_have_one_schema_that_spark_reads_however_null_their_values(tmp_path: Path) -> None:
    append(str(tmp_path), [BARE, measurement(), BARE | {"per_position_acceptance": None, "context": None, "arm": "b"}])
    schemas = [pq.read_schema(path) for path in files(tmp_path)]
    assert all(schema == SCHEMA for schema in schemas)
    assert not [field.name for field in SCHEMA if pa.types.is_null(field.type) or pa.types.is_dictionary(field.type)]
    assert [field.type.unit for field in SCHEMA if pa.types.is_timestamp(field.type)] == ["us"]
    assert not {"target", "draft_kind", "hardware"} & set(SCHEMA.names)  # Spark refuses a partition column of another type in the files
    assert all(path.suffix == ".parquet" and path.name[0] not in "._" for path in files(tmp_path))
    assert duckdb.sql(f"SELECT count(*), count(vllm), max(lr) FROM '{tmp_path}/**/*.parquet'").fetchall() == [(3, 1, 3e-4)]
    assert pd.read_parquet(tmp_path)["drafts"].count() == 1
    assert ds.dataset(tmp_path, partitioning="hive").to_table().num_rows == 3


def test_appending_twice_writes_nothing_anew(tmp_path: Path) -> None:
    first = append(str(tmp_path), [measurement(seed=0), measurement(seed=1)])
    written = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    reordered = dict(reversed(measurement(seed=1).items()))
    assert append(str(tmp_path), [reordered, measurement(seed=0)]) == first[::-1]
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == written


def test_two_writers_at_once_leave_every_measurement_once(tmp_path: Path) -> None:
    writers = [start(WRITER, tmp_path, 0, 40), start(WRITER, tmp_path, 0, 40), start(WRITER, tmp_path, 20, 60)]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seeds(tmp_path) == list(range(60))
    assert all(path.suffix == ".parquet" for path in files(tmp_path))


@pytest.mark.parametrize(("after", "delay_s"), [(0, 0.0), (1, 0.001), (5, 0.002), (20, 0.004), (60, 0.0005)])
def test_a_killed_writer_leaves_whole_files_and_its_replay_completes_them(tmp_path: Path, after: int, delay_s: float) -> None:
    writer = start(WRITER, tmp_path, 0, 10_000)
    assert writer.stdin and writer.stdout
    writer.stdout.readline()
    writer.stdin.write("go\n")
    writer.stdin.flush()
    for _ in range(after):
        writer.stdout.readline()
    time.sleep(delay_s)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    there = [path for path in files(tmp_path) if path.suffix == ".parquet"]
    assert len(there) >= after
    if there:
        assert seeds(tmp_path) == list(range(len(there)))
    append(str(tmp_path), [measurement(seed=seed) for seed in range(len(there) + 3)])
    assert seeds(tmp_path) == list(range(len(there) + 3))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_writer_killed_before_its_rename_leaves_nothing_that_a_reader_sees(tmp_path: Path, moment: str) -> None:
    append(str(tmp_path), [measurement(seed=1)])
    writer = start(DYING, tmp_path, moment)
    assert writer.wait() == -signal.SIGKILL
    [leftover] = [path for path in files(tmp_path) if path.suffix != ".parquet"]
    assert seeds(tmp_path) == [1]
    append(str(tmp_path), [measurement(seed=0)])
    assert leftover.exists()  # it might be that of a living writer
    assert seeds(tmp_path) == [0, 1]
    os.utime(leftover, (0, time.time() - ABANDONED_AFTER_S - 1))
    append(str(tmp_path), [measurement(seed=2)])
    assert not leftover.exists()
    assert seeds(tmp_path) == [0, 1, 2]


def test_a_file_cut_short_is_written_again(tmp_path: Path) -> None:
    [file] = append(str(tmp_path), [measurement()])
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[:100])
    append(str(tmp_path), [measurement()])
    assert (tmp_path / file).read_bytes() == whole


def seeds_in(server: S3Server) -> list[int]:
    """Return the seeds in the lake in the bucket, in which duckdb and pandas must agree."""
    bucket = fs.S3FileSystem(access_key=KEY, secret_key=SECRET, region="us-east-1", endpoint_override=server.endpoint)
    lake = ds.dataset(f"{BUCKET}/lake", filesystem=bucket, partitioning="hive")
    found = sorted(duckdb.from_arrow(lake).project("seed, target").fetchall())
    assert {target for _, target in found} == {measurement()["target"]}
    assert sorted(pd.read_parquet(f"{BUCKET}/lake", filesystem=bucket)["seed"]) == [seed for seed, _ in found]
    return [seed for seed, _ in found]


def test_a_lake_in_a_bucket_holds_every_measurement_once(s3_server: S3Server) -> None:  # noqa: F811
    url, rows = s3_server.store.url("lake"), [measurement(seed=seed) for seed in (0, 1)]
    appended = append(url, rows)
    first = s3_server.store.read()
    assert sorted(first) == sorted(f"lake/{file}" for file in appended)
    assert append(url, rows) == appended and s3_server.store.read() == first
    s3_server.store.write(f"lake/{appended[0]}", first[f"lake/{appended[0]}"][:100])
    append(url, rows)
    assert s3_server.store.read() == first
    assert seeds_in(s3_server) == [0, 1]


def test_writers_at_once_and_a_killed_one_leave_every_measurement_once_in_a_bucket(s3_server: S3Server) -> None:  # noqa: F811
    url = s3_server.store.url("lake")
    writers = [start(WRITER, url, 0, 8), start(WRITER, url, 4, 12)]
    killed = start(WRITER, url, 100, 10_000)
    for writer in (*writers, killed):
        assert writer.stdin and writer.stdout and writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert killed.stdout and killed.stdout.readline() == "100\n"
    time.sleep(0.005)
    killed.kill()
    killed.wait()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    there = len(s3_server.store.read()) - 12
    assert there >= 1
    append(url, [measurement(seed=seed) for seed in range(100, 100 + there + 2)])
    assert seeds_in(s3_server) == [*range(12), *range(100, 100 + there + 2)]


@pytest.mark.usefixtures("s3_server")
def test_a_bucket_that_refuses_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^publish.lake = s3://elsewhere/lake cannot be written \(NoSuchBucket.*\); fix that"):
        append("s3://elsewhere/lake", [measurement()])
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_EXPERIMENT_SECRET_KEY", "another")
    with pytest.raises(UserError, match=r"^publish.lake = s3://bucket/lake cannot be written \(ClientError.*SignatureDoesNotMatch"):
        append("s3://bucket/lake", [measurement()])


@pytest.mark.parametrize("key", BARE)
def test_a_row_that_cannot_be_found_again_is_refused_by_the_name_of_what_is_missing(tmp_path: Path, key: str) -> None:
    for row in ({name: value for name, value in BARE.items() if name != key}, BARE | {key: None}, BARE | {key: float("nan")}):
        with pytest.raises(UserError, match=rf"^a row for the lake has {key} = .*; give {key}") as refusal:
            append(str(tmp_path), [measurement(), row])
        assert "\n" not in str(refusal.value)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drafts": "many"}, "drafts = 'many' is not of type int64"),
        ({"context": {"workload": {"concurrency": 1.5}}}, r"context\.workload\.concurrency = 1\.5 is not of type int64"),
        ({"context": {"stack": {"torch": float("nan")}}}, r"context\.stack\.torch = nan is not JSON"),
        ({"per_position_acceptance": [0.5, float("inf")]}, r"per_position_acceptance = \[0\.5, inf\] is not JSON"),
        ({"recorded_at": "yesterday"}, "recorded_at = 'yesterday' is not of type timestamp"),
        ({"recorded_at": "2026-01-02T03:04:05"}, "it names no time zone"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        append(str(tmp_path), [measurement(**changes)])
    assert str(refusal.value).startswith("row of verdict v1, arm gb8-lr3e-4: ")


def test_a_lake_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (tmp_path / "file", tmp_path / "file" / "lake"):
        with pytest.raises(UserError, match=rf"^publish.lake = {url} cannot be written \("):
            append(str(url), [measurement()])
    with pytest.raises(UserError, match=r"^publish.lake = 'memory://lake' is neither a local path nor"):
        append("memory://lake", [measurement()])
