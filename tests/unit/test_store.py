"""Files by name: in a local folder, in whatever fsspec knows, and in S3 from a real server."""

from pathlib import Path

import pytest
from lib.errors import UserError
from lib.store import check_store, open_store

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


@pytest.mark.parametrize("url", ["s3:///states", "nowhere://bucket"])
def test_a_url_that_nothing_opens_is_refused_by_its_key(url: str) -> None:
    with pytest.raises(UserError, match=rf"^streaming\.url = '{url}'"):
        check_store(url, "streaming.url")


@pytest.mark.parametrize("url", ["states", "s3://bucket", "s3://bucket/states", "file:///states"])
def test_other_urls_are_not_connected_to(url: str) -> None:
    check_store(url, "streaming.url")
