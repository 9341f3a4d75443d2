"""Named files in a local folder or an S3 bucket, for streamed states, logs and the perf lake."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lib.errors import UserError, without_credentials
from lib.files import TEMPORARY, whole_file

_BUCKET = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)(?:/([^?#]*))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PREFIX = "SNAKEMAKE_STORAGE_S3_EXPERIMENT_"
_PATIENCE = {"retries": {"mode": "standard", "total_max_attempts": 14}, "connect_timeout": 10, "read_timeout": 30}
"""Retries of one request, so a failed part does not restart a file. They span about a minute without the server."""

logger = logging.getLogger(__name__)


class Storage(Protocol):
    """A place for files. A file appears under its name when it is complete. Methods raise OSError, or exceptions of boto3 for a bucket."""

    def put(self, content: BinaryIO, name: str) -> None:
        """Store a seekable stream as `name`, replacing an existing file."""

    def get(self, name: str, file: Path) -> None:
        """Fetch `name` to a local file whose folder exists."""

    def size(self, name: str) -> int | None:
        """Return the size of `name` in bytes, None when it does not exist."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of all files below `folder`, empty when there are none. No name leads outside the folder."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove existing files."""


def check_url(url: str, key: str) -> Path | None:
    """Return the path of a local folder, None for a bucket, without connecting to anything.

    Raises:
        UserError: `url`, the value of the configuration key `key`, holds credentials, or is neither a local path nor s3://bucket or
            s3://bucket/folder.
    """
    without_credentials(url, key)
    if not _SCHEME.match(url):
        return Path(url).expanduser()
    if not _BUCKET.fullmatch(url):
        raise UserError(f"{key} = {url!r} is neither a local path nor the URL of a bucket; write a path or s3://bucket/folder")
    return None


def open_storage(url: str, key: str) -> Storage:
    """Return the storage at `url` without connecting to anything. Raises UserError as `check_url` does."""
    folder = check_url(url, key)
    return _Folder(folder) if folder else _Bucket(url)


def sift(names: Iterable[str], wanted: Callable[[str], object]) -> list[str]:
    """Return the wanted names, sorted. Names of foreign files are logged once in one line."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(names):
        found[bool(wanted(name))].append(name)
    if left := found[False]:
        _warn(f"ignored in the store: {', '.join(map(ascii, left[:3]))}{f' and {len(left) - 3} more' if len(left) > 3 else ''}")
    return found[True]


def is_plain(name: str) -> bool:
    """Return whether a name is a relative path below its folder in printable characters."""
    return name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


@contextmanager
def or_refused(what: str, cure: str) -> Iterator[None]:
    """Turn any error of a storage into a UserError with the event and the cure."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own
        raise UserError(f"{what} ({type(error).__name__}: {error}); {cure}") from error


@contextmanager
def not_vital(what: str) -> Iterator[None]:
    """Log any error of work without which the job can go on. `what` completes `could not ...`."""
    try:
        yield
    except Exception as error:  # each library has its own
        logger.warning("could not %s (%s: %s); going on", what, type(error).__name__, error)


@cache
def _warn(line: str) -> None:
    logger.warning(line)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, content: BinaryIO, name: str) -> None:
        with whole_file(self._root / name, shared=True) as fresh, fresh.open("xb") as file:
            shutil.copyfileobj(content, file)

    def get(self, name: str, file: Path) -> None:
        shutil.copyfile(self._root / name, file)

    def size(self, name: str) -> int | None:
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    def names(self, folder: str) -> list[str]:
        found = os.walk(self._root / folder, onerror=_unless_missing)
        files = (Path(parent, file) for parent, _, files in found for file in files if not TEMPORARY.fullmatch(file))
        return sift((file.relative_to(self._root).as_posix() for file in files), is_plain)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._root / name).unlink()


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class _Bucket:
    """A folder of a bucket. Endpoint and keys come from the variables of the storage plugin s3-experiment, else from boto3's defaults.

    pyarrow's S3FileSystem is not used because it leaves an empty object for the folder when it removes a file.
    """

    def __init__(self, url: str) -> None:
        found = _BUCKET.fullmatch(url)
        assert found, "check_url has accepted it"
        self._bucket, folder = found[1], (found[2] or "").strip("/")
        self._root = f"{folder}/" if folder else ""

    @cached_property
    def _client(self) -> Any:
        import boto3  # needed by few configurations
        from botocore.config import Config

        settings = {
            "endpoint_url": "ENDPOINT_URL",
            "region_name": "REGION",
            "aws_access_key_id": "ACCESS_KEY",
            "aws_secret_access_key": "SECRET_KEY",
            "aws_session_token": "TOKEN",
        }
        told = {option: os.environ[_PREFIX + name] for option, name in settings.items() if os.environ.get(_PREFIX + name)}
        # Some servers return the checksum of the whole object for a part of it, and pyarrow then refuses to read.
        config = Config(request_checksum_calculation="when_required", **_PATIENCE)
        return boto3.client("s3", config=config, **told)

    def put(self, content: BinaryIO, name: str) -> None:
        from boto3.s3.transfer import TransferConfig

        # Threads of boto3 would delay the end of a process whose server does not answer.
        self._client.upload_fileobj(content, self._bucket, self._root + name, Config=TransferConfig(use_threads=False))

    def get(self, name: str, file: Path) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.download_file(self._bucket, self._root + name, str(file))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
            raise

    def size(self, name: str) -> int | None:
        page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root + name, MaxKeys=1)
        return next((item["Size"] for item in page.get("Contents", []) if item["Key"] == self._root + name), None)

    def names(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._root}{folder}/")
        found = (item["Key"].removeprefix(self._root) for page in pages for item in page.get("Contents", []))
        return sift((name for name in found if not name.endswith("/")), is_plain)  # consoles make such objects for folders

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._client.delete_object(Bucket=self._bucket, Key=self._root + name)
