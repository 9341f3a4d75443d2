"""A run prints what a person needs in few lines, and never hides an error."""

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lib.records.layout import VerdictFiles
from lib.records.measurement import write_record
from lib.report import terminal
from lib.report.progress import Progress
from lib.report.survey import survey
from lib.report.terminal import SNAKEMAKE, Said, Terminal
from snakemake_interface_logger_plugins.common import LogEvent

from tests.unit.made_records import serving
from tests.unit.report.test_figures import small
from tests.unit.report.trees import FILES, SEEDS, Stage, make_tree

DAG = SNAKEMAKE / "dag.py"
MEASUREMENTS = "results/search/finalists/contest-1.json"


def progress(root: Path) -> Progress:
    """Return the progress of the search of `make_tree`."""
    cost = SimpleNamespace(
        seconds_per_sample=1.0, seconds_per_serving=360.0, seconds_per_start=None, price_per_device_hour=2.0, currency="USD"
    )
    config = SimpleNamespace(verdict=SimpleNamespace(seeds=SEEDS, repeats=1), serving=SimpleNamespace(repeats=1), cost=cost)
    files = VerdictFiles(FILES["champion"], MEASUREMENTS, FILES["verdict"], "", "", "", "servings-{engine}", 1)
    return Progress(SimpleNamespace(search=small(), config=config), files, root)  # type: ignore[arg-type]


class Run:
    """What Snakemake says of a run, and what a person reads in its place."""

    def __init__(self, progress: Progress) -> None:
        self.terminal, self._lines = Terminal(progress), list[str]()
        self.log("Workflow has started!", LogEvent.WORKFLOW_STARTED)

    def hear(self, said: Said) -> list[str]:
        """Read what is said: the lines as they stand, without the time of day."""
        lines = "\n".join(one if isinstance(one, str) else one.getMessage() for one in said).splitlines()
        self._lines += [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]
        return lines

    def log(self, message: str, event: LogEvent | None = None, level: int = logging.INFO, *, at: Path = DAG, **fields: object) -> None:
        """Log as the module `at` does."""
        record = logging.LogRecord("snakemake.logging", level, str(at), 1, message, (), None)
        vars(record).update(fields, event=event)
        assert terminal.keep_faults(record)
        for log in map(Path, fields.get("log", [])) if event == LogEvent.JOB_ERROR else ():
            log.unlink(missing_ok=True)  # as Snakemake does for the next attempt, at times before a handler sees the record
        self.hear(self.terminal.tell(record))

    def begin(self, rule: str, log: Path | str = "", message: str | None = None, **wildcards: str) -> None:
        """Say that job 1 begins."""
        self.log("", LogEvent.JOB_INFO, jobid=1, rule_name=rule, rule_msg=message, wildcards=wildcards, log=[str(log)] if log else [])

    def finish(self) -> None:
        """Say that job 1 has finished."""
        self.log("Finished", LogEvent.JOB_FINISHED, job_id=1)

    def fail(self, log: Path, how: str = "returned non-zero exit status 1.") -> None:
        """Say that job 1 has failed."""
        raised = f"RuleException:\nCalledProcessError in file x\n'python' {how}"
        self.log(raised, LogEvent.ERROR, logging.ERROR, exception="RuleException")
        self.log("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=1, log=[str(log)])

    def said(self) -> list[str]:
        """Return the lines so far, without the time of day."""
        return self._lines


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    make_tree(tmp_path, small(), "begun")
    return Run(progress(tmp_path))


def test_jobs_without_a_message_and_chatter_are_not_shown(run: Run) -> None:
    run.log("Building DAG of jobs...")
    run.log("5 jobs", LogEvent.RUN_INFO)
    run.log("None", LogEvent.PROGRESS, done=1, total=2)
    run.begin("export_head", arm="a")
    run.finish()
    assert run.said() == []


def test_a_rule_with_a_message_is_shown_with_its_log(run: Run) -> None:
    run.begin("measure_serving", "results/logs/a.log", "Measuring a in vLLM", arm="a")
    assert run.said() == ["Measuring a in vLLM (results/logs/a.log)"]


@pytest.mark.parametrize(
    ("event", "level", "at"),
    [
        (LogEvent.ERROR, logging.ERROR, DAG),
        (LogEvent.GROUP_ERROR, logging.ERROR, DAG),
        (None, logging.WARNING, DAG),
        (None, logging.INFO, Path("Snakefile")),
        (None, logging.INFO, Path("snakemake_executor_plugin_kubernetes_experiment/__init__.py")),
    ],
)
def test_what_it_has_no_words_for_is_shown_as_it_stands(run: Run, event: LogEvent | None, level: int, at: Path) -> None:
    run.log("message", event, level, at=at)
    assert run.said() == ["message"]


def test_where_no_jobs_run_everything_is_shown_but_what_a_report_takes_up(tmp_path: Path) -> None:
    run = Run.__new__(Run)
    run.terminal, run._lines = Terminal(progress(tmp_path)), []
    run.log("Unlocked working directory.")
    run.log("Missing metadata for file results/plan.json.", level=logging.WARNING, at=SNAKEMAKE / "report/__init__.py")
    run.log("Downloading resources and rendering HTML.", at=SNAKEMAKE / "report/html_reporter/__init__.py")
    assert run.said() == ["Unlocked working directory.", "Downloading resources and rendering HTML."]


@pytest.mark.parametrize(
    ("event", "last"), [(None, ["Nothing to be done (all requested files are present and up to date)."]), (LogEvent.RUN_INFO, [])]
)
def test_a_run_without_jobs_says_so_at_its_end(run: Run, event: LogEvent | None, last: list[str]) -> None:
    run.log("5 jobs", event)
    assert run.hear(run.terminal.end()) == last


def test_a_job_that_a_signal_ended_is_told_of_in_snakemakes_words(run: Run, tmp_path: Path) -> None:
    run.begin("train_rung", tmp_path / "log", arm="a", rung="0")
    (tmp_path / "log").write_text("12:00:00 a.rung0: start, after 1.0 s of imports\n")
    run.fail(tmp_path / "log", "died with <Signals.SIGKILL: 9>.")
    assert run.said()[-2:] == ["'python' died with <Signals.SIGKILL: 9>.", "Error in rule"]


def test_what_a_rule_raised_is_shown_when_no_job_fails_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log("RuleException: x", LogEvent.ERROR, logging.ERROR, exception="RuleException")
    assert not run.hear(run.terminal.tick())
    monkeypatch.setattr(terminal, "CLOCK_S", -1.0)
    assert run.hear(run.terminal.tick()) == ["RuleException: x"] and not run.terminal.end()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('WorkflowError:\nrun id not set\n  File "x.py", line 3, in __post_init__\n  File "y.py", line 4, in z\n', "error: run id not set"),
        ("WorkflowError:\nbucket b does not exist", "error: bucket b does not exist"),
        ("WorkflowError:\nFailed to get:\nrule x", "WorkflowError:\nFailed to get:\nrule x"),
        ("WorkflowError in rule x:\nno", "WorkflowError in rule x:\nno"),
    ],
)
def test_what_a_plugin_refuses_in_one_line_is_shown_in_one(run: Run, message: str, shown: str) -> None:
    run.log(message, LogEvent.ERROR, logging.ERROR, exception="WorkflowError")
    assert run.said() == shown.splitlines()


