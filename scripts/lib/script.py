"""What every script does around its work: log, say user errors in one line, and never outlive the controller."""

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
from lib.process import pid_here
from lib.spending import require_acknowledged

logger = logging.getLogger(__name__)

CONTROLLER = "SPEC_DECODE_TUNE_CONTROLLER"
"""Environment variable that holds the identity of the Snakemake process whose jobs we are; executors may pass it on to other machines."""

UNEXPECTED = "unexpected failure"
FAULT = re.compile(rf"^[\d:]{{8}} \S+: (error: |{UNEXPECTED}\n)(.*)", re.MULTILINE | re.DOTALL)
"""How a job that failed ends its log."""

LINE = re.compile(r"^[\d:]{8} \S+: (.*\S)", re.MULTILINE)
"""A message in a job's log, in one line."""

STDIN, STDERR = 0, 2
"""The numbers of these streams, for what libraries in C and children do with them as well."""

RAISED = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t|+].*\n)+(\S.*)", re.MULTILINE)
"""A traceback, which is not shown, and the first line of its exception, which is."""

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "LOGURU_LEVEL": "ERROR",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables of every job: no network, no telemetry, no chatter."""


@contextmanager
def running(log: str | Path, spends: str | None = None) -> Iterator[None]:
    """Run a script's work: messages go to `log`, a UserError ends it with one line instead of a traceback.

    If the controller is a process of this machine and dies, this process is killed within about a second, and with it whatever dies with
    its parent. On another machine nothing begins that `spends` what is not acknowledged, `train` or `serve`.
    """
    log_to(log)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), STDIN)  # of this process and its children: no library asks the terminal
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
        logger.error("interrupted; the same command goes on from here")
        sys.exit(130)
    except Exception:
        logger.exception(UNEXPECTED)
        sys.exit(1)


def here(path: str) -> Path:
    """Return a path of Snakemake's as the tree names it, from the working directory on.

    Where results/ lies in a bucket Snakemake's are absolute: of no meaning elsewhere, and so not for a record.
    """
    place, cwd = Path(path), Path.cwd()
    return place.relative_to(cwd) if place.is_relative_to(cwd) else place


def log_to(log: str | Path, mode: str = "w") -> None:
    """Send messages to the file `log`, and where no controller of this machine waits for the job to stderr as well.

    Under a controller whatever this process and its children write to stderr goes to the log: what a person should see of it, such as how
    the job failed, the controller shows (`lib.report.terminal`).
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if controller():
        with path.open(mode):  # makes it empty, or leaves it as it is
            opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, STDERR)
        os.close(opened)
    else:
        handlers.append(logging.FileHandler(path, mode))
    for handler in handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("lib."))  # of libraries no chatter
        handler.setFormatter(_Redacting(f"%(asctime)s {path.stem}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)


class _Redacting(logging.Formatter):
    """Keeps the passwords of URLs, which errors of libraries repeat, out of logs."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def fault(log: Path) -> str | None:
    """Return how a job ended by its log: the error in its words, or the first line of the exception. None when it tells of no failure."""
    try:
        found = FAULT.search(log.read_text(errors="replace").partition("\nRuleException:")[0])  # a pod's log goes on with Snakemake's words
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
    """Return the pid of the controller, None when it is no process of this machine or none is known."""
    return pid_here(os.environ.get(CONTROLLER, ""))


def die_with_controller() -> None:
    """Kill this process about a second after the controller is gone; one on another machine is not watched."""
    if pid := controller():
        die_with(pid)


def die_with(pid: int) -> None:
    """Watch another process from a thread and kill this one about a second after it is gone."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            other = psutil.Process(pid)
            while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name=f"die-with-{pid}", daemon=True).start()
