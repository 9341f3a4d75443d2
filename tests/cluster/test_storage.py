"""The storage plugin against a real S3 server: complete objects, fetched records, and avoided requests."""

import asyncio
import logging
import os
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake_storage_plugin_s3_experiment as storage
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_storage_plugin_s3_experiment import LISTING, WHOLE, StorageProvider, StorageProviderSettings

from tests.s3 import BUCKET, KEY, SECRET, S3Server

pytestmark = pytest.mark.emulated("this looks behind the S3 server")


@pytest.fixture
def bucket(s3_server: S3Server) -> Path:
    """Return the folder of the bucket."""
    return s3_server.root / BUCKET


@pytest.fixture
def provider(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageProvider:
    """Return the storage of an experiment on a machine that has nothing yet."""
    monkeypatch.chdir(tmp_path)
    return connect(s3_server.endpoint)


def connect(endpoint: str, **settings: Any) -> StorageProvider:
    told = {"access_key": KEY, "secret_key": SECRET, "retries": 1} | settings
    return StorageProvider(
        local_prefix=Path(".snakemake/storage"),
        logger=logging.getLogger(),
        wait_for_free_local_storage=None,
        settings=StorageProviderSettings(endpoint_url=endpoint, **told),
    )


def stored(provider: StorageProvider, bucket: Path, path: str) -> Any:
    return provider.object(f"s3://{bucket.name}/team/run1/./{path}")


def test_a_record_comes_along_when_it_is_asked_for_and_a_state_does_not(provider: StorageProvider, bucket: Path) -> None:
    folder = Path("results/a/rung0.state")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    Path("results/a/rung0.acc").write_text("0.5")
    record, state = (stored(provider, bucket, f"results/a/rung0.{kind}") for kind in ("acc", "state"))
    record.store_object()
    state.store_object()
    assert (bucket / "team/run1/results/a/rung0.acc").read_text() == "0.5"
    Path("results/a/rung0.acc").unlink()
    (folder / "model.safetensors").unlink()
    assert record.exists() and state.exists()
    assert Path("results/a/rung0.acc").read_text() == "0.5"
    assert not (folder / "model.safetensors").exists()
    state.retrieve_object()
    assert (folder / "model.safetensors").read_text() == "weights"


def test_of_a_directory_of_records_the_records_come_along_and_the_weights_do_not(provider: StorageProvider, bucket: Path) -> None:
    folder = Path("results/champion")
    folder.mkdir(parents=True)
    for name in ("README.md", "model.safetensors"):
        (folder / name).write_text(name)
    champion = stored(provider, bucket, str(folder))
    champion.store_object()
    shutil.rmtree(folder)
    assert champion.exists()
    assert {path.name for path in folder.iterdir()} == {WHOLE, "README.md"}


def test_a_directory_of_which_a_part_was_uploaded_is_not_there(provider: StorageProvider, bucket: Path) -> None:
    state = stored(provider, bucket, "results/a/rung0.state")
    state.s3obj("model.safetensors").put(Body=b"half of it")
    assert not state.exists()
    with pytest.raises(FileNotFoundError):
        state.retrieve_object()
    state.s3obj(WHOLE).put(Body=b"")
    assert state.exists()


def test_a_place_is_of_the_run_that_claimed_it_first(provider: StorageProvider, bucket: Path) -> None:
    prefix = f"s3://{bucket.name}/team/run1/."
    for _ in range(2):
        provider.claim(prefix, "run run1 of workstream we")
    assert (bucket / "team/run1.owner").read_text() == "run run1 of workstream we"
    refused = (
        "^s3://bucket/team/run1/ belongs to run run1 of workstream we, not to run {} of workstream {}; use another default-storage-prefix, "
    )
    for run_id, workstream in (("run1", "they"), ("run2", "we")):
        with pytest.raises(WorkflowError, match=refused.format(run_id, workstream) + r"or remove s3://bucket/team/run1\.owner if"):
            provider.claim(prefix, f"run {run_id} of workstream {workstream}")
    provider.claim(f"s3://{bucket.name}/team/run10/.", "run run10 of workstream they")
    provider.pull(prefix)
    assert provider.known == {}, "a claim is no record"
    with pytest.raises(WorkflowError, match=r"^bucket nowhere at \S+ does not exist"):
        provider.claim("s3://nowhere/team/run1/.", "run run1 of workstream we")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"prefix": "s3://b/r/.", "known": 1}', "[" * 99999, '{"prefix": "s3://b/r/.", "known": {"a": []}}']
)
def test_a_damaged_listing_is_one_line(text: str, provider: StorageProvider) -> None:
    LISTING.parent.mkdir(exist_ok=True)
    LISTING.write_text(text)
    with pytest.raises(WorkflowError, match=rf"^{LISTING} is damaged; delete it, the next run writes it again$"):
        provider.go_offline("s3://b/r/.")
    LISTING.unlink()
    provider.go_offline("s3://b/r/.")
    assert provider.known == {}