def test_a_failed_job_is_told_of_by_what_its_log_says_and_once(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        run.begin("export_head", log, arm="a")
        log.write_text("12:00:00 a: start, after 1.0 s of imports\n12:00:01 a: error: the state is cut off; delete it\n")
        run.fail(log)
    assert run.said() == [f"error: export_head a: the state is cut off; delete it ({log})", f"error: export_head a: same error ({log})"]


def test_of_a_traceback_the_exception_is_shown_and_of_that_its_first_line(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run.begin("export_head", log, arm="a")
    frames = "\n".join(f"  frame {number}" for number in range(30))
    begin = f"Traceback (most recent call last):\n{frames}\n"
    raised = "ValueError: sizes differ\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    log.write_text(f"12:00:01 a: unexpected failure\n{begin}KeyError: 1\n\nThe above exception was the direct cause:\n\n{begin}{raised}")
    run.fail(log)
    assert run.said() == [f"error: export_head a: ValueError: sizes differ ({log})"]


def test_a_log_of_an_earlier_run_explains_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_text("12:00:01 a: error: of yesterday\n")
    monkeypatch.setattr(terminal, "CLOCK_S", -60.0)
    run.begin("export_head", log, arm="a")
    run.fail(log)
    assert run.said()[-1] == "Error in rule"


def test_a_decision_and_a_measurement_tell_how_the_search_stands_and_trainings_now_and_then(run: Run, tmp_path: Path) -> None:
    bracket = small().brackets[0]
    run.begin("decide_cohort", bracket=small().folder(bracket), rung="1")
    run.finish()
    (line,) = run.said()
    assert re.match(
        rf"{bracket.label}: 3 of 9 arms go on, to 192 samples · \d+ of \d+ trainings, 0 of 3 heads served · best acc0 so far ", line
    )
    assert "(DRAFT), rung " in line and re.search(r"[\d.]+ device-hours, [\d.]+ USD left at most$", line)
    run.begin("train_rung", arm="a", rung="1")
    run.finish()
    assert len(run.said()) == 1, "less than a minute after the last"
    run.begin("file_serving", arm="a")
    run.finish()
    assert len(run.said()) == 1, "nothing is new"
    write_record(tmp_path / f"results/{small().standing.id}/serving.json", serving(small().standing.id, 2.0))
    run.begin("file_serving", arm="a")
    run.finish()
    assert len(run.said()) == 2 and ", 1 of 3 heads served" in run.said()[-1]


@pytest.mark.parametrize(("done", "told"), [(1e-3, False), (1e9, True)])
def test_the_time_left_is_told_when_enough_has_been_seen_to_end(tmp_path: Path, done: float, told: bool) -> None:
    make_tree(tmp_path, small(), "begun")
    write_record(tmp_path / f"results/{small().standing.id}/serving.json", serving(small().standing.id, 2.0))
    one = progress(tmp_path)
    one.standing()
    begun, seconds = one._begun or (0.0, 0.0)
    one._begun = begun - 60, seconds - done
    assert (" · about " in one.standing()) == told
    assert one.standing().endswith("left at most")


def test_the_choice_of_the_champion_is_told(tmp_path: Path) -> None:
    make_tree(tmp_path, small(), "chosen")
    run = Run(progress(tmp_path))
    run.begin("choose_champion")
    run.finish()
    (line,) = run.said()
    assert re.fullmatch(r"champion: gb\S+, acceptance length \d\.\d{3} \(DRAFT\), now retrained with 2 fresh seeds for the verdict", line)


@pytest.mark.parametrize(
    ("stage", "best"), [("begun", "best acc0 so far"), ("chosen", "best acceptance length so far"), ("judged", "so far")]
)
def test_the_best_so_far_is_the_proxy_and_then_what_vllm_measured(tmp_path: Path, stage: Stage, best: str) -> None:
    make_tree(tmp_path, small(), stage)
    assert best in progress(tmp_path).standing()


def test_what_is_left_shrinks_to_nothing(tmp_path: Path) -> None:
    search, files = small(), FILES | {"measurements": MEASUREMENTS}
    lefts = []
    stages: tuple[Stage, ...] = ("planned", "begun", "chosen", "judged")
    for stage in stages:
        make_tree(tmp_path / stage, search, stage)
        lefts.append(survey(tmp_path / stage, search, files, SEEDS).left(SEEDS))
    jobs = [(left.samples, left.training_jobs, left.serving_jobs, left.contest_jobs, left.engine_starts) for left in lefts]
    assert jobs == sorted(jobs, reverse=True) and jobs[-1] == (0, 0, 0, 0, 0)
    assert jobs[2] == (2 * SEEDS * search.space.rungs.samples[-1], 2 * SEEDS, 0, 2 * SEEDS, 1)


def test_what_is_under_way_is_told_after_silence_and_then_ever_more_seldom(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> list[str]:
        now[0] += seconds
        return run.hear(run.terminal.tick())

    assert wait(1000) == [], "nothing is under way"
    log = tmp_path / "log"
    run.begin("measure_contest", log, "Measuring")
    log.write_text("12:00:01 measure_contest: 1 of 6: champion, a\n12:00:09 measure_contest: 2 of 6: standing, b\n12:00")
    assert [len(wait(59)), len(wait(2)), len(wait(119)), len(wait(2))] == [0, 1, 0, 1]
    assert run.said()[-1] == "under way for 0 s: measure_contest (2 of 6: standing, b)"
    run.log("from Snakemake", level=logging.WARNING)
    assert [len(wait(59)), len(wait(2))] == [0, 1], "what is said otherwise begins the silence anew"
    for _ in range(8):
        wait(10**6)
    assert [len(wait(16 * 60 - 1)), len(wait(2))] == [0, 1]
    run.finish()
    assert wait(10**6) == []
