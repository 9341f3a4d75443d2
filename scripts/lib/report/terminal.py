"""What a person sees of a run, in place of all that Snakemake says of its jobs, which stands in its own log.

Not `quiet: rules` of a profile, which hides the errors of jobs as well.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from lib.report.progress import Progress, duration
from lib.script import fault, latest

SILENT = {
    LogEvent.JOB_STARTED,
    LogEvent.SHELLCMD,
    LogEvent.PROGRESS,
    LogEvent.RESOURCES_INFO,
    LogEvent.RUN_INFO,
    LogEvent.WORKFLOW_STARTED,
}
CHATTER = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "DAG of jobs will be updated",
    "Finished retrieval",
    "Finished upload",
    "Loading script code for rule",
    "Retrieving from storage",
    "Storing in storage",
    "Storing output in storage",
    "Missing metadata for file",  # of a report: what no run of this folder has made or finished, its times are not known
    "Select jobs to execute",
    "Trying to restart job",
    "Updating checkpoint dependencies",
    "Using shell",
    "Warning: the following output files of rule draw_report were not present",  # of these two `make report` may have written meanwhile
    "Warning: the following output files of rule build_ledger were not present",
)
"""How those messages of Snakemake begin that have no event and say nothing to a person. What is not listed is shown."""

TOLD_TWICE = re.compile(r"^RuleException:\nCalledProcessError .* returned non-zero exit status", re.DOTALL)
"""What comes before the message that a job has failed, and says no more than that. A job that a signal ended is told of."""

EVERY_S = 60.0
"""Seconds between two lines that tell no more than that trainings go on."""

SILENCE_S = 60.0
"""Seconds of silence after which a line says what is under way. Each further one comes after twice the time, up to `SILENCES` times it."""

SILENCES = 16

CLOCK_S = 1.0
"""By how much a file's time may lag behind the clock."""


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


class Terminal(logging.Handler):
    """Shows events of Snakemake in few lines, and hands on to the handler `shown` what it has no words for."""

    def __init__(self, shown: logging.StreamHandler, progress: Progress) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.name = shown.name
        self._shown, self._progress = shown, progress
        self._jobs: dict[int, _Job] = {}
        self._told = float("-inf")
        self._standing = ""
        self._spoken, self._patience = time.monotonic(), SILENCE_S

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message of Snakemake, some lines in its place, or nothing."""
        event = getattr(record, "event", None)
        handlers: dict[LogEvent | None, Callable[[logging.LogRecord], bool]] = {
            LogEvent.JOB_INFO: self._begun,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
        }
        handled: object
        try:
            if event in handlers:
                handled = handlers[event](record)
            else:
                handled = event in SILENT or (event is None and str(record.msg).startswith(CHATTER)) or TOLD_TWICE.search(str(record.msg))
        except Exception:  # a broken file is reported by the job that needs it, and words must never end a run
            handled = record.levelno < logging.WARNING
        if not handled:
            self._shown.handle(record)
            self._spoken, self._patience = time.monotonic(), SILENCE_S

    def say(self, line: str) -> None:
        """Show a line with the time of day."""
        self._shown.stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._shown.flush()
        self._spoken, self._patience = time.monotonic(), SILENCE_S

    def remind(self) -> None:
        """Say what has been under way for longest, and what its log says last, if nothing has been said for long."""
        self.acquire()
        try:
            jobs = [job for job in self._jobs.values() if job.under_way]
            patience = self._patience
            if not jobs or time.monotonic() - self._spoken < patience:
                return
            job = min(jobs, key=lambda job: job.since)
            said = next(filter(None, map(latest, _of_this_run(job.logs, job.since))), None)
            beside = f", and {len(jobs) - 1} more" if jobs[1:] else ""
            self.say(f"under way for {duration(time.time() - job.since)}: {job.name}{f' ({said})' if said else ''}{beside}")
            self._patience = min(2 * patience, SILENCES * SILENCE_S)
        finally:
            self.release()

    def _begun(self, record: logging.LogRecord) -> bool:
        told = vars(record)
        before = self._jobs.get(told["jobid"])
        job = _Job(
            told["rule_name"], dict(told["wildcards"]), list(map(_place, told["log"])), time.time(), before.fault if before else None
        )
        self._jobs[told["jobid"]] = job
        if told["rule_msg"]:
            self.say(f"{told['rule_msg']} ({', '.join(job.logs)})")
        return True

    def _finished(self, record: logging.LogRecord) -> bool:
        job = self._jobs.pop(vars(record)["job_id"])
        if job.rule == "decide_cohort":
            self._tell(self._progress.decision(job.wildcards["bracket"], int(job.wildcards["rung"])))
        elif job.rule == "choose_champion":
            self.say(self._progress.champion())
        elif job.rule == "measure_serving" or (job.rule == "train_rung" and time.monotonic() - self._told > EVERY_S):
            self._tell()
        return True

    def _tell(self, *parts: str) -> None:
        """Show how the search stands, but not what the last line already said of it."""
        standing = self._progress.standing()
        if said := [*parts, *([standing] if standing != self._standing else [])]:
            self.say(" · ".join(said))
        self._told, self._standing = time.monotonic(), standing

    def _failed(self, record: logging.LogRecord) -> bool:
        """Show what the job's own log says of it; a second time only that it is the same."""
        told = vars(record)
        job = self._jobs[told["jobid"]]
        job.under_way = False
        logs = list(map(_place, told["log"]))
        said = next(filter(None, map(fault, _of_this_run(logs, job.since))), None)
        if said is None:  # it was killed, or its log is elsewhere: in Snakemake's words
            return False
        last = said.splitlines()[-1]  # of a traceback the exception; above it stand names that change
        self.say(f"error: {job.name}: {'the same again' if job.fault == last else said} ({', '.join(logs)})")
        job.fault = last
        return True


def _place(log: str) -> str:
    """Return where a log lies on this disk. Of one in a bucket Snakemake says: s3://bucket/run/./results/logs/x.log (send to storage)."""
    return log.partition("/./")[2].partition(" (")[0] or log


def _of_this_run(logs: list[str], since: float) -> list[Path]:
    """Return the logs on this disk that a job which began then may have written."""
    return [path for path in map(Path, logs) if path.exists() and path.stat().st_mtime >= since - CLOCK_S]


def quieten(logger: logging.Logger, progress: Progress) -> None:
    """Put a `Terminal` in the place of the handler with which Snakemake writes to the terminal; leave a handler of the user's choice."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
            logger.addHandler(terminal := Terminal(handler, progress))
            threading.Thread(target=_keep_reminding, args=[terminal], name="terminal", daemon=True).start()
            return


def _keep_reminding(terminal: Terminal) -> None:
    while True:
        time.sleep(1)
        with suppress(Exception):  # as in `emit`
            terminal.remind()
