"""A search with results/ in a bucket: copies of its records on this disk, and the small files that its jobs need.

The storage plugin `s3-experiment` in executor/ lists the bucket. This module uses it for the workflow.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from lib.config import Streaming
from lib.errors import UserError, without_credentials
from lib.experiment import Experiment, named_files
from lib.serving.workload import KEY

HOME = "bucket.txt"
"""File that names the bucket and folder from which a results tree is copied."""

VOLUMES = ("target.path", "features.dataset")
"""Keys of what jobs have on a volume."""

FOLLOW_SECONDS = 60.0
"""Seconds between two listings of the bucket, for files that no job has reported, such as logs of running jobs."""


def bring_records(store: Any, prefix: str, owner: str | None = None, *, offline: bool, follow: bool) -> None:
    """Download the small files of a bucket into results/.

    Args:
        store: Snakemake's default storage provider.
        prefix: the default storage prefix.
        owner: run and workstream in words, if the executor knows them. Records of another owner are not downloaded.
        offline: do not connect to the bucket. Only its last listing and the files on this disk are used.
        follow: continue in the background until this process ends.

    Raises:
        UserError: another storage plugin, or a bucket that cannot be read.
    """
    if not hasattr(store, "pull"):
        raise UserError("default-storage-provider must be s3-experiment; no other plugin keeps local copies of the records")
    without_credentials(store.settings.endpoint_url or "", "storage-s3-experiment-endpoint-url")
    for name in ("endpoint_url", "region", "access_key", "secret_key", "token"):
        if value := getattr(store.settings, name):
            os.environ[f"SNAKEMAKE_STORAGE_S3_EXPERIMENT_{name.upper()}"] = value  # read by `lib.storage` and by jobs
    if offline:
        with one_line():
            store.go_offline(prefix)
        return
    require_folder(prefix)
    if links := [name for name in ("results", "resources") if Path(name).is_symlink()]:
        raise UserError(f"{links[0]} is a link, and files from a bucket are not written through links; make it a folder")
    with one_line():
        if owner:
            store.require_own(prefix, owner)
        store.pull(prefix)
    if follow:
        store.follow(prefix, FOLLOW_SECONDS)


def require_folder(prefix: str) -> None:
    """Raise UserError unless a default storage prefix names a folder of a bucket. Does not connect to the bucket."""
    if not re.fullmatch(r"s3://[^/]+(/[^/]*[^/.][^/]*)+/\.", prefix):
        raise UserError(
            f"default-storage-prefix = {prefix} names no folder of a bucket, s3://bucket/folder/.; fill in bucket and run_id in the profile"
        )


@contextmanager
def one_line() -> Iterator[None]:
    """Turn a plugin's WorkflowError into a UserError."""
    try:
        yield
    except (WorkflowError, ValueError) as error:
        raise UserError(str(error)) from None


def find_other_home(results: Path, prefix: str | None) -> str | None:
    """Return a line that names the other place a results tree belongs to. None when it belongs to this one, or is empty.

    Records of another place must not enter this run's decisions, ledger and plan.

    Args:
        results: the folder.
        prefix: the default storage prefix, None when results/ is on this disk only.
    """
    home = results / HOME
    found = home.read_text() if home.exists() else None
    held = results.rglob("*.json") if found else results.glob("search/*/rung*.json")
    if found == prefix or not any(held):
        return None
    place = found or "runs on this disk only"
    return f"{results}/ belongs to {place}, this run to {prefix or 'this disk only'}; use another clone, or move it away"


def claim_home(results: Path, prefix: str | None) -> None:
    """Record the place that a results tree belongs to, before files arrive from it.

    Raises UserError when it belongs to another bucket or folder, or to this disk.
    """
    if other := find_other_home(results, prefix):
        raise UserError(other)
    home = results / HOME
    if prefix is None:
        home.unlink(missing_ok=True)
    else:
        results.mkdir(exist_ok=True)
        home.write_text(prefix)


def stream_there(streaming: Streaming, prefix: str) -> Streaming:
    """Return where jobs keep the state of a rung in progress, by default beside the results in the bucket."""
    return streaming if streaming.url else streaming.model_copy(update={"url": f"{prefix.removesuffix('/.')}.streams"})


def carried_files(experiment: Experiment) -> list[str]:
    """Return the files named by the configuration that jobs on other machines need.

    Raises:
        UserError: a file lies outside the working directory, or its path is not valid on another machine.
    """
    here = Path().resolve()
    files = list(_carried(experiment))
    for key, path in files:
        if Path(path).is_absolute() or not Path(path).resolve().is_relative_to(here):
            raise UserError(f"{key} = {path}: jobs on other machines only get files below {here}; copy it there")
    return [path for _, path in files]


def _carried(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield key and path of every small file. Target and data set are on a volume of the jobs, and a workload may be a folder of files."""
    yield from ((key, path) for key, path in named_files(experiment.config).items() if key not in {*VOLUMES, KEY})
    yield from sorted({(KEY, str(source.path)) for source in experiment.sent.values()})
