"""The logger plugin shows a narrator's output, or Snakemake's without one. A failing narrator does not stop the run."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from lib.report.terminal import narrate
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.tests import TestLogHandlerBase
from snakemake_logger_plugin_experiment import LogHandler, Said

from tests.unit.report.test_terminal import progress


class TestTheInterface(TestLogHandlerBase):
    """What every logger plugin must do."""

    __test__ = True

    def get_log_handler_cls(self) -> type[LogHandler]:
        """Return the plugin."""
        return LogHandler

    def get_log_handler_settings(self) -> None:  # type: ignore[override]
        """Return that it has none."""
        return


class Narrator:
    """Repeats what it hears, and fails over one message."""

    def tell(self, record: logging.LogRecord) -> Said:
        """Return the message, and a warning as it stands as well."""
        if record.msg == "broken":
            raise ValueError
        return [f"told: {record.msg}", *([record] if record.levelno > logging.INFO else [])]

    def tick(self) -> Said:
        """Return nothing."""
        return []

    def end(self) -> Said:
        """Return that it is over."""
        return ["the end"]


def log(handler: LogHandler, message: str, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord("snakemake.logging", level, "x", 1, message, (), None))


def test_it_shows_what_the_narrator_says_and_warnings_also_when_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogHandler(OutputSettings(), None)
    log(handler, "before")
    handler.narrate(Narrator())
    for message, level in (("a", logging.INFO), ("b", logging.WARNING), ("broken", logging.INFO), ("broken", logging.WARNING)):
        log(handler, message, level)
    handler.close()
    assert capsys.readouterr().err.splitlines() == ["before", "told: a", "told: b", "b", "broken", "the end"]


def test_a_handler_that_was_chosen_is_left_alone() -> None:
    logger = logging.Logger("snakemake.logging")
    manager = SimpleNamespace(logger=logger, get_log_handlers=lambda: [logging.NullHandler()])
    narrate(manager, progress(Path()))  # type: ignore[arg-type]
    assert not logger.filters
