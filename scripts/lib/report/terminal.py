"""What a person sees of a run, in place of all that Snakemake says of its jobs, which stands in its own log.

Not `quiet: rules` of a profile, which hides the errors of jobs as well.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from lib.errors import UserError
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
    "Select jobs to execute",
    "Trying to restart job",
    "Updating checkpoint dependencies",
    "Using shell",
)
"""How those messages of Snakemake begin that have no event and say nothing to a person. What is not listed is shown."""

EVERY_S = 60.0
"""Seconds between two lines that tell no more than that trainings go on."""


class Terminal(logging.Handler):
    """Shows events of Snakemake in few lines, and hands on to the handler `shown` what it has no words for."""

    def __init__(self, shown: logging.StreamHandler, progress: Progress) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.name = shown.name
        self._shown, self._progress = shown, progress
        self._jobs: dict[int, tuple[str, dict[str, str]]] = {}
        self._faults: dict[int, str] = {}
        self._told = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message of Snakemake, some lines in its place, or nothing."""
        event = getattr(record, "event", None)
        handlers: dict[LogEvent | None, Callable[[logging.LogRecord], bool]] = {
            LogEvent.JOB_INFO: self._begun,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
        }
        try:
            if event in handlers:
                handled = handlers[event](record)
            else:
                handled = event in SILENT or (event is None and str(record.msg).startswith(CHATTER))
        except (UserError, OSError, ValueError, KeyError):  # a broken file is reported by the job that needs it
            handled = record.levelno < logging.WARNING
        if not handled:
            self._shown.handle(record)

    def say(self, line: str) -> None:
        """Show a line with the time of day."""
        self._shown.stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._shown.flush()

    def _begun(self, record: logging.LogRecord) -> bool:
        told = vars(record)
        self._jobs[told["jobid"]] = told["rule_name"], dict(told["wildcards"])
        if told["rule_msg"]:
            self.say(f"{told['rule_msg']} ({', '.join(told['log'])})")
        return True

    def _finished(self, record: logging.LogRecord) -> bool:
        rule, wildcards = self._jobs.get(vars(record)["job_id"], ("", {}))
        if rule == "decide_cohort":
            self._tell(self._progress.decision(wildcards["bracket"], int(wildcards["rung"])))
        elif rule in ("measure_serving", "measure_contest") or (rule == "train_rung" and time.monotonic() - self._told > EVERY_S):
            self._tell()
        return True

    def _tell(self, *parts: str) -> None:
        self.say(" · ".join([*parts, self._progress.standing()]))
        self._told = time.monotonic()

    def _failed(self, record: logging.LogRecord) -> bool:
        """Show what the job's own log says of it; a second time only that it is the same."""
        told = vars(record)
        said = next(filter(None, (fault(Path(log)) for log in told["log"])), None)
        if said is None:  # it was killed, or its log is elsewhere: in Snakemake's words
            return False
        again = self._faults.get(told["jobid"]) == said
        self._faults[told["jobid"]] = said
        name = " ".join([told["rule_name"], *self._jobs.get(told["jobid"], ("", {}))[1].values()])
        self.say(f"error: {name}: {'the same again' if again else said} ({', '.join(told['log'])})")
        return True


def quieten(logger: logging.Logger, progress: Progress) -> None:
    """Put a `Terminal` in the place of the handler with which Snakemake writes to the terminal; leave a handler of the user's choice."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
            logger.addHandler(Terminal(handler, progress))
            return
