"""What the terminal shows of a run instead of Snakemake's messages, which are in Snakemake's own log.

The logger plugin `experiment` in executor/ prints it.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import snakemake
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.exceptions import RuleException
from snakemake.logging import LoggerManager
from snakemake_interface_logger_plugins.common import LogEvent

from lib.report.progress import Progress, duration
from lib.script import fault, latest

SNAKEMAKE = Path(snakemake.__file__).parent
"""Folder of Snakemake's modules. Their messages without an event and below a warning are hidden while jobs run."""

Said = list[str | logging.LogRecord]
"""What is shown: our lines, and records in Snakemake's words."""

SILENT = {LogEvent.JOB_STARTED, LogEvent.SHELLCMD, LogEvent.PROGRESS, LogEvent.RESOURCES_INFO}
"""Events that are not shown."""

EVERY_S = 60.0
"""Seconds between two lines that only report progress of trainings."""

SILENCE_S = 60.0
"""Seconds of silence before a line says which job is running. The wait doubles each time, up to `SILENCES` times this."""

SILENCES = 16

REFUSAL = re.compile(r'WorkflowError:\n(?! )(.*)((\n  File ".*)*)\s*')
"""Snakemake's message when a plugin refuses something. It ends with lines of a traceback, which are not shown."""

CLOCK_S = 1.0
"""Seconds by which a file's modification time may lag behind the clock."""


@dataclass
class _Job:
    rule: str
    wildcards: dict[str, str]
    logs: list[str]
    since: float
    fault: str | None = None
    under_way: bool = True

    @property
    def name(self) -> str:
        return " ".join([self.rule, *self.wildcards.values()])


