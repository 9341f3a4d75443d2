"""What a person sees of a run, in place of all that Snakemake says of its jobs, which stands in its own log.

Not `quiet: rules` of a profile, which hides the errors of jobs as well.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from lib.report.progress import Progress
from lib.script import fault

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
)
"""How those messages of Snakemake begin that have no event and say nothing to a person. What is not listed is shown."""

TOLD_TWICE = re.compile(r"^RuleException:\nCalledProcessError .* returned non-zero exit status", re.DOTALL)
"""What comes before the message that a job has failed, and says no more than that. A job that a signal ended is told of."""

EVERY_S = 60.0
"""Seconds between two lines that tell no more than that trainings go on."""

CLOCK_S = 1.0
"""By how much a file's time may lag behind the clock."""


@dataclass
class _Job:
    rule: str
    wildcards: dict[str, str]
    since: float
    fault: str | None = None


class Terminal(logging.Handler):
    """Shows events of Snakemake in few lines, and hands on to the handler `shown` what it has no words for."""

    def __init__(self, shown: logging.StreamHandler, progress: Progress) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.name = shown.name
        self._shown, self._progress = shown, progress
        self._jobs: dict[int, _Job] = {}
        self._told = float("-inf")
        self._standing = ""

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

    def say(self, line: str) -> None:
        """Show a line with the time of day."""
        self._shown.stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._shown.flush()

    def _begun(self, record: logging.LogRecord) -> bool:
        told = vars(record)
        before = self._jobs.get(told["jobid"])
        self._jobs[told["jobid"]] = _Job(told["rule_name"], dict(told["wildcards"]), time.time(), before.fault if before else None)
        if told["rule_msg"]:
            self.say(f"{told['rule_msg']} ({', '.join(map(_place, told['log']))})")
        return True

    def _finished(self, record: logging.LogRecord) -> bool:
        job = self._jobs[vars(record)["job_id"]]
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
        names = list(map(_place, told["log"]))
        logs = [path for path in map(Path, names) if path.exists() and path.stat().st_mtime >= job.since - CLOCK_S]
        said = next(filter(None, map(fault, logs)), None)
        if said is None:  # it was killed, or its log is elsewhere: in Snakemake's words
            return False
        last = said.splitlines()[-1]  # of a traceback the exception; above it stand names that change
        name = " ".join([job.rule, *job.wildcards.values()])
        self.say(f"error: {name}: {'the same again' if job.fault == last else said} ({', '.join(names)})")
        job.fault = last
        return True


def _place(log: str) -> str:
    """Return where a log lies on this disk. Of one in a bucket Snakemake says: s3://bucket/run/./results/logs/x.log (send to storage)."""
    return log.partition("/./")[2].partition(" (")[0] or log


def quieten(logger: logging.Logger, progress: Progress) -> None:
    """Put a `Terminal` in the place of the handler with which Snakemake writes to the terminal; leave a handler of the user's choice."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
            logger.addHandler(Terminal(handler, progress))
            return
