"""The survey distinguishes running from waiting jobs from the moment of submission."""

import os
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from lib.controller import LOCK
from lib.errors import UserError
from lib.process import identity
from lib.report.status import status
from lib.report.survey import Jobs, survey

from tests.unit.report.test_figures import small
from tests.unit.report.trees import FILES, SEEDS, make_tree

MEASUREMENTS = "results/search/finalists/contest-1.json"


def standing(root: Path) -> Jobs:
    """Return how the training of the standing configuration stands."""
    found = survey(root, small(), FILES | {"measurements": MEASUREMENTS}, SEEDS)
    (jobs,) = [cohort.jobs for cohort in found.trainings if cohort.label == "standing"]
    assert jobs
    return jobs


def hold(root: Path) -> None:
    """Make this process the controller of a tree."""
    (root / "results" / LOCK).write_text(identity())


@pytest.fixture
def arm(tmp_path: Path) -> str:
    """A tree in which the standing configuration has not been trained; its arm, which is noted as begun."""
    make_tree(tmp_path, small(), "planned")
    search = small()
    notes = tmp_path / ".snakemake/incomplete"
    notes.mkdir(parents=True)
    path = f"results/{search.standing.id}/rung{search.top_rung}"
    for output in (f"{path}.acc", f"{path}.state"):
        (notes / urlsafe_b64encode(output.encode()).decode()).write_text("{}")
    (notes / "@of a name too long for one file").mkdir()
    return search.standing.id


def test_a_job_runs_from_its_submission_on_before_it_has_a_log(tmp_path: Path, arm: str) -> None:
    hold(tmp_path)
    assert standing(tmp_path).running == [arm]
    assert "Being prepared" not in status(tmp_path)
    note = urlsafe_b64encode(b"s3://bucket/run/resources/features/f/train").decode()
    (tmp_path / ".snakemake/incomplete" / note).write_text("{}")
    assert "\nBeing prepared for all arms: resources/features/f/train\n" in status(tmp_path)


@pytest.mark.usefixtures("arm")
def test_a_run_that_has_not_written_its_plan_is_no_folder_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "results/plan.json").unlink()
    with pytest.raises(UserError, match="no search has been started here; start one with make tune"):
        status(tmp_path)
    hold(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} is starting and has not written .*plan.json yet; try again in a moment"):
        status(tmp_path)


def test_without_a_controller_or_with_a_later_one_it_waits(tmp_path: Path, arm: str) -> None:
    assert standing(tmp_path).waiting == [arm]
    hold(tmp_path)
    for note in (tmp_path / ".snakemake/incomplete").iterdir():
        os.utime(note, (0, time.time() - 86400))
    assert standing(tmp_path).waiting == [arm]


def test_a_job_that_ended_with_an_error_is_broken_until_it_is_submitted_again(tmp_path: Path, arm: str) -> None:
    log = tmp_path / f"results/logs/train_rung/{arm}.rung{small().top_rung}.log"
    log.parent.mkdir(parents=True)
    log.write_text("12:00:01 a: error: the state is cut off\n")
    assert standing(tmp_path).broken == [arm]
    hold(tmp_path)
    assert standing(tmp_path).running == [arm]
