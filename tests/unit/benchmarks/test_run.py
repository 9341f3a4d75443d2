"""Outcomes become comparable numbers, and a worker's answers are read despite other output of its library."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks.search import ours
from benchmarks.search.run import HERE, LADDERS, METHODS, OURS, Outcomes, compact, interval, summarise
from benchmarks.search.worker import evaluate


def column(regrets: list[float], last: list[float] | None = None) -> dict[str, Any]:
    numbers: dict[str, list[float]] = {"regret": regrets, "samples": [1000.0] * len(regrets), "trials": [7.0] * len(regrets)}
    if last is not None:
        numbers |= {"last_regret": last, "last_samples": [2000.0] * len(last)}
    return {"versions": {"python": "3.11"}, "seconds": 1.0, "ladders": {str(len(ladder.samples)): numbers for ladder in LADDERS}}


OUTCOMES: Outcomes = {
    "one-rung": column([0.3, 0.5, 0.04], [0.1, 0.2, 0.0]),
    "random": column([0.2, 0.4, 0.0]),
}


def row(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in result["rows"] if row["row"] == name)


def test_rows_carry_means_paired_differences_and_the_share_near_the_best():
    result = summarise(OUTCOMES, "random")
    assert {row["row"] for row in result["rows"]} == {"random", "one-rung", "one-rung + last step"}
    one_rung = row(result, "one-rung")
    assert one_rung["regret"]["mean"] == pytest.approx(0.28)
    assert one_rung["difference"]["mean"] == pytest.approx(0.08)
    assert one_rung["difference"]["low"] < one_rung["difference"]["mean"] < one_rung["difference"]["high"]
    assert one_rung["near_best_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert row(result, "one-rung + last step")["samples_mean"] == 2000
    assert row(result, "random")["difference"] is None


def test_a_strategy_that_never_differs_from_the_reference_has_an_interval_of_no_width():
    assert interval(np.zeros(5)) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_unequal_numbers_of_surfaces_are_not_compared():
    with pytest.raises(SystemExit, match="numbers of surfaces differ"):
        summarise(OUTCOMES | {"ray-asha": column([0.1])}, "random")


def test_an_unknown_reference_is_answered_with_the_rows_there_are():
    with pytest.raises(SystemExit, match="one-rung, one-rung \\+ last step"):
        summarise(OUTCOMES, "ours")


def test_outcomes_are_written_compactly_and_whole():
    text = compact(OUTCOMES)
    assert json.loads(text) == OUTCOMES
    assert '"regret": [ 0.3, 0.5, 0.04 ]' in text


def test_a_worker_answers_in_lines_of_json():
    method = METHODS["random"]
    questions = [{"rungs": [64, 192, 576], "eta": 3, "seed": seed} for seed in (0, 1)]
    command = [sys.executable, "-m", "benchmarks.search.worker", method.target, *method.distributions]
    text = "".join(json.dumps(question) + "\n" for question in questions)
    lines = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    versions, *answers = [json.loads(line) for line in lines]
    assert versions["numpy"] == np.__version__
    assert [answer["samples"] % 576 for answer in answers] == [0, 0]
    assert all(0 <= answer["last_regret"] < 3 for answer in answers)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].target.startswith(OURS)])
def test_a_strategy_decides_as_in_the_recorded_runs(name: str) -> None:
    """On the first surfaces of the middle ladder. `python -m benchmarks.search.run --only NAME...` repeats all of them."""
    ladder, recorded = LADDERS[1], json.loads((HERE / "outcomes.json").read_text())[name]["ladders"]["4"]
    strategy = getattr(ours, METHODS[name].target.partition(":")[2])
    for seed in range(3):
        answer = evaluate(strategy, list(ladder.samples), ladder.eta, seed)
        assert answer == {key: column[seed] for key, column in recorded.items()}
