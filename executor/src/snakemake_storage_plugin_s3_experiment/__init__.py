"""Snakemake storage in S3 with local copies at the paths of the rules. Every machine has the records of the experiment on disk.

The stock S3 plugin keeps its copies under `.snakemake/storage/` and sends one request per file. Here `results/a/rung0.acc` is the object
`<prefix>/results/a/rung0.acc`, and its local copy is `results/a/rung0.acc` below the working directory. One listing says what exists.
Records are fetched when they are found. States and heads are fetched only by the jobs that read them.

A bucket is data, never code. Only data below results/ and resources/ is copied to this disk.

A query is `s3://bucket/prefix/./path`. As in rsync, `/./` marks where the local path begins. The default storage prefix of an experiment
therefore ends in `/.`, as in `s3://bucket/prefix/.`
"""

import functools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import botocore.exceptions
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_storage_plugins.io import IOCacheStorageInterface, Mtime
from snakemake_interface_storage_plugins.storage_provider import ExampleQuery, QueryType, StorageQueryValidationResult
from snakemake_storage_plugin_s3 import StorageObject as S3Object
from snakemake_storage_plugin_s3 import StorageProvider as S3Provider
from snakemake_storage_plugin_s3 import StorageProviderSettings
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from .refusal import AwayError, judging

__all__ = ["StorageObject", "StorageProvider", "StorageProviderSettings"]

WHOLE = ".snakemake_timestamp"
"""The file that Snakemake leaves in a finished directory. Its object is written last, so a directory that has it is whole."""

LARGE = 1 << 20
"""Size in bytes from which a file does not count as a record."""

LISTING = Path(".snakemake/s3-experiment.json")
"""The last listing of the bucket. A dry run reads it instead of the bucket."""

PLACE = re.compile(r"(results|resources)(/[\w+=@,~%-][\w.+=@,~% -]{0,149})*", re.ASCII)
"""Paths of a run. No part is empty, hidden or `..`."""

DATA = {".acc", ".arrow", ".csv", ".html", ".jinja", ".json", ".jsonl", ".log", ".md", ".parquet", ".safetensors", ".svg", ".txt", ".yaml"}
"""Suffixes of the files that are fetched from a listing. Others are not."""

OWN = {"results/bucket.txt"}
"""Files below results/ that belong to the controller alone. Its lock has none of the suffixes in `DATA`."""

SOURCES = re.compile(r"snakemake-workflow-sources\.[0-9a-f]{64}\.tar\.xz")
"""The archive of the sources. Snakemake unpacks it in a job only if its digest is the one in the Job's command."""

STRANGE, BLOCKED = "no data of a run", "a link, a file or a folder is in the way here"
"""Reasons for not fetching an object."""

BULK = (".state/", "/head/", "resources/", ".safetensors")
"""Parts of the paths of files that are never records, whatever their size."""

PATIENCE = 300
"""Seconds for which requests to a bucket that does not answer are retried."""

_T = TypeVar("_T")


def is_of_run(path: str) -> bool:
    """Return whether a run may have written a path below the prefix."""
    return bool(PLACE.fullmatch(path.removesuffix(f"/{WHOLE}"))) and path.lower() not in OWN  # some file systems ignore case


def is_data(path: str) -> bool:
    """Return whether a listed path is data to fetch."""
    name = path.rpartition("/")[2]
    return is_of_run(path) and (name == WHOLE or Path(name).suffix in DATA)


def is_bulk(path: str) -> bool:
    """Return whether a path holds bulk data, never records."""
    return any(part in path for part in BULK)


def is_missing(error: botocore.exceptions.ClientError) -> bool:
    """Return whether an error says that an object does not exist."""
    return error.response["Error"]["Code"] in ("404", "NoSuchKey")


