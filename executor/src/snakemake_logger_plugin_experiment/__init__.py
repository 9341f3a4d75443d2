"""Snakemake's terminal output, with a workflow's own words where it has some.

A profile or the command line switches it on (`logger: experiment`). Everything is shown as Snakemake shows it until the workflow calls
`LogHandler.narrate`, which it can do while it is parsed: `workflow.logger_manager.get_log_handlers()` holds the handler.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from snakemake.logging import ColorizingTextHandler
from snakemake_interface_logger_plugins.base import LogHandlerBase

Said = Sequence[str | logging.LogRecord]
"""What is shown: lines as they stand, records in Snakemake's words."""


class Narrator(Protocol):
    """Decides what is shown of a run. One thread at a time calls it."""

    def tell(self, record: logging.LogRecord) -> Said:
        """Return what is shown in place of a record."""

    def tick(self) -> Said:
        """Return what is shown now; it is asked about once a second."""

    def end(self) -> Said:
        """Return what is shown after the last record."""


class LogHandler(LogHandlerBase):
    """Writes to the terminal what a narrator says, and without one what Snakemake says."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._plain = ColorizingTextHandler(nocolor=self.common_settings.nocolor, stream=stream)
        self._narrator: Narrator | None = None

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802  logging's name
        """Format with `fmt` the records that are shown in Snakemake's words."""
        self._plain.setFormatter(fmt)

    def narrate(self, narrator: Narrator) -> None:
        """Let a narrator decide from now on what is shown."""
        self._narrator = narrator
        threading.Thread(target=self._keep_ticking, args=[narrator], name="narrator", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show what the narrator says of a record. Whatever fails here must not end the run."""
        narrator = self._narrator
        try:
            said = narrator.tell(record) if narrator else [record]
        except Exception:
            said = [record] if record.levelno >= logging.WARNING else []
        self._show(said)

    def close(self) -> None:
        """Show what the narrator says last."""
        if self._narrator:
            self._ask(self._narrator.end)
            self._narrator = None
        super().close()

    def _keep_ticking(self, narrator: Narrator) -> None:
        while self._narrator is narrator:
            self._ask(narrator.tick)
            time.sleep(1)

    def _ask(self, question: Callable[[], Said]) -> None:
        """Show what the narrator answers, if it can."""
        self.acquire()
        try:
            with suppress(Exception):
                self._show(question())
        finally:
            self.release()

    def _show(self, said: Said) -> None:
        for one in said:
            if isinstance(one, str):
                self._plain.stream.write(f"{one}\n")
                self._plain.flush()
            else:
                self._plain.emit(one)
