"""On other machines no job is submitted or begun without an acknowledgement that names the run."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
from lib.config import Config
from lib.errors import UserError
from lib.spending import ACKNOWLEDGED, RUN_ID, require_acknowledged, require_jobs_acknowledged, tell_job


def job(spends: str | None, *, local: bool = False, **resources: Any) -> SimpleNamespace:
    return SimpleNamespace(name=f"{spends}_job", is_local=local, resources={"spends": spends, **resources})


JOBS = [job("train", gpu=4, device_hours="1.5"), job("train", gpu=4), job("serve"), job("train", local=True), job(None)]


def workflow(local_exec: bool = False, **settings: str) -> SimpleNamespace:
    """Return a workflow that is about to run jobs."""
    dag = SimpleNamespace(needrun_jobs=lambda: iter(JOBS))
    return SimpleNamespace(local_exec=local_exec, executor_settings=SimpleNamespace(**settings), dag=dag)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (
            {},
            "training not acknowledged: would run 2 x train_job with 8 GPUs, at least 1.5 device-hours; "
            "to let it run, name the run, add run_id=NAME ack_train=NAME to --config; serving not",
        ),
        (
            {"run_id": "r1", "ack_serve": "r1"},
            "training not acknowledged: would run 2 x train_job with 8 GPUs, at least 1.5 device-hours; "
            "to let it run, add ack_train=r1 to --config",
        ),
        ({"run_id": "r1", "ack_train": "r1", "ack_serve": "r0"}, "serving is acknowledged for 'r0', not for this run: would run 1 x serve"),
    ],
)
def test_what_is_not_acknowledged_is_refused_in_one_line_with_its_cost(given: dict[str, str], refused: str) -> None:
    with pytest.raises(UserError) as error:
        require_jobs_acknowledged(workflow(), Config(**given))
    assert str(error.value).startswith(refused) and "\n" not in str(error.value)


def test_what_is_acknowledged_or_runs_here_or_has_an_executor_that_asks_is_let_through() -> None:
    require_jobs_acknowledged(workflow(), Config(run_id="r1", ack_train="r1", ack_serve="r1"))
    require_jobs_acknowledged(workflow(local_exec=True), Config())
    require_jobs_acknowledged(workflow(run_id="r1"), Config())


@pytest.mark.parametrize(
    ("given", "train", "serve"),
    [
        ({}, False, False),
        ({"ack_train": "r1", "ack_serve": "r1"}, False, False),
        ({"run_id": "r1", "ack_train": "r1"}, True, False),
        ({"run_id": "r1", "ack_train": "r0", "ack_serve": "r1"}, False, True),
    ],
)
def test_a_job_on_another_machine_asks_again(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], train: bool, serve: bool) -> None:
    monkeypatch.setattr(os, "environ", {})
    require_acknowledged("train")
    tell_job(Config(**given))
    for spends, allowed in (("train", train), ("serve", serve), (None, True)):
        if allowed:
            require_acknowledged(spends)
        else:
            with pytest.raises(UserError, match=f"ack_{spends} = .* does not acknowledge run_id = "):
                require_acknowledged(spends)


def test_what_an_executor_has_told_a_job_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {RUN_ID: "r1", ACKNOWLEDGED["train"]: "r1", ACKNOWLEDGED["serve"]: ""}
    monkeypatch.setattr(os, "environ", dict(told))
    tell_job(Config(run_id="r2", ack_serve="r1"))
    assert os.environ == told
