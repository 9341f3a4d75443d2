"""Snakemake storage in S3 with local copies where the rules name them: the records of an experiment are at hand on every machine.

The stock S3 plugin keeps its copies under `.snakemake/storage/` and asks the bucket for every file by itself. Here `results/a/rung0.acc`
is the object `<prefix>/results/a/rung0.acc`, and its local copy is `results/a/rung0.acc` below the working directory. One listing answers
what is there. Whoever learns that a record is there has it on disk; states and heads are fetched by the jobs that read them, by no other.

A query is `s3://bucket/prefix/./path`. As in rsync, `/./` marks where the local path begins, so the default storage prefix of an experiment
ends in `/.`: `s3://bucket/prefix/.`
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_storage_plugins.io import IOCacheStorageInterface, Mtime
from snakemake_interface_storage_plugins.storage_provider import ExampleQuery, QueryType, StorageQueryValidationResult
from snakemake_storage_plugin_s3 import StorageObject as S3Object
from snakemake_storage_plugin_s3 import StorageProvider as S3Provider
from snakemake_storage_plugin_s3 import StorageProviderSettings

__all__ = ["StorageObject", "StorageProvider", "StorageProviderSettings"]

WHOLE = ".snakemake_timestamp"
"""The file that Snakemake leaves in a directory it has seen made. Its object is written last: where it is, the directory is whole."""

LARGE = 1 << 20
"""Bytes from which on a file is no record."""

LISTING = Path(".snakemake/s3-experiment.json")
"""What the bucket held when it was last looked at, so that a dry run need not ask."""

BULK = (".state/", "/head/", "resources/")
"""Parts of paths below which nothing is a record, whatever its size."""


class StorageProvider(S3Provider):  # type: ignore[misc]
    """One experiment in a bucket.

    Attributes:
        offline: Ask the bucket nothing; what was last known of it and the local files answer.
        listed: Whether `known` came from a listing; until then every file is asked for by itself.
        known: Modification time, in seconds since the epoch, of every object by its path below the prefix.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.local_prefix = Path.cwd()
        self.offline = False
        self.listed = False
        self.known: dict[str, float] = {}

    @classmethod
    def example_queries(cls) -> list[ExampleQuery]:
        """Return a query as the default storage prefix makes it."""
        return [ExampleQuery(query="s3://bucket/prefix/./results/plan.json", type=QueryType.ANY, description="A file of an experiment")]

    @classmethod
    def is_valid_query(cls, query: str) -> StorageQueryValidationResult:
        """Return whether a query says where its local path begins."""
        valid = query.startswith("s3://") and "/./" in query
        return StorageQueryValidationResult(query=query, valid=valid, reason="must read s3://bucket/prefix/./path; the prefix ends in /.")

    def go_offline(self) -> None:
        """Ask the bucket nothing from now on."""
        self.offline = self.listed = True
        self.known = json.loads(LISTING.read_text()) if LISTING.exists() else {}

    def pull(self, prefix: str) -> None:
        """List what is there, and fetch every record that is not here or is older here.

        Args:
            prefix: The default storage prefix.

        Raises:
            WorkflowError: the bucket cannot be read; says which and why.
        """
        bucket, _, folder = prefix.removeprefix("s3://").removesuffix(".").partition("/")
        listing: dict[str, float] = {}
        try:
            for found in self._connect().Bucket(bucket).objects.filter(Prefix=folder):
                path = found.key.removeprefix(folder)
                listing[path] = found.last_modified.timestamp()
                if found.size < LARGE and not any(part in path for part in BULK):
                    self.fetch(found.Object(), path, listing[path])
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise WorkflowError(f"bucket {bucket} cannot be read: {error}; check its name, the endpoint and the credentials") from None
        self.known |= listing
        self.listed = True
        LISTING.parent.mkdir(exist_ok=True)
        fresh = LISTING.with_suffix(".new")
        fresh.write_text(json.dumps(listing))
        fresh.replace(LISTING)

    def follow(self, prefix: str, seconds: float) -> None:
        """Pull again and again from a thread, for as long as this process lives. The bucket may be away meanwhile."""

        def pull() -> None:
            while True:
                time.sleep(seconds)
                try:
                    self.pull(prefix)
                except WorkflowError as error:
                    self.logger.warning(f"{error} (will be tried again in {seconds:g} s)")

        threading.Thread(target=pull, name="follow-bucket", daemon=True).start()

    def fetch(self, found: Any, path: str, modified: float) -> None:
        """Copy an object to its local path unless that is as new. The local file is whole at every moment, and as old as the object."""
        local = self.local_prefix / path
        if local.exists() and local.stat().st_mtime >= modified:
            return
        fresh = local.with_name(f".{local.name}.{os.getpid()}-{threading.get_ident()}")
        local.parent.mkdir(parents=True, exist_ok=True)
        found.download_file(str(fresh))
        os.utime(fresh, (modified, modified))
        fresh.replace(local)

    def knows(self, path: str) -> bool:
        """Return whether a file, or a whole directory, was there when the bucket was last looked at."""
        return self.modified(path) is not None or (self.offline and (self.local_prefix / path).exists())

    def modified(self, path: str) -> float | None:
        """Return when a file, or a directory as a whole, was written, in seconds since the epoch; None when it was not there."""
        return self.known.get(path, self.known.get(f"{path}/{WHOLE}"))

    def _connect(self) -> Any:
        """Return a connection of its own, which a thread needs."""
        settings = self.settings
        return boto3.session.Session().resource(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            aws_session_token=settings.token,
            config=boto3.session.Config(
                signature_version=settings.signature_version, retries={"max_attempts": settings.retries, "mode": "standard"}
            ),
        )


