"""The storage plugin against a real S3 server: what is whole, what comes along, what is never asked."""

import asyncio
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_storage_plugin_s3_experiment import LISTING, WHOLE, StorageProvider, StorageProviderSettings

from tests.cluster.conftest import KEY


@pytest.fixture
def bucket(s3: tuple[str, Path]) -> Path:
    """Return the folder of a bucket of its own."""
    folder = s3[1] / f"storage-{time.monotonic_ns()}"
    connect(s3[0]).s3c.create_bucket(Bucket=folder.name)
    return folder


@pytest.fixture
def provider(s3: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageProvider:
    """Return the storage of an experiment on a machine that has nothing yet."""
    monkeypatch.chdir(tmp_path)
    return connect(s3[0])


def connect(address: str) -> StorageProvider:
    return StorageProvider(
        local_prefix=Path(".snakemake/storage"),
        logger=logging.getLogger(),
        wait_for_free_local_storage=None,
        settings=StorageProviderSettings(endpoint_url=address, access_key=KEY[0], secret_key=KEY[1], retries=1),
    )


def stored(provider: StorageProvider, bucket: Path, path: str) -> Any:
    return provider.object(f"s3://{bucket.name}/team/run1/./{path}")


def test_a_record_comes_along_when_it_is_asked_for_and_a_state_does_not(provider: StorageProvider, bucket: Path) -> None:
    folder = Path("results/a/rung0.state")
    folder.mkdir(parents=True)
    (folder / "model.bin").write_text("weights")
    Path("results/a/rung0.acc").write_text("0.5")
    record, state = (stored(provider, bucket, f"results/a/rung0.{kind}") for kind in ("acc", "state"))
    record.store_object()
    state.store_object()
    assert (bucket / "team/run1/results/a/rung0.acc").read_text() == "0.5"
    Path("results/a/rung0.acc").unlink()
    (folder / "model.bin").unlink()
    assert record.exists() and state.exists()
    assert Path("results/a/rung0.acc").read_text() == "0.5"
    assert not (folder / "model.bin").exists()
    state.retrieve_object()
    assert (folder / "model.bin").read_text() == "weights"


def test_a_directory_of_which_a_part_was_uploaded_is_not_there(provider: StorageProvider, bucket: Path) -> None:
    state = stored(provider, bucket, "results/a/rung0.state")
    state.s3obj("model.bin").put(Body=b"half of it")
    assert not state.exists()
    with pytest.raises(FileNotFoundError):
        state.retrieve_object()
    state.s3obj(WHOLE).put(Body=b"")
    assert state.exists()


def test_a_new_machine_learns_what_is_there_and_fetches_the_records(provider: StorageProvider, bucket: Path) -> None:
    for path in ("results/search/s1/rung0.json", "results/logs/plan.log", "results/a/head/config.json", "resources/target/config.json"):
        stored(provider, bucket, path).s3obj().put(Body=path.encode())
    stored(provider, bucket, f"results/a/head/{WHOLE}").s3obj().put(Body=b"")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    assert {str(path) for path in Path("results").rglob("*.*")} == {"results/search/s1/rung0.json", "results/logs/plan.log"}
    assert provider.knows("results/a/head") and provider.knows("results/logs/plan.log")
    assert not provider.knows("results/a") and not Path("resources").exists()


def test_another_experiment_in_the_bucket_is_not_seen(provider: StorageProvider, bucket: Path) -> None:
    provider.object(f"s3://{bucket.name}/team/run10/./results/plan.json").s3obj().put(Body=b"{}")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    assert provider.known == {}


def test_what_is_newer_in_the_bucket_replaces_the_local_copy_and_what_is_as_new_stays(provider: StorageProvider, bucket: Path) -> None:
    log = stored(provider, bucket, "results/logs/a.log")
    log.s3obj().put(Body=b"first")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    local = Path("results/logs/a.log")
    asked = local.stat().st_mtime_ns, local.stat().st_ino
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    assert (local.stat().st_mtime_ns, local.stat().st_ino) == asked
    time.sleep(1.1)  # S3 counts in seconds
    log.s3obj().put(Body=b"second")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    assert local.read_text() == "second"


def test_offline_nothing_is_asked(provider: StorageProvider, bucket: Path) -> None:
    stored(provider, bucket, f"results/a/rung0.state/{WHOLE}").s3obj().put(Body=b"")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    assert LISTING.exists()
    away = connect("http://127.0.0.1:9")
    away.go_offline()
    Path("results/b").mkdir(parents=True)
    Path("results/b/rung0.acc").write_text("0.5")
    state, record, missing = (stored(away, bucket, f"results/{path}") for path in ("a/rung0.state", "b/rung0.acc", "c/rung0.acc"))
    assert state.exists() and record.exists() and not missing.exists()
    assert record.mtime() == Path("results/b/rung0.acc").stat().st_mtime
    assert state.mtime() > 0


def test_the_bucket_stays_when_its_last_object_goes(provider: StorageProvider, bucket: Path) -> None:
    record = stored(provider, bucket, "results/plan.json")
    record.s3obj().put(Body=b"{}")
    assert record.exists()
    record.remove()
    assert not record.exists() and not provider.knows("results/plan.json")
    provider.pull(f"s3://{bucket.name}/team/run1/.")


def test_a_bucket_that_cannot_be_read_is_named(provider: StorageProvider) -> None:
    with pytest.raises(WorkflowError, match=r"bucket nowhere cannot be read: .*check its name, the endpoint and the credentials"):
        provider.pull("s3://nowhere/run1/.")


def test_a_prefix_that_does_not_say_where_paths_begin_is_refused() -> None:
    assert not StorageProvider.is_valid_query("s3://bucket/run1/results/plan.json")
    assert "must read s3://bucket/prefix/./path" in str(StorageProvider.is_valid_query("s3://bucket/run1/x"))


def test_the_dag_is_answered_by_one_listing(provider: StorageProvider, bucket: Path) -> None:
    cache = SimpleNamespace(exists_in_storage={}, mtime={})
    stored(provider, bucket, "results/plan.json").s3obj().put(Body=b"{}")
    provider.pull(f"s3://{bucket.name}/team/run1/.")
    for path in ("results/plan.json", "results/verdict.json"):
        asyncio.run(stored(provider, bucket, path).inventory(cache))
    assert {Path(path).name: there for path, there in cache.exists_in_storage.items()} == {"plan.json": True, "verdict.json": False}
    assert [Path(path).name for path in cache.mtime] == ["plan.json"]
