"""Logging of scripts, user errors in one line, and the end of a job when its controller dies."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from lib.errors import UserError, redacted
from lib.files import full
from lib.process import pid_here
from lib.spending import require_acknowledged

logger = logging.getLogger(__name__)

CONTROLLER = "SPEC_DECODE_TUNE_CONTROLLER"
"""Environment variable with the identity of the Snakemake process that started this job. Executors may pass it to other machines."""

UNEXPECTED = "unexpected failure"
FAULT = re.compile(rf"^[\d:]{{8}} \S+: (error: |{UNEXPECTED}\n)(.*)", re.MULTILINE | re.DOTALL)
"""The end of a failed job's log."""

LINE = re.compile(r"^[\d:]{8} \S+: (.*\S)", re.MULTILINE)
"""A message of one line in a job's log."""

STDIN, STDERR = 0, 2
"""File descriptors, used so that libraries in C and children are redirected too."""

RAISED = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t|+].*\n)+(\S.*)", re.MULTILINE)
"""A traceback, which is not shown, and the first line of its exception, which is shown."""

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "LOGURU_LEVEL": "ERROR",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables of every job: no network, no telemetry, no progress bars."""


@contextmanager
def running(log: str | Path, spends: str | None = None) -> Iterator[None]:
    """Run a script's work. Messages go to `log`, and a UserError ends it with one line instead of a traceback.

    If the controller runs on this machine and dies, this process is killed within about a second, with the children that die with it.
    On another machine, work that `spends` (`train` or `serve`) does not begin without acknowledgement.
    """
    log_to(log)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), STDIN)  # so neither libraries nor children read the terminal
    die_with_controller()
    born, entered = psutil.Process().create_time(), time.time()
    logger.info("start, after %.1f s of imports", entered - born)
    try:
        require_acknowledged(spends)
        yield
        logger.info("done, %.1f s of work", time.time() - entered)
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        logger.error("interrupted; run the same command again to resume")
        sys.exit(130)
    except Exception as error:
        if full(error):
            said = " ".join(str(error).split())
            logger.error("error: no room to write a file (%s); free some and run again, finished work is kept", said)
        else:
            logger.exception(UNEXPECTED)
        sys.exit(1)


def here(path: str) -> Path:
    """Return a path of Snakemake's relative to the working directory.

    With results/ in a bucket Snakemake's paths are absolute. Records must not hold those, because they differ between machines.
    """
    place = Path(path)
    return place.relative_to(Path.cwd()) if place.is_absolute() and place.is_relative_to(Path.cwd()) else place


def log_to(log: str | Path, mode: str = "w") -> None:
    """Send messages to the file `log`, and without a controller on this machine also to stderr.

    Under a controller the stderr of this process and its children goes to the log. The controller shows what users need to see, such as
    errors of jobs (`lib.report.terminal`).
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if controller():
        with path.open(mode):  # truncates if mode is w
            opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, STDERR)
        os.close(opened)
    else:
        handlers.append(logging.FileHandler(path, mode))
    for handler in handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("lib."))  # hide libraries' messages
        handler.setFormatter(_Redacting(f"%(asctime)s {path.stem}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)


class _Redacting(logging.Formatter):
    """Removes passwords in URLs, which errors of libraries repeat, from logs."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def fault(log: Path) -> str | None:
    """Return the error in a job's log, or the first line of its exception. None without a failure."""
    try:
        found = FAULT.search(log.read_text(errors="replace").partition("\nRuleException:")[0])  # a pod's log also has Snakemake's messages
    except OSError:
        return None
    if not found:
        return None
    raised = RAISED.findall(found[2]) if found[1] != "error: " else []
    return raised[-1] if raised else found[2].strip()


def latest(log: Path) -> str | None:
    """Return the last message in a job's log, None when there is none."""
    try:
        messages: list[str] = LINE.findall(log.read_text(errors="replace"))
    except OSError:
        return None
    return messages[-1] if messages else None


def controller() -> int | None:
    """Return the pid of the controller, None when it is unknown or on another machine."""
    return pid_here(os.environ.get(CONTROLLER, ""))


def die_with_controller() -> None:
    """Kill this process about a second after the controller is gone. A controller on another machine is not watched."""
    if pid := controller():
        die_with(pid)


def die_with(pid: int) -> None:
    """Watch another process in a thread, and kill this one about a second after it is gone."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            other = psutil.Process(pid)
            while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name=f"die-with-{pid}", daemon=True).start()
