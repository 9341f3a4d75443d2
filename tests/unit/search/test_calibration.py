"""Calibration of proxies: rank correlations over configurations with intervals, or a statement that the data are too few."""

import itertools
import json
import math
from typing import Any

import pandas as pd
import pytest
from lib.search.calibration import CONFIGURATION, Calibration, calibrate, configurations, interval, recommend

RECIPE = {"target": "t", "rungs": [8, 24]}


def rows(
    lr: float, accuracies: list[float], length: float, *, seed: int = 0, recipe: dict | None = None, draft_tokens: int = 3, **context: str
) -> list[dict[str, Any]]:
    """Return the ledger's rows of one arm: the rung below, at which it looks bad, the top rung, the serving."""
    names = {"arm": f"{lr}-{seed}-{recipe}", "recipe": json.dumps(recipe or RECIPE, sort_keys=True), "status": "ok"}
    point = dict.fromkeys(CONFIGURATION, math.nan) | {"global_batch": 8, "lr": lr, "warmup": 0.0, "accumulation": 2, "seed": seed}
    same = names | point | {"context.stack.vllm": "1"} | context
    below = same | {"kind": "proxy", "rung": 0, "accuracies": [0.0, 0.0, 0.0]}
    top = same | {"kind": "proxy", "rung": 1, "accuracies": accuracies, "context.hardware.host": str(lr)}
    head = {"context.identity.head.path": names["arm"]}
    return [below, top, same | head | {"kind": "serving", "acceptance_length": length, "asked": {"draft_tokens": draft_tokens}}]


def table(*arms: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(itertools.chain(*arms)))


def spearman(pairs: list[tuple[float, float]]) -> float:
    """Compute Spearman's correlation from its definition: Pearson's on ranks, ties sharing their mean rank."""

    def ranks(values: tuple[float, ...]) -> list[float]:
        return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values]

    first, second = map(ranks, zip(*pairs, strict=True))
    mean = (len(pairs) + 1) / 2
    dot = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.1, 1.2), (0.2, 1.1), (0.3, 1.5), (0.4, 1.4), (0.5, 1.9)],
        [(0.1, 1.2), (0.2, 1.2), (0.2, 1.5), (0.4, 1.4), (0.5, 1.9), (0.6, 1.9)],  # ties on both sides
    ],
)
def test_the_correlation_and_its_interval_are_those_of_an_independent_computation(pairs: list[tuple[float, float]]) -> None:
    arms = [rows(1e-3 * (number + 1), [acc0, 0.5, 0.5], length) for number, (acc0, length) in enumerate(pairs)]
    acc0 = calibrate(table(*arms), 3, RECIPE)[0]
    rho, n = spearman(pairs), len(pairs)
    half = 1.959963985 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    assert acc0.correlation == pytest.approx(rho)
    assert acc0.interval == pytest.approx((math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)))
    assert (acc0.proxy, acc0.n, acc0.rigor) == ("acc0", n, "DRAFT")
    assert f"over {n} configurations (DRAFT)" in acc0.evidence


def test_seeds_of_two_configurations_are_two_points_however_many_there_are() -> None:
    arms = [rows(lr, [lr * 100 + seed / 100] * 3, 1 + lr * 100 + seed / 50, seed=seed) for lr in (1e-3, 3e-3) for seed in range(10)]
    for calibration in calibrate(table(*arms), 3, RECIPE):
        assert (calibration.n, calibration.correlation, calibration.interval) == (2, None, None)
        assert calibration.evidence.endswith("insufficient data (2 of 5 configurations measured)")
    points = configurations(table(*arms), 3, RECIPE)
    assert points["acc0"].tolist() == pytest.approx([0.1 + 0.045, 0.3 + 0.045])


def test_a_perfect_correlation_still_has_an_interval_that_narrows_with_n() -> None:
    arms = [rows(1e-3 * step, [0.1 * step] * 3, 1 + 0.2 * step) for step in range(1, 6)]
    acc0 = calibrate(table(*arms), 3, RECIPE)[0]
    assert acc0.correlation == pytest.approx(1)
    assert acc0.interval is not None
    assert 0 < acc0.interval[0] < acc0.interval[1] < 1
    assert interval(1.0, 5)[0] < interval(1.0, 20)[0]
    assert interval(-1.0, 5) == pytest.approx((-interval(1.0, 5)[1], -interval(1.0, 5)[0]))


def test_nothing_measured_and_nothing_to_rank_are_said_and_not_computed() -> None:
    nothing = Calibration("acc0", 0, None, None, "acc0: insufficient data (0 of 5 configurations measured)")
    assert calibrate(pd.DataFrame(), 3, RECIPE)[0] == nothing
    alike = [rows(1e-3 * step, [0.5] * 3, 1 + 0.2 * step) for step in range(1, 6)]
    assert calibrate(table(*alike), 3, RECIPE)[0].evidence == "acc0: all 5 configurations are alike, nothing to rank"


def test_recipes_contexts_and_numbers_of_draft_tokens_are_not_mixed() -> None:
    mine = [rows(1e-3 * step, [0.1 * step] * 3, 1 + 0.2 * step) for step in range(1, 6)]
    strangers = [
        rows(6e-3, [0.9] * 3, 1.0, recipe={"target": "other", "rungs": [8, 24]}),
        rows(7e-3, [0.9] * 3, 1.0, draft_tokens=4),
        rows(8e-3, [0.9] * 3, 1.0, **{"context.stack.vllm": "2"}),
    ]
    assert calibrate(table(*mine, *strangers), 3, RECIPE) == calibrate(table(*mine), 3, RECIPE)


def misled(n: int) -> pd.DataFrame:
    """Return a ledger in which the first position is noise and the chain tells everything."""
    arms = []
    for step in range(n):
        acc0 = 0.5 + 0.01 * (step * 7 % n)
        later = (0.2 + 0.05 * step) / acc0
        arms.append(rows(1e-3 * (step + 1), [acc0, later, 0.0], 1 + acc0 + acc0 * later))
    return table(*arms)


def test_a_proxy_is_recommended_only_where_the_configurations_tell_them_apart() -> None:
    assert recommend(misled(12), 3, RECIPE) == "chain"
    assert recommend(misled(7), 3, RECIPE) is None  # too few to resample
    alike = [rows(1e-3 * step, [0.05 * step] * 3, 1 + 0.1 * step) for step in range(1, 13)]
    assert recommend(table(*alike), 3, RECIPE) is None