class Terminal:
    """Decides by event and source which messages of Snakemake are shown, and words those about jobs anew."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._jobs: dict[int, _Job] = {}
        self._told = float("-inf")
        self._standing = ""
        self._spoken, self._patience = time.monotonic(), SILENCE_S
        self._running = self._idle = False
        self._raised: deque[tuple[float, logging.LogRecord]] = deque()

    def tell(self, record: logging.LogRecord) -> Said:
        """Return what is shown for a message of Snakemake: the message, other lines, or nothing."""
        handlers: dict[LogEvent | None, Callable[[logging.LogRecord], Said]] = {
            None: self._without_event,
            LogEvent.WORKFLOW_STARTED: self._started,
            LogEvent.RUN_INFO: self._planned,
            LogEvent.JOB_INFO: self._begun,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
            LogEvent.ERROR: self._error,
        }
        event = getattr(record, "event", None)
        if event in SILENT:
            return []
        return self._spoke(handlers[event](record) if event in handlers else [record])

    def tick(self) -> Said:
        """Return exceptions that no failed job accounts for, or after long silence the job that has been running longest."""
        if self._raised and time.monotonic() - self._raised[0][0] > CLOCK_S:
            return self._spoke(self._release())
        jobs = [job for job in self._jobs.values() if job.under_way]
        patience = self._patience
        if not jobs or time.monotonic() - self._spoken < patience:
            return []
        job = min(jobs, key=lambda job: job.since)
        logs = [path for path in map(Path, job.logs) if path.exists() and _of_this_attempt(path.stat().st_mtime, job.since)]
        said = next(filter(None, map(latest, logs)), None)
        beside = f", and {len(jobs) - 1} more" if jobs[1:] else ""
        spoken = self._spoke([_now(f"under way for {duration(time.time() - job.since)}: {job.name}{f' ({said})' if said else ''}{beside}")])
        self._patience = min(2 * patience, SILENCES * SILENCE_S)
        return spoken

    def end(self) -> Said:
        """Return what is left to show."""
        return [*self._release(), *([NOTHING_TO_BE_DONE_MSG] if self._idle else [])]

    def _spoke(self, said: Said) -> Said:
        if said:
            self._spoken, self._patience = time.monotonic(), SILENCE_S
        return said

    def _without_event(self, record: logging.LogRecord) -> Said:
        """Show warnings and messages of the workflow and of plugins. Show Snakemake's other messages only where no jobs run."""
        source = Path(record.pathname)
        if not source.is_relative_to(SNAKEMAKE):
            return [record.getMessage()] if record.levelno == logging.INFO else [record]
        if self._running:
            return [record] if record.levelno >= logging.WARNING else []
        return [] if source.parent == SNAKEMAKE / "report" and record.levelno < logging.ERROR else [record]

    def _started(self, _: logging.LogRecord) -> Said:
        """Note the start of a run. It has no jobs unless their number follows."""
        self._running = self._idle = True
        return []

    def _planned(self, _: logging.LogRecord) -> Said:
        self._idle = False
        return []

    def _error(self, record: logging.LogRecord) -> Said:
        """Keep an exception of a rule until its job is reported as failed, because the job's log may say more."""
        self._idle = False
        if refused := REFUSAL.fullmatch(record.getMessage()):
            return [f"error: {refused[1]}"]
        if vars(record).get("exception") != RuleException.__name__:
            return [record]
        self._raised.append((time.monotonic(), record))
        return []

    def _release(self) -> Said:
        said: Said = [record for _, record in self._raised]
        self._raised.clear()
        return said

    def _begun(self, record: logging.LogRecord) -> Said:
        told = vars(record)
        before = self._jobs.get(told["jobid"])
        fault = before.fault if before else None
        job = _Job(told["rule_name"], dict(told["wildcards"]), list(map(_place, told["log"])), record.created, fault)
        self._jobs[told["jobid"]] = job
        return [_now(f"{told['rule_msg']} ({', '.join(job.logs)})")] if told["rule_msg"] else []

    def _finished(self, record: logging.LogRecord) -> Said:
        job = self._jobs.pop(vars(record)["job_id"])
        if job.rule == "decide_cohort":
            return self._tell(self._progress.decision(job.wildcards["bracket"], int(job.wildcards["rung"])))
        if job.rule == "choose_champion":
            return [_now(self._progress.champion())]
        if job.rule == "file_serving" or (job.rule == "train_rung" and time.monotonic() - self._told > EVERY_S):
            return self._tell()
        return []

    def _tell(self, *parts: str) -> Said:
        """Return the state of the search unless the last line already said it."""
        standing = self._progress.standing()
        said = [*parts, *([standing] if standing != self._standing else [])]
        self._told, self._standing = time.monotonic(), standing
        return [_now(" · ".join(said))] if said else []

    def _failed(self, record: logging.LogRecord) -> Said:
        """Return the error that the job's log had. A repeated error is shortened."""
        told = vars(record)
        job = self._jobs[told["jobid"]]
        job.under_way = False
        said = next((said for written, said in told["faults"] if _of_this_attempt(written, job.since)), None)
        if said is None:  # the job was killed, or its log is elsewhere
            return [*self._release(), record]
        if self._raised:
            self._raised.popleft()
        line = _now(f"error: {job.name}: {'same error' if job.fault == said else said} ({', '.join(map(_place, told['log']))})")
        job.fault = said
        return [line]


def _now(line: str) -> str:
    return f"{time.strftime('%H:%M:%S')} {line}"


def _place(log: str) -> str:
    """Return the local path of a log. For one in a bucket Snakemake says `s3://bucket/run/./results/logs/x.log (send to storage)`."""
    return log.partition("/./")[2].partition(" (")[0] or log


def _of_this_attempt(written: float, since: float) -> bool:
    """Return whether a job begun at `since` may have written a log at the time `written`."""
    return written >= since - CLOCK_S


def keep_faults(record: logging.LogRecord) -> bool:
    """Add to the message of a failed job the errors in its logs, with the times at which they were written.

    Snakemake deletes the logs before it tries the job again, and may do so before a handler has seen the message.
    """
    if getattr(record, "event", None) == LogEvent.JOB_ERROR:
        vars(record)["faults"] = faults = list[tuple[float, str]]()
        for path in map(Path, map(_place, vars(record)["log"])):
            with suppress(OSError):
                if said := fault(path):
                    faults.append((path.stat().st_mtime, said))
    return True


def narrate(manager: LoggerManager, progress: Progress) -> None:
    """Let the logger plugin `experiment` show a `Terminal`. Other logger plugins of the run are unchanged."""
    for handler in manager.get_log_handlers():
        if hasattr(handler, "narrate"):
            manager.logger.addFilter(keep_faults)
            handler.narrate(Terminal(progress))