def test_what_is_removed_between_the_listing_and_its_turn_is_not_there(
    provider: StorageProvider, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a view is that another job makes anew."""
    for name in ("plan", "verdict"):
        s3_server.store.write(f"team/run1/results/{name}.json", b"{}")
    client = provider.s3c.meta.client
    fetch = client.download_file

    def remove_first(bucket: str, key: str, local: str) -> None:
        if key.endswith("plan.json"):
            client.delete_object(Bucket=bucket, Key=key)
        fetch(bucket, key, local)

    monkeypatch.setattr(client, "download_file", remove_first)
    provider.pull(f"s3://{BUCKET}/team/run1/.")
    assert provider.known.keys() == {"results/verdict.json"} and [path.name for path in Path("results").iterdir()] == ["verdict.json"]


def test_without_keys_of_its_own_it_asks_where_boto3_always_looks(
    s3_server: S3Server, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    keyless = connect(s3_server.endpoint, access_key=None, secret_key=None)
    keyless.claim(f"s3://{bucket.name}/team/run1/.", "run run1 of workstream we")
    assert (bucket / "team/run1.owner").exists()


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
    away.go_offline(f"s3://{bucket.name}/team/run1/.")
    Path("results/b").mkdir(parents=True)
    Path("results/b/rung0.acc").write_text("0.5")
    state, record, missing = (stored(away, bucket, f"results/{path}") for path in ("a/rung0.state", "b/rung0.acc", "c/rung0.acc"))
    assert state.exists() and record.exists() and not missing.exists()
    assert record.mtime() == Path("results/b/rung0.acc").stat().st_mtime
    assert state.mtime() > 0
    away.go_offline(f"s3://{bucket.name}/team/run2/.")
    assert not away.known, "that was of another run"


def test_the_bucket_stays_when_its_last_object_goes(provider: StorageProvider, bucket: Path) -> None:
    record = stored(provider, bucket, "results/plan.json")
    record.s3obj().put(Body=b"{}")
    assert record.exists()
    record.remove()
    assert not record.exists() and not provider.knows("results/plan.json")
    provider.pull(f"s3://{bucket.name}/team/run1/.")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing": ("nowhere", {}, r"bucket nowhere at \S+ does not exist; create it, or correct --default-storage-prefix"),
    "secret": (BUCKET, {"secret_key": "wrong-secret"}, r"bucket bucket at \S+(: credentials not accepted \(Sig\w+\)| cannot be read)"),
    "key": (BUCKET, {"access_key": "wrong-key"}, r"bucket bucket at \S+(: credentials not accepted \(Inv\w+\)| cannot be read)"),
}


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("case", REFUSED)
def test_a_bucket_that_refuses_is_named_at_once_with_the_cure(s3_server: S3Server, case: str) -> None:
    name, settings, message = REFUSED[case]
    refused = connect(s3_server.endpoint, **settings)
    record = refused.object(f"s3://{name}/team/run1/./results/plan.json")
    Path("results").mkdir()
    Path("results/plan.json").write_text("{}")
    begun = time.monotonic()
    for ask in (lambda: refused.pull(f"s3://{name}/team/run1/."), record.exists, record.mtime, record.store_object):
        with pytest.raises(WorkflowError, match=message) as error:
            ask()
        assert "\n" not in str(error.value) and error.value.__suppress_context__
        assert case == "missing" or "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ACCESS_KEY and _SECRET_KEY" in str(error.value)
    assert time.monotonic() - begun < 3


class _ReadOnly(BaseHTTPRequestHandler):
    """Refuses writes as S3 does; rclone can serve read-only, but answers 500."""

    def do_PUT(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
        self.send_response(403)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.mark.usefixtures("provider")
def test_a_bucket_that_is_read_only_is_named_at_once() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ReadOnly) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        Path("results").mkdir()
        Path("results/plan.json").write_text("{}")
        record = connect(f"http://127.0.0.1:{server.server_address[1]}").object(f"s3://{BUCKET}/run1/./results/plan.json")
        with pytest.raises(
            WorkflowError, match=r"cannot be written \(AccessDenied\); let its user put and delete objects, or correct SNAKEMAKE"
        ):
            record.store_object()
        server.shutdown()


def test_a_server_that_is_away_for_a_while_is_waited_for_with_one_line(
    s3_server: S3Server, provider: StorageProvider, bucket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("results/a/rung0.state").mkdir(parents=True)
    Path("results/a/rung0.state/model.safetensors").write_text("weights")
    Path("results/a/rung0.acc").write_text("0.5")
    record, state = (stored(provider, bucket, f"results/a/rung0.{kind}") for kind in ("acc", "state"))

    def away(ask: Any) -> Any:
        s3_server.stop()
        threading.Timer(1, s3_server.start).start()
        answer = ask()
        assert [line.split(";")[0] for line in caplog.messages] == [
            f"bucket bucket at {s3_server.endpoint} does not answer (EndpointConnectionError)",
            "bucket bucket answers again",
        ]
        caplog.clear()
        return answer

    away(record.store_object)
    away(state.store_object)
    Path("results/a/rung0.acc").unlink()
    shutil.rmtree("results/a/rung0.state")
    assert away(record.exists)
    assert away(record.mtime) > 0
    away(state.retrieve_object)
    assert Path("results/a/rung0.state/model.safetensors").read_text() == "weights"
    away(lambda: provider.pull(f"s3://{bucket.name}/team/run1/."))
    assert provider.knows("results/a/rung0.state")


def test_a_server_that_stays_away_is_given_up_in_one_line(
    s3_server: S3Server, provider: StorageProvider, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 1)
    s3_server.stop()
    with pytest.raises(WorkflowError, match=r"^bucket bucket at \S+ does not answer \(EndpointConnectionError\); given up after 1 s$"):
        stored(provider, bucket, "results/plan.json").exists()
    begun = time.monotonic()
    with pytest.raises(WorkflowError, match="given up after 1 s"):  # what comes after does not wait anew
        stored(provider, bucket, "results/verdict.json").exists()
    assert time.monotonic() - begun < 1
    s3_server.start()
    assert not stored(provider, bucket, "results/plan.json").exists()
    assert provider.away_since is None


def test_a_process_that_dies_leaves_no_half_of_a_directory(provider: StorageProvider, bucket: Path) -> None:
    """It is killed before each of its steps in the file system, one after the other."""
    folder = Path("results/a/head")
    state = stored(provider, bucket, str(folder))

    def write(version: str) -> set[str]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "vocabulary.json"):
            (folder / name).write_text(version)
        return {version}

    write("new")
    state.store_object()
    step = 0
    code = 9
    seen = set()
    while code == 9:
        step += 1
        write("old")
        child = os.fork()
        if child == 0:
            _die_at(step)
            stored(connect(provider.settings.endpoint_url), bucket, str(folder)).retrieve_object()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = [
            (folder / name).read_text() for name in ("config.json", "model.safetensors", "vocabulary.json") if (folder / name).exists()
        ]
        assert found in (["old"] * 3, ["new"] * 3, []), f"step {step}"
        assert found or not folder.exists()
        seen.update(found)
    assert code == 0 and seen == {"old", "new"} and step > 10


def _die_at(step: int) -> None:
    """Kill this process before its n-th change of the file system."""
    left = iter(range(step - 1))

    def hook(event: str, _: Any) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") and next(left, None) is None:
            os._exit(9)

    sys.addaudithook(hook)


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