class StorageProvider(S3Provider):  # type: ignore[misc]
    """One experiment in a bucket.

    Attributes:
        offline: Send no requests; the last listing and the local files answer.
        listed: Whether `known` comes from a listing. Before, each file needs a request.
        known: Modification time, in seconds since the epoch, of every object by its path below the prefix.
        away_since: Time, by `time.monotonic`, since when the bucket has not answered; None while it answers.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.local_prefix = Path.cwd()
        self.offline = False
        self.listed = False
        self.known: dict[str, float] = {}
        self.away_since: float | None = None
        self._there: set[str] = set()
        self._refused: set[str] = set()

    @classmethod
    def example_queries(cls) -> list[ExampleQuery]:
        """Return a query with a default storage prefix."""
        return [ExampleQuery(query="s3://bucket/prefix/./results/plan.json", type=QueryType.ANY, description="A file of an experiment")]

    @classmethod
    def is_valid_query(cls, query: str) -> StorageQueryValidationResult:
        """Return whether a query marks where its local path begins."""
        valid = query.startswith("s3://") and "/./" in query
        return StorageQueryValidationResult(query=query, valid=valid, reason="must read s3://bucket/prefix/./path; the prefix ends in /.")

    def go_offline(self, prefix: str) -> None:
        """Send no requests from now on. Use the last listing, if it is of the same default storage prefix."""
        self.offline = self.listed = True
        try:
            last = json.loads(LISTING.read_text())
            self.known = {str(path): float(when) for path, when in last["known"].items()} if last["prefix"] == prefix else {}
        except FileNotFoundError:
            self.known = {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise WorkflowError(f"{LISTING} is damaged; delete it, the next run writes it again") from None

    def pull(self, prefix: str) -> None:
        """List the bucket, and fetch every record whose local copy is missing or older.

        Args:
            prefix: The default storage prefix.

        Raises:
            WorkflowError: the bucket cannot be read. The message names bucket, reason and cure.
        """
        bucket, _, folder = prefix.removeprefix("s3://").removesuffix(".").partition("/")
        listing = self.ask(bucket, lambda: self.fetch_records(bucket, folder))
        self.known |= listing
        self.listed = True
        LISTING.parent.mkdir(exist_ok=True)
        fresh = LISTING.with_suffix(f".{threading.get_ident()}.new")
        fresh.write_text(json.dumps({"prefix": prefix, "known": listing}))
        fresh.replace(LISTING)

    def claim(self, prefix: str, owner: str) -> None:
        """Write the owner of a run's results beside them, unless it is there. Raises as `require_own` does."""
        if not self.require_own(prefix, owner):
            bucket, key = self._mark(prefix)
            self.ask(bucket, lambda: self.s3c.Object(bucket, key).put(Body=owner.encode()))

    def require_own(self, prefix: str, owner: str) -> bool:
        """Return whether `owner` has claimed the place of a run's results.

        Args:
            prefix: The default storage prefix.
            owner: Run and workstream, in words.

        Raises:
            WorkflowError: the place belongs to another run or workstream, or the bucket refuses.
        """
        bucket, key = self._mark(prefix)
        try:
            claimed = self.ask(bucket, lambda: self._read(bucket, key))
        except FileNotFoundError:
            return False
        if claimed != owner:
            raise WorkflowError(
                f"{prefix.removesuffix('.')} belongs to {claimed}, not to {owner}; use another default-storage-prefix, "
                f"or remove s3://{bucket}/{key} if {owner} may take it over"
            )
        return True

    @staticmethod
    def _mark(prefix: str) -> tuple[str, str]:
        """Return bucket and key of the object that names the owner of a place."""
        bucket, _, folder = prefix.removeprefix("s3://").removesuffix("/.").partition("/")
        return bucket, f"{folder}.owner"

    def _read(self, bucket: str, key: str) -> str:
        """Return a small object as text; raise FileNotFoundError if the bucket exists and the object does not."""
        try:
            return str(self.s3c.Object(bucket, key).get()["Body"].read().decode(errors="replace"))
        except botocore.exceptions.ClientError as error:
            if not is_missing(error):
                raise
        self.require(bucket)
        raise FileNotFoundError(f"s3://{bucket}/{key}")

    def fetch_records(self, bucket: str, folder: str, below: str = "") -> dict[str, float]:
        """Fetch every record below a path whose local copy is missing or older. Return the modification times of all objects, by path."""
        listing = {}
        refused: dict[str, list[str]] = {STRANGE: [], BLOCKED: []}
        pages = self.s3c.meta.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}{below}")
        for found in (found for page in pages for found in page.get("Contents", [])):
            path = found["Key"].removeprefix(folder)
            if is_of_run(path):
                listing[path] = found["LastModified"].timestamp()
                record = found["Size"] < LARGE and is_data(path) and not is_bulk(path)
                try:
                    if record and not self.fetch(bucket, found["Key"], path, listing[path]):
                        refused[BLOCKED].append(path)
                except botocore.exceptions.ClientError as error:
                    if not is_missing(error):
                        raise
                    del listing[path]  # a job has removed it meanwhile and will write it again
            elif not (found["Key"].endswith("/") or SOURCES.fullmatch(path)):  # consoles create such objects for folders
                refused[STRANGE].append(path)
        for why, paths in refused.items():
            self.refuse(bucket, paths, why)
        return listing

    def refuse(self, bucket: str, paths: Iterable[str], why: str) -> None:
        """Log once, in one line, that objects are not fetched. At most three are named."""
        new = [path for path in dict.fromkeys(paths) if path not in self._refused]
        self._refused.update(new)
        if new:
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            self.logger.warning(f"bucket {bucket}: not taken from there, {why}: {', '.join(map(ascii, new[:3]))}{more}")

    def ask(self, bucket: str, question: Callable[[], _T]) -> _T:
        """Return the answer to a repeatable request. Retry it, with one line, while the bucket does not answer.

        Raises:
            WorkflowError: the bucket refuses (at once), or has not answered for `PATIENCE` seconds.
        """

        def is_given_up(state: RetryCallState) -> bool:
            if self.away_since is None:
                self.away_since = time.monotonic()
                self.logger.warning(f"{state.outcome and state.outcome.exception()}; will retry for up to {PATIENCE} s")
            return time.monotonic() - self.away_since > PATIENCE

        pauses = wait_exponential(0.5, max=10)
        try:
            for attempt in Retrying(retry=retry_if_exception_type(AwayError), stop=is_given_up, wait=pauses, reraise=True):
                with attempt, judging(bucket, self.settings.endpoint_url):
                    answer = question()
        except AwayError as error:
            raise WorkflowError(f"{error}; given up after {PATIENCE} s") from None
        if self.away_since is not None:
            self.away_since = None
            self.logger.warning(f"bucket {bucket} answers again")
        return answer

    def follow(self, prefix: str, seconds: float) -> None:
        """Pull repeatedly in a thread for as long as this process lives. The bucket may be unreachable at times."""

        def pull() -> None:
            while True:
                time.sleep(seconds)
                try:
                    self.pull(prefix)
                except Exception as error:  # the next attempt may succeed, whatever the error
                    self.logger.warning(f"{error or type(error).__name__} (will be retried in {seconds:g} s)")

        threading.Thread(target=pull, name="follow-bucket", daemon=True).start()

    def fetch(self, bucket: str, key: str, path: str, modified: float) -> bool:
        """Copy an object to its local path unless the local file is as new.

        The local file is replaced atomically and gets the modification time of the object. Return False and write nothing if something else
        is at the local path. Several threads may use this client at once, unlike `s3c`.
        """
        local = self.local_prefix / path
        if local.exists() and local.stat().st_mtime >= modified:
            return True
        if not self.is_free(local):
            return False
        fresh = local.with_name(f".{local.name}.{os.getpid()}-{threading.get_ident()}")
        local.parent.mkdir(parents=True, exist_ok=True)
        self.s3c.meta.client.download_file(bucket, key, str(fresh))
        os.utime(fresh, (modified, modified))
        fresh.replace(local)
        return True

    def is_free(self, local: Path) -> bool:
        """Return whether a file can be written at a path below the local prefix without following or replacing a link or a directory."""
        above = [self.local_prefix / parent for parent in local.relative_to(self.local_prefix).parents][:-1]
        blocked = any(parent.is_symlink() or (parent.exists() and not parent.is_dir()) for parent in above)
        return not (blocked or local.is_symlink() or local.is_dir())

    def require(self, bucket: str) -> None:
        """Raise ClientError if the bucket is missing. S3 gives the same answer for a missing object as for a missing bucket."""
        if bucket not in self._there:
            self.s3c.meta.client.head_bucket(Bucket=bucket)
            self._there.add(bucket)

    def knows(self, path: str) -> bool:
        """Return whether a file or a whole directory was in the last listing."""
        return self.modified(path) is not None or (self.offline and (self.local_prefix / path).exists())

    def modified(self, path: str) -> float | None:
        """Return the modification time of a file or a whole directory, in seconds since the epoch; None if it was not there."""
        return self.known.get(path, self.known.get(f"{path}/{WHOLE}"))


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _patient(method: _Method) -> _Method:
    """Let a method of a storage object retry while its bucket is unreachable, and fail in one line if the bucket refuses."""

    @functools.wraps(method)
    def ask(self: "StorageObject") -> Any:
        return self.provider.ask(self.bucket, lambda: method(self))

    return ask  # type: ignore[return-value]


