"""A search whose results/ lies in a bucket: its records on this disk as well, its small files with the jobs.

The storage plugin `s3-experiment`, which executor/ brings, says what the bucket holds. Here is what the workflow asks of it.
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
from lib.experiment import Experiment

HOME = "bucket.txt"
"""File that says of which place in which bucket a results tree is a copy."""

FOLLOW_SECONDS = 60.0
"""Pause between two looks into the bucket for what no job of this process has told it about, such as the logs of running jobs."""


def bring_records(store: Any, prefix: str, owner: str | None = None, *, offline: bool, follow: bool) -> None:
    """Bring the small files of a bucket onto this disk, so that everything that reads results/ finds them.

    Args:
        store: Snakemake's default storage provider.
        prefix: the default storage prefix.
        owner: which run of which workstream this is, in words, where the executor is told; another's records are left where they are.
        offline: ask the bucket nothing: what it held last time, and what is on this disk, is all that is known.
        follow: go on in the background for as long as this process lives.

    Raises:
        UserError: another storage plugin, or a bucket that cannot be read.
    """
    if not hasattr(store, "pull"):
        raise UserError("default-storage-provider must be s3-experiment, which keeps the records at hand; no other does")
    without_credentials(store.settings.endpoint_url or "", "storage-s3-experiment-endpoint-url")
    for name in ("endpoint_url", "region", "access_key", "secret_key", "token"):
        if value := getattr(store.settings, name):
            os.environ[f"SNAKEMAKE_STORAGE_S3_EXPERIMENT_{name.upper()}"] = value  # where `lib.storage` looks, and what jobs start
    if offline:
        with one_line():
            store.go_offline(prefix)
        return
    require_folder(prefix)
    if links := [name for name in ("results", "resources") if Path(name).is_symlink()]:
        raise UserError(f"{links[0]} is a link, and nothing from a bucket is written through links; make it a folder")
    with one_line():
        if owner:
            store.require_own(prefix, owner)
        store.pull(prefix)
    if follow:
        store.follow(prefix, FOLLOW_SECONDS)


def require_folder(prefix: str) -> None:
    """Raise UserError unless a default storage prefix names a folder of a bucket. The bucket is not asked."""
    if not re.fullmatch(r"s3://[^/]+(/[^/]*[^/.][^/]*)+/\.", prefix):
        raise UserError(
            f"default-storage-prefix = {prefix} names no folder of a bucket, s3://bucket/folder/.; fill in bucket and run_id in the profile"
        )


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a plugin refuses into a UserError."""
    try:
        yield
    except (WorkflowError, ValueError) as error:
        raise UserError(str(error)) from None


def find_other_home(results: Path, prefix: str | None) -> str | None:
    """Return in a line of which other place a results tree is; None when it is of this one, or of none yet, for nothing lies there.

    Its records would be taken for those of this run, in decisions, ledger and plan.

    Args:
        results: the folder.
        prefix: the default storage prefix; None when results/ lies on this disk alone.
    """
    home = results / HOME
    found = home.read_text() if home.exists() else None
    held = results.rglob("*.json") if found else results.glob("search/*/rung*.json")
    if found == prefix or not any(held):
        return None
    of = found or "runs on this disk alone"
    return f"{results}/ is of {of}, this run is of {prefix or 'this disk alone'}; use another clone, or move it away"


def claim_home(results: Path, prefix: str | None) -> None:
    """Write down of which place a results tree is, before anything arrives from there.

    Raises UserError when it is of another bucket, or another folder of it, or of none.
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
    """Return where jobs keep the state of a rung in progress: beside the results in the bucket, unless a configuration says where."""
    return streaming if streaming.url else streaming.model_copy(update={"url": f"{prefix.removesuffix('/.')}.streams"})


def carried_files(experiment: Experiment) -> list[str]:
    """Return the files that a configuration names and jobs on other machines must be sent, for they read the configuration as well.

    Raises:
        UserError: one lies where jobs are sent nothing from, or is named by a path that leads nowhere on another machine.
    """
    here = Path().resolve()
    files = list(_named(experiment))
    for key, path in files:
        if Path(path).is_absolute() or not Path(path).resolve().is_relative_to(here):
            raise UserError(f"{key} = {path}: jobs on other machines are sent what lies below {here}; copy it there")
    return [path for _, path in files]


def _named(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield key and path of every small file; target and data set lie where the jobs find them, on a volume."""
    config = experiment.config
    one = {
        "space": config.space,
        "seed_from": config.seed_from,
        "baseline": config.baseline,
        "manifest": config.manifest,
        "features.prompts": config.features.prompts,
    }
    yield from ((key, path) for key, path in one.items() if path)
    if config.serving.workload.path:
        yield from (("serving.workload.path", path) for path in experiment.subsets.values())
