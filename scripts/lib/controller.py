"""Start-up of the Snakemake process: refuse bad input in plain lines, and lock the results tree."""

import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Queue
from typing import TextIO

import psutil

from lib.errors import UserError
from lib.process import identity, pid_here

LOCK = "spec-decode-tune.lock"

LOGS_S = 2.0
"""Seconds that a refusal waits for Snakemake's earlier messages."""

_held: list[TextIO] = []


@contextmanager
def refuse() -> Iterator[None]:
    """End the process with the message of a UserError, without a traceback and before any work."""
    try:
        yield
    except UserError as error:
        _let_logs_out()
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # Snakemake would turn a SystemExit in a Snakefile into a traceback


def _let_logs_out() -> None:
    """Wait a moment until Snakemake's thread has shown earlier messages, so that the refusal is the last line."""
    for handler in logging.getLogger("snakemake.logging").handlers:
        if isinstance(handler, QueueHandler) and isinstance(handler.queue, Queue):
            shown = threading.Thread(target=handler.queue.join, daemon=True)
            shown.start()
            shown.join(LOGS_S)


@dataclass(frozen=True)
class Holder:
    """The process that holds a results tree, and its start time in seconds since the epoch."""

    pid: int
    since: float


def holder(folder: Path) -> Holder | None:
    """Return the holder of the lock on a results tree, None without one. It only reads, because trying the lock could block a run."""
    with suppress(OSError, psutil.NoSuchProcess):
        if pid := pid_here((folder / LOCK).read_text()):  # None for a process of another machine
            since = psutil.Process(pid).create_time()
            if since <= (folder / LOCK).stat().st_mtime:  # a process that started later has reused the pid
                return Holder(pid, since)
    return None


def hold_results(folder: Path) -> None:
    """Hold the lock on a results tree until this process ends. The system then frees it, even after SIGKILL.

    This replaces Snakemake's lock, which a killed controller leaves behind.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    _held.append(_lock(folder))


def _lock(folder: Path) -> TextIO:
    """Return the lock on a folder, held until it is closed. Raises UserError as `hold_results` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"{folder}/ cannot be written ({error.strerror}); change its permissions, or run in another folder") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        host, _, process = handle.read().partition("/")
        who = f"process {process.rpartition('/')[2] or '?'} on {host or '?'}"
        raise UserError(f"{who} is already running in this folder; wait for it or stop it") from None
    except OSError as error:
        raise UserError(f"{folder}/ is on a file system that cannot lock files ({error.strerror}); mount it with locking") from None
    handle.truncate(0)
    handle.write(identity())
    handle.flush()
    return handle