class StorageObject(S3Object):  # type: ignore[misc]
    """A file, or a directory that was uploaded whole."""

    def __post_init__(self) -> None:
        place, _, self.path = self.query.partition("/./")
        self.bucket, _, folder = place.removeprefix("s3://").partition("/")
        self.key = f"{folder}/{self.path}" if folder else self.path
        self._local_suffix = self.path
        self._is_dir = None

    def get_inventory_parent(self) -> str | None:
        """Return None: one listing holds all."""
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
        """Return whether the file or the whole directory is there. A record is on disk afterwards."""
        if self.provider.offline:
            return bool(self.provider.knows(self.path))
        found = self._found()
        if found is not None and found.key == self.key and found.content_length < LARGE:
            self.provider.fetch(found, self.path, found.last_modified.timestamp())
        return found is not None

    def mtime(self) -> float:
        """Return when the file, or the directory as a whole, was written, in seconds since the epoch."""
        if self.provider.offline:
            listed = self.provider.modified(self.path)
            return float(listed if listed is not None else self.local_path().stat().st_mtime)
        found = self._found()
        if found is None:
            raise FileNotFoundError(self.query)
        return float(found.last_modified.timestamp())

    def size(self) -> int:
        """Return bytes; 0 when the bucket is not to be asked."""
        return 0 if self.provider.offline else super().size()

    def retrieve_object(self) -> None:
        """Fetch the file or directory to its local path, which is whole or absent at every moment."""
        found = self._found()
        if found is None:
            raise FileNotFoundError(self.query)
        if found.key == self.key:
            self.provider.fetch(found, self.path, found.last_modified.timestamp())
            return
        fresh = self.local_path().with_name(f".{self.local_path().name}.{os.getpid()}")
        for item in self.get_subkeys():
            target = fresh / item.key.removeprefix(f"{self.key}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            item.Object().download_file(str(target))
        shutil.rmtree(self.local_path(), ignore_errors=True)
        fresh.replace(self.local_path())

    def store_object(self) -> None:
        """Upload the local file, or the files of the local directory and then the mark that it is whole."""
        local = self.local_path()
        if local.is_dir():
            for item in sorted(local.rglob("*")):
                if item.is_file() and item.name != WHOLE:
                    self.s3obj(item.relative_to(local).as_posix()).upload_file(str(item))
            self.s3obj(WHOLE).put(Body=b"")
        else:
            self.s3obj().upload_file(str(local))

    def remove(self) -> None:
        """Delete the file, or the mark of the directory first and then its files. The bucket stays."""
        self.s3obj(WHOLE).delete()
        for item in self.get_subkeys():
            item.delete()
        self.s3obj().delete()
        self.provider.known = {path: when for path, when in self.provider.known.items() if not f"{path}/".startswith(f"{self.path}/")}

    def list_candidate_matches(self) -> Iterator[str]:
        """Refuse: no rule here looks for files by pattern."""
        raise WorkflowError("s3-experiment cannot list files by pattern; name them")

    def _found(self) -> Any:
        """Return the object that says that the file or directory is there, None when there is none."""
        for subkey in ("", WHOLE):
            found = self.s3obj(subkey)
            try:
                found.load()
            except botocore.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                    raise
            else:
                self.provider.known[f"{self.path}/{subkey}".rstrip("/")] = found.last_modified.timestamp()
                return found
        return None
