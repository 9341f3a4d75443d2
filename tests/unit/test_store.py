"""Files by name: in a local folder, in whatever fsspec knows, and in S3 from a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lib.errors import UserError, redacted
from lib.publish.lake import check_lake
from lib.store import check_store, is_plain, open_store, sift

from tests.s3 import S3Server, s3_server  # noqa: F401 - a fixture


def exercise(url: str, folder: Path) -> None:
    store = open_store(url)
    assert store.names("arm") == []
    for name, content in (("arm/b/2", "two"), ("arm/a", "one"), ("armour", "other")):
        (folder / "sent").write_text(content)
        store.put(folder / "sent", name)
    (folder / "sent").write_text("new")
    store.put(folder / "sent", "arm/a")
    assert store.names("arm") == ["arm/a", "arm/b/2"]
    store.get("arm/a", folder / "got")
    assert (folder / "got").read_text() == "new"
    store.remove(["arm/a"])
    assert open_store(url).names("arm") == ["arm/b/2"]
    with pytest.raises(Exception, match=r".+"):
        store.get("arm/a", folder / "got")


@pytest.mark.parametrize("url", ["{}/store", "file://{}/store", "memory://store"])
def test_files_come_back_from_where_fsspec_puts_them(url: str, tmp_path: Path) -> None:
    exercise(url.format(tmp_path), tmp_path)


def test_files_come_back_from_s3(s3_server: S3Server, tmp_path: Path) -> None:  # noqa: F811
    exercise(s3_server.store.url("store"), tmp_path)


@pytest.mark.parametrize(
    "name", ["arm/../up", "../up", "arm//empty", "/absolute", "arm/./here", "arm/line\nend", "arm/\x1b[2J", "arm/\u202eback"]
)
def test_a_name_that_leads_elsewhere_is_not_plain(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert sift([name, "arm/b", "arm/a"], is_plain) == ["arm/a", "arm/b"]
    assert caplog.messages == [f"not taken from the store: {name!a}"]


def test_names_that_somebody_has_planted_are_not_listed(s3_server: S3Server, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "store/arm").mkdir(parents=True)
    for name in ("a", "line\nend"):
        (tmp_path / "store/arm" / name).write_text(name)
        s3_server.store.write(f"store/arm/{name}", b"")
    for url in (str(tmp_path / "store"), s3_server.store.url("store")):
        assert open_store(url).names("arm") == ["arm/a"]


@pytest.mark.parametrize("url", ["s3:///states", "nowhere://bucket"])
def test_a_url_that_nothing_opens_is_refused_by_its_key(url: str) -> None:
    with pytest.raises(UserError, match=rf"^streaming\.url = '{url}'"):
        check_store(url, "streaming.url")


@pytest.mark.parametrize("check", [lambda url: check_store(url, "publish.lake"), check_lake])
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
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str, check: Callable[[str], None]) -> None:
    with pytest.raises(UserError, match=r"^publish\.lake holds a password or a key in its URL.* set SNAKEMAKE_STORAGE_S3_") as refusal:
        check(url)
    assert "hush" not in str(refusal.value)


def test_no_error_repeats_the_password_of_a_url() -> None:
    said = str(UserError("cannot connect to 'https://me:hush@proxy:3128/' for (https://bucket/x?X-Amz-Signature=hush)"))
    assert redacted("abfs://container@account/folder") == "abfs://container@account/folder", "no secret"
    assert said == "cannot connect to 'https://***@proxy:3128/' for (https://bucket/x?X-Amz-Signature=***)"


@pytest.mark.parametrize(
    "url",
    ["states", "s3://bucket", "s3://bucket/states", "file:///states", "s3://bucket/a@b?versionId=3"],
)
def test_other_urls_are_not_connected_to(url: str) -> None:
    check_store(url, "streaming.url")
