"""The simulation of the gate reproduces the committed rates, and its noise has the stated size."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.verdict.run import ARMS, GAINS, HERE, LENGTH, SEEDS, figure, measure, rate, search, settings, simulate, tables

COMMITTED: dict[str, Any] = json.loads((HERE / "result.json").read_text())
RATES = ("naive_win", "improvement", "improvement_of_the_better_arm", "regression", "better_arm_chosen")


def committed(arms: int, seeds: int, gain: float) -> dict[str, Any]:
    return next(cell for cell in COMMITTED["cells"] if (cell["arms"], cell["seeds"], cell["gain"]) == (arms, seeds, gain))


@pytest.mark.parametrize(("arms", "seeds", "gain"), [(4, 3, 0.0), (8, 2, 0.05), (4, 3, 0.1)])
def test_a_few_searches_give_the_committed_rates_within_error(arms, seeds, gain):
    few, many = simulate(arms, seeds, gain, 300), committed(arms, seeds, gain)
    for name in RATES:
        assert binomtest(round(300 * few[name]["rate"]), 300, many[name]["rate"]).pvalue > 0.001, name


def test_the_committed_result_is_of_these_settings_and_every_cell():
    assert COMMITTED["settings"] == settings()
    assert [(cell["gain"], cell["arms"], cell["seeds"]) for cell in COMMITTED["cells"]] == [
        (gain, arms, seeds) for gain in GAINS for arms in ARMS for seeds in SEEDS
    ]
    assert (HERE / "results.md").read_text() == tables(COMMITTED)


@pytest.mark.parametrize("cell", [cell for cell in COMMITTED["cells"] if cell["gain"] == 0])
def test_without_a_better_arm_the_gate_keeps_the_error_allowed_and_the_naive_choice_does_not(cell):
    assert cell["improvement"]["high"] <= 1 - COMMITTED["settings"]["confidence"]
    assert cell["naive_win"]["low"] < cell["arms"] / (cell["arms"] + 1) < cell["naive_win"]["high"]


def test_repeats_share_the_noise_of_their_seed():
    lengths = measure(np.random.default_rng(0), np.full(20_000, LENGTH), seeds=2)
    assert lengths.shape == (20_000, 2, 2)
    assert lengths.mean() == pytest.approx(LENGTH, abs=0.001)
    assert lengths.std() == pytest.approx(0.0361, rel=0.02)
    assert np.cov(lengths[:, 0, 0], lengths[:, 0, 1])[0, 1] == pytest.approx(0.0004, rel=0.1)
    assert np.cov(lengths[:, 0, 0], lengths[:, 1, 0])[0, 1] == pytest.approx(0.0, abs=0.00005)


def test_an_arm_far_ahead_is_found_and_wins():
    leads, wins = search(np.random.default_rng(0), 4, 1.0, 50)
    assert set(leads) == {1.0}
    assert wins.all()


def test_a_rate_carries_its_exact_interval():
    assert rate(np.zeros(100, bool)) == {"rate": 0.0, "low": 0.0, "high": 0.03622}


def test_the_figure_shows_every_number_of_arms():
    assert [panel["layer"][2]["title"] for panel in figure(COMMITTED).to_dict()["hconcat"]] == ["best of 4 arms", "best of 8 arms"]
