"""What this machine is called, and its GPUs, each lent to one job at a time."""

import logging
import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from lib.errors import UserError
from lib.spending import RUN_ID

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PAUSE = 5.0  # seconds
_held: dict[str, FileLock] = {}
logger = logging.getLogger(__name__)


def node() -> str:
    """Return the name of this machine; in a pod, whose own name says nothing, that of its node."""
    return os.environ.get("SPEC_DECODE_TUNE_NODE") or socket.gethostname()


def gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names CUDA_VISIBLE_DEVICES gives them; asking neither starts nor loads CUDA.

    As in CUDA, the variable counts up to the first name that is none, `-1` for instance.
    """
    if (visible := os.environ.get(VISIBLE)) is not None:
        return list(takewhile(lambda name: name and not name.startswith("-"), (name.strip() for name in visible.split(","))))
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def require_devices(key: str, count: int) -> None:
    """Refuse a setting that asks for more devices than this machine has: GPUs, or without one cores. Raises UserError."""
    names = gpus()
    there = len(names) or os.cpu_count() or 1
    if count > there:
        raise UserError(f"{key} = {count}, but there are {there} {'GPUs' if names else 'cores and no GPU'} here; lower it")


def hold_gpus(count: int) -> None:
    """Take `count` GPUs for the life of this process, and let it and its children see no others. Without any GPU it does nothing.

    Snakemake starts no more jobs than there are GPUs; which of them are free it does not say, and another search on this machine may have
    some: then this waits. The system frees them however the process ends. A job that a cluster has started was given the GPUs that it
    sees, often under names that other jobs of its node see as well: it waits for none.
    """
    names = gpus()
    wanted = min(count, len(names))  # whoever needs more than there are says so in better words
    if not wanted:
        return
    if RUN_ID in os.environ:
        os.environ[VISIBLE] = ",".join(names[:wanted])
        return
    while len(taken := {name: lock for name in names if (lock := _try(name))}) < wanted:
        logger.info("waiting for %d of %d GPUs: %d are free", wanted, len(names), len(taken))
        for lock in taken.values():
            lock.release()
        time.sleep(_PAUSE)
    for name in list(taken)[wanted:]:
        taken.pop(name).release()
    _held.update(taken)
    os.environ[VISIBLE] = ",".join(taken)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_private_folder() / "inductor"))  # PyTorch runs code that it finds there


def _try(name: str) -> FileLock | None:
    lock = FileLock(_private_folder() / f"gpu-{name}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _private_folder() -> Path:
    """Return the folder of this user below the one for temporary files. Raises UserError when somebody else may have put it there."""
    folder = Path(tempfile.gettempdir()) / f"spec-decode-tune-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"{folder} is not a folder that is yours alone; remove it, or set TMPDIR to a folder of yours")
    return folder