class StorageObject(S3Object):  # type: ignore[misc]
    """A file, or a directory that was uploaded whole."""

    def __post_init__(self) -> None:
        place, _, self.path = self.query.partition("/./")
        self.bucket, _, folder = place.removeprefix("s3://").partition("/")
        self.key = f"{folder}/{self.path}" if folder else self.path
        self._local_suffix = self.path
        self._is_dir = None

    def get_inventory_parent(self) -> str | None:
        """Return None, because one listing covers everything."""
        return None

    async def inventory(self, cache: IOCacheStorageInterface) -> None:
        """Answer from the last listing, if there has been one."""
        if not self.provider.listed:
            return
        modified = self.provider.modified(self.path)
        cache.exists_in_storage[self.cache_key()] = self.provider.knows(self.path)
        if modified is not None:
            cache.mtime[self.cache_key()] = Mtime(storage=modified)

    def exists(self) -> bool:
        """Return whether the file or the whole directory exists. Afterwards its records are on disk."""
        if self.provider.offline:
            return bool(self.provider.knows(self.path))
        return bool(self._ask_existence())

    @_patient
    def _ask_existence(self) -> bool:
        found = self._found()
        if found is not None and found.key != self.key and not is_bulk(f"{self.path}/"):
            self.provider.fetch_records(self.bucket, self.key.removesuffix(self.path), f"{self.path}/")
        elif found is not None and found.key == self.key and found.content_length < LARGE:
            self._fetch(found)
        return found is not None

    def mtime(self) -> float:
        """Return the modification time of the file or the whole directory, in seconds since the epoch."""
        if self.provider.offline:
            listed = self.provider.modified(self.path)
            return float(listed if listed is not None else self.local_path().stat().st_mtime)
        return float(self._ask_mtime())

    @_patient
    def _ask_mtime(self) -> float:
        found = self._found()
        if found is None:
            raise FileNotFoundError(self.query)
        return float(found.last_modified.timestamp())

    def size(self) -> int:
        """Return the size in bytes; 0 when offline."""
        return 0 if self.provider.offline else int(self.provider.ask(self.bucket, super().size))

    @_patient
    def retrieve_object(self) -> None:
        """Fetch the file or directory to its local path, and rename it into place when it is complete."""
        found = self._found()
        if found is None:
            raise FileNotFoundError(self.query)
        if found.key == self.key:
            self._fetch(found)
            return
        local = self.local_path()
        fresh, old = (local.with_name(f".{local.name}.{os.getpid()}{end}") for end in ("", ".old"))
        for rest in (fresh, old):  # of a dead process with the same PID; in pods all PIDs are alike
            shutil.rmtree(rest, ignore_errors=True)
        refused = []
        for item in self.get_subkeys():
            name = item.key.removeprefix(f"{self.key}/")
            target = fresh / name
            if not (is_data(f"{self.path}/{name}") and self.provider.is_free(target)):
                refused.append(f"{self.path}/{name}")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            item.Object().download_file(str(target))
        self.provider.refuse(self.bucket, refused, STRANGE)
        if local.exists():
            local.replace(old)
        fresh.replace(local)
        shutil.rmtree(old, ignore_errors=True)

    @_patient
    def store_object(self) -> None:
        """Upload the local file, or the files of the local directory and then the mark that the directory is whole."""
        local = self.local_path()
        if local.is_dir():
            for item in sorted(local.rglob("*")):
                if item.is_file() and item.name != WHOLE:
                    self.s3obj(item.relative_to(local).as_posix()).upload_file(str(item))
            self.s3obj(WHOLE).put(Body=b"")
        else:
            self.s3obj().upload_file(str(local))

    @_patient
    def remove(self) -> None:
        """Delete the file, or the mark of the directory and then its files. The bucket itself stays."""
        self.s3obj(WHOLE).delete()
        for item in self.get_subkeys():
            item.delete()
        self.s3obj().delete()
        self.provider.known = {path: when for path, when in self.provider.known.items() if not f"{path}/".startswith(f"{self.path}/")}

    def list_candidate_matches(self) -> Iterator[str]:
        """Refuse, because no rule here finds files by pattern."""
        raise WorkflowError("s3-experiment cannot list files by pattern; name them")

    def _fetch(self, found: Any) -> None:
        if not self.provider.fetch(self.bucket, self.key, self.path, found.last_modified.timestamp()):
            self.provider.refuse(self.bucket, [self.path], BLOCKED)

    def _found(self) -> Any:
        """Return the object that marks the file or directory as present; None if there is none or it must not be fetched."""
        if not (is_of_run(self.path) or SOURCES.fullmatch(self.path)):
            self.provider.refuse(self.bucket, [self.path], STRANGE)
            return None
        for subkey in ("", WHOLE):
            found = self.s3obj(subkey)
            try:
                found.load()
            except botocore.exceptions.ClientError as error:
                if not is_missing(error):
                    raise
            else:
                self.provider.known[f"{self.path}/{subkey}".rstrip("/")] = found.last_modified.timestamp()
                return found
        self.provider.require(self.bucket)
        return None
