"""The name of this machine, its processor and its GPUs. Each GPU is held by one job at a time."""

import logging
import os
import platform
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
    """Return the name of this machine, or of the node in a pod."""
    return os.environ.get("SPEC_DECODE_TUNE_NODE") or socket.gethostname()


def processor() -> str:
    """Return the processor's marketing name if the kernel reports it (x86), otherwise the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpus() -> list[str]:
    """Return the GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES. This does not load CUDA.

    As in CUDA, the list ends at the first invalid name, such as `-1`.
    """
    if (visible := os.environ.get(VISIBLE)) is not None:
        return list(takewhile(lambda name: name and not name.startswith("-"), (name.strip() for name in visible.split(","))))
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def require_devices(key: str, count: int) -> None:
    """Raise UserError when a setting asks for more GPUs than this machine has, or more cores if it has no GPU."""
    names = gpus()
    there = len(names) or os.cpu_count() or 1
    if count > there:
        raise UserError(f"{key} = {count}, but there are {there} {'GPUs' if names else 'cores and no GPU'} here; lower it")


def hold_gpus(count: int) -> None:
    """Hold `count` GPUs until this process ends, and hide the others from it and its children. Without a GPU it does nothing.

    Snakemake limits the number of jobs to the number of GPUs, but does not assign them, and another search may hold some. This waits for
    free ones. The system frees them when the process ends, even after SIGKILL. A job on a cluster uses all GPUs that it sees and waits for
    none, because jobs of one node often see the same names.
    """
    names = gpus()
    wanted = min(count, len(names))  # `require_devices` reports a larger count
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
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_private_folder() / "inductor"))  # PyTorch runs code found in this folder


def _try(name: str) -> FileLock | None:
    lock = FileLock(_private_folder() / f"gpu-{name}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _private_folder() -> Path:
    """Return this user's folder below the one for temporary files. Raises UserError when it may belong to another user."""
    folder = Path(tempfile.gettempdir()) / f"spec-decode-tune-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"{folder} is not a folder that only you can write; remove it, or set TMPDIR to a folder of your own")
    return folder
