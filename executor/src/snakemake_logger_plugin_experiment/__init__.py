"""Snakemake's terminal output, which a workflow can replace by its own lines.

A profile or the command line enables it (`logger: experiment`). The output is Snakemake's until the workflow calls `LogHandler.narrate`.
The workflow can do so while it is parsed: `workflow.logger_manager.get_log_handlers()` has the handler.
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
"""Output of a narrator: lines to print, and records to format as Snakemake does."""


class Narrator(Protocol):
    """Decides the output of a run. One thread at a time calls it."""

    def tell(self, record: logging.LogRecord) -> Said:
        """Return the output for a record."""

    def tick(self) -> Said:
        """Return the output that is due now. It is called about once a second."""

    def end(self) -> Said:
        """Return the output after the last record."""


class LogHandler(LogHandlerBase):
    """Writes the output of a narrator to the terminal, or Snakemake's own output without one."""

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
        """Format records with `fmt` unless the narrator replaces them."""
        self._plain.setFormatter(fmt)

    def narrate(self, narrator: Narrator) -> None:
        """Let a narrator decide the output from now on."""
        self._narrator = narrator
        threading.Thread(target=self._keep_ticking, args=[narrator], name="narrator", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show the narrator's output for a record. An error here must not end the run."""
        narrator = self._narrator
        try:
            said = narrator.tell(record) if narrator else [record]
        except Exception:
            said = [record] if record.levelno >= logging.WARNING else []
        self._show(said)

    def close(self) -> None:
        """Show the narrator's last output."""
        if self._narrator:
            self._ask(self._narrator.end)
            self._narrator = None
        super().close()

    def _keep_ticking(self, narrator: Narrator) -> None:
        while self._narrator is narrator:
            self._ask(narrator.tick)
            time.sleep(1)

    def _ask(self, question: Callable[[], Said]) -> None:
        """Show the narrator's output, unless it raises."""
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
