"""Files kept by name in a local folder or in an object store, one transfer at a time.

`s3://` goes through boto3, which Snakemake's own S3 storage brings; every other URL through fsspec.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import fsspec

from lib.errors import UserError, without_credentials

_PREFIX = "SNAKEMAKE_STORAGE_S3_EXPERIMENT_"
_ATTEMPTS = 10  # with boto3's growing pauses these outlast a minute without the server

logger = logging.getLogger(__name__)


class Store(Protocol):
    """Where files go. Every method raises the library's own exceptions when the store cannot be reached or refuses."""

    def put(self, file: Path, name: str) -> None:
        """Store a local file as `name`, over what was there."""

    def get(self, name: str, file: Path) -> None:
        """Fetch `name` to a local file whose folder exists."""

    def names(self, folder: str) -> list[str]:
        """Return the names of everything below `folder`, sorted; empty when there is nothing. None of them leads elsewhere."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that are there."""


def check_store(url: str, key: str) -> None:
    """Refuse a URL with credentials, or that no library here can open, and connect to nothing. The UserError names it by `key`."""
    without_credentials(url, key)
    if fsspec.utils.get_protocol(url) == "s3":
        if not url.removeprefix("s3://").split("/")[0]:
            raise UserError(f"{key} = {url!r} names no bucket; write s3://bucket/folder")
        return
    try:
        fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
    except (ImportError, ValueError) as error:
        raise UserError(f"{key} = {url!r}: {error}; name a local folder or a URL such as s3://bucket/folder") from None


def open_store(url: str) -> Store:
    """Return the store at `url`, a local folder or the URL of a folder, without connecting to anything."""
    if fsspec.utils.get_protocol(url) == "s3":
        return _S3(url)
    return _Fsspec(url)


def sift(names: Iterable[str], wanted: Callable[[str], object]) -> list[str]:
    """Return the names that are wanted, sorted. The others, which somebody has put into a store, are named once, in one line."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(names):
        found[bool(wanted(name))].append(name)
    if left := found[False]:
        _warn(f"not taken from the store: {', '.join(map(ascii, left[:3]))}{f' and {len(left) - 3} more' if len(left) > 3 else ''}")
    return found[True]


def is_plain(name: str) -> bool:
    """Return whether a name is one relative path that leads nowhere but below its folder, in characters that print."""
    return name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


@functools.cache
def _warn(line: str) -> None:
    logger.warning(line)


class _Fsspec:
    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._root = self._root.rstrip("/")

    def put(self, file: Path, name: str) -> None:
        self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(file), f"{self._root}/{name}")

    def get(self, name: str, file: Path) -> None:
        self._files.get_file(f"{self._root}/{name}", str(file))

    def names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        found = self._files.find(f"{self._root}/{folder}")
        return sift((path.removeprefix(f"{self._root}/") for path in found), is_plain)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._files.rm_file(f"{self._root}/{name}")


class _S3:
    """A folder of a bucket. Endpoint and keys come from the same environment variables as those of the storage plugin s3-experiment."""

    def __init__(self, url: str) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config

        # One thread, ours: those of boto3 would hold up the end of a process whose store does not answer.
        self._transfer = TransferConfig(use_threads=False)
        self._bucket, _, folder = url.removeprefix("s3://").partition("/")
        self._root = f"{folder.strip('/')}/" if folder.strip("/") else ""
        settings = {
            "endpoint_url": "ENDPOINT_URL",
            "region_name": "REGION",
            "aws_access_key_id": "ACCESS_KEY",
            "aws_secret_access_key": "SECRET_KEY",
            "aws_session_token": "TOKEN",
        }
        told = {option: os.environ[_PREFIX + name] for option, name in settings.items() if os.environ.get(_PREFIX + name)}
        patience = Config(retries={"mode": "standard", "total_max_attempts": _ATTEMPTS}, connect_timeout=10, read_timeout=60)
        self._client: Any = boto3.client("s3", config=patience, **told)

    def put(self, file: Path, name: str) -> None:
        self._client.upload_file(str(file), self._bucket, self._root + name, Config=self._transfer)

    def get(self, name: str, file: Path) -> None:
        self._client.download_file(self._bucket, self._root + name, str(file))

    def names(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._root}{folder}/")
        found = (item["Key"].removeprefix(self._root) for page in pages for item in page.get("Contents", []))
        return sift((name for name in found if not name.endswith("/")), is_plain)  # consoles show folders by objects that end so

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._client.delete_object(Bucket=self._bucket, Key=self._root + name)
