"""Named files in a local folder and in a real S3 server."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lib import files, storage
from lib.errors import UserError, redacted
from lib.storage import Storage, check_url, is_plain, open_storage, sift

from tests.s3 import S3Server, Store, s3_server  # noqa: F401 - a fixture


@pytest.fixture(params=["folder", "relative", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("s3_server")
        return server.store.url("side")
    return str(tmp_path / "store") if request.param == "folder" else "a/store"


def put(store: Storage, name: str, content: bytes) -> None:
    store.put(io.BytesIO(content), name)


def test_files_come_back_whole_by_their_names(url: str, tmp_path: Path) -> None:
    store = open_storage(url, "key")
    assert store.names("arm") == [] and store.size("arm/a") is None
    for name, content in (("arm/b/2", b"two"), ("arm/a", b"one"), ("arm/ab", b"longer"), ("armour", b"other"), ("arm/a", b"new!")):
        put(store, name, content)
    assert store.names("arm") == ["arm/a", "arm/ab", "arm/b/2"]
    assert store.size("arm/a") == 4 and store.size("arm") is None
    store.get("arm/a", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"new!"
    store.remove(["arm/a"])
    assert open_storage(url, "key").names("arm") == ["arm/ab", "arm/b/2"]
    with pytest.raises(FileNotFoundError, match="arm/a"):
        store.get("arm/a", tmp_path / "got")


def test_a_file_of_several_parts_comes_back(url: str, tmp_path: Path) -> None:
    content = os.urandom(20 * 2**20)
    (tmp_path / "sent").write_bytes(content)
    store = open_storage(url, "key")
    with (tmp_path / "sent").open("rb") as sent:
        store.put(sent, "arm/big")
    store.get("arm/big", tmp_path / "got")
    assert store.size("arm/big") == len(content) and (tmp_path / "got").read_bytes() == content


def test_a_bucket_holds_what_was_put_there_and_no_objects_for_folders(s3_server: S3Server) -> None:  # noqa: F811
    store = open_storage(s3_server.store.url("side"), "key")
    for name in ("arm/1/head/model", "arm/1/manifest", "arm/2"):
        put(store, name, b"x")
    store.remove(["arm/1/head/model", "arm/1/manifest"])
    assert list(s3_server.store.read()) == ["side/arm/2"]


@pytest.mark.parametrize(
    "name", ["arm/../up", "../up", "arm//empty", "/absolute", "arm/./here", "arm/line\nend", "arm/\x1b[2J", "arm/\u202eback"]
)
def test_a_name_that_leads_elsewhere_is_not_plain(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert sift([name, "arm/b", "arm/a"], is_plain) == ["arm/a", "arm/b"]
    assert caplog.messages == [f"ignored in the store: {name!a}"]


def test_names_that_somebody_has_planted_are_not_listed(s3_server: S3Server, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "store/arm").mkdir(parents=True)
    for name in ("a", "\u202eback"):  # a line end rclone writes as another character
        (tmp_path / "store/arm" / name).write_text(name)
        s3_server.store.write(f"store/arm/{name}", b"")
    for url in (str(tmp_path / "store"), s3_server.store.url("store")):
        assert open_storage(url, "key").names("arm") == ["arm/a"]


def test_what_a_killed_writer_has_begun_in_a_folder_is_no_file_and_goes_when_it_is_old(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path), "key")
    put(store, "arm/a", b"one")
    leftover = tmp_path / "arm/.b.0123abcd.tmp"
    leftover.write_text("half")
    put(store, "arm/c", b"three")
    assert leftover.exists() and store.names("arm") == ["arm/a", "arm/c"]
    os.utime(leftover, (0, time.time() - files.ABANDONED_AFTER_S - 1))
    put(store, "arm/c", b"three")
    assert not leftover.exists()


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        open_storage(str(tmp_path / "file/store"), "key").names("arm")


@pytest.mark.parametrize(
    "url",
    [
        "memory://x",
        "http://host/x",
        "gs://bucket/x",
        "s3a://bucket",
        "file:///x",
        "nowhere://bucket",
        "S3://bucket",
        "s3:bucket",
        "s3:/bucket",
        "s3://",
        "s3:///x",
        "s3://bucket/x?region=eu",
        "s3://_bucket",
    ],
)
@pytest.mark.parametrize("act", [check_url, open_storage])
def test_what_is_no_path_and_no_bucket_is_refused_in_one_line(url: str, act) -> None:
    with pytest.raises(UserError) as refusal:
        act(url, "streaming.url")
    assert str(refusal.value) == (
        f"streaming.url = {url!r} is neither a local path nor the URL of a bucket; write a path or s3://bucket/folder"
    )


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hush@bucket/folder",
        "s3://AKIA:hush/4711+x@bucket/folder",
        "https://me:hush@host/folder",
        "https://hush@host/folder",
        "simplecache::https://me:hush@host/folder",
        "s3://bucket/folder?AWSAccessKeyId=hush",
        "https://host/folder?sv=2026&sig=hush",
    ],
)
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UserError, match=r"^publish\.lake holds a password or a key in its URL.* set SNAKEMAKE_STORAGE_S3_") as refusal:
        check_url(url, "publish.lake")
    assert "hush" not in str(refusal.value)


def test_no_error_repeats_the_password_of_a_url() -> None:
    said = str(UserError("cannot connect to 'https://me:hush@proxy:3128/' for (https://bucket/x?X-Amz-Signature=hush)"))
    assert redacted("abfs://container@account/folder") == "abfs://container@account/folder", "no secret"
    assert said == "cannot connect to 'https://***@proxy:3128/' for (https://bucket/x?X-Amz-Signature=***)"


def test_paths_and_buckets_pass_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    paths = {"states": "states", "./a:b": "a:b", "/a b/c": "/a b/c", "~/lake": "/home/somebody/lake"}
    assert {url: str(check_url(url, "key")) for url in paths} == paths
    assert [check_url(url, "key") for url in ("s3://bucket", "s3://bucket/", "s3://my.bucket-1/a@b/c=d%2Fe")] == [None] * 3


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Accept connections and answer none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, value in Store(f"http://127.0.0.1:{server.getsockname()[1]}", "key", "secret").environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/x"


def test_a_server_that_never_answers_is_given_up(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PATIENCE", {"retries": {"mode": "standard", "total_max_attempts": 2}, "read_timeout": 0.2})
    store, began = open_storage(silent_server, "key"), time.monotonic()
    with pytest.raises(Exception, match="Read timeout"):
        store.names("arm")
    with pytest.raises(Exception, match="Read timeout"):
        put(store, "arm/a", b"x")
    assert time.monotonic() - began < 10


UPLOADER = """
import io, sys, threading, time
from lib.storage import open_storage
store = open_storage(sys.argv[1], "key")
threading.Thread(target=lambda: store.put(io.BytesIO(bytes(20 << 20)), "a"), daemon=True).start()
time.sleep(1)
"""


def test_a_process_ends_while_a_thread_of_it_waits_for_a_server_that_never_answers(silent_server: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", UPLOADER, silent_server], env=environment, timeout=30, check=False).returncode == 0
    assert time.monotonic() - began < 10
