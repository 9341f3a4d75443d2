"""The upper bound of a search's work, and budgets."""

from dataclasses import replace

import pytest
from lib.config import STRATEGIES, Budget
from lib.errors import UserError
from lib.search.replay import replay
from lib.search.work import Pace, check_budget, upper_bound

from tests.unit.search.searches import FINITE, make_search, measured
from tests.unit.search.test_priors import prior

TINY = {"global_batch": [4, 8], "lr": [1e-3], "warmup": [0.0]}
PRIORS = (
    *(prior(0, 0.9 - lr, lr=lr) for lr in (2e-3, 6e-3, 7e-3, 8e-3)),
    prior(1, 0.8, lr=5e-3),
    prior(2, 0.9, lr=4e-3),
    prior(0, 0.5, lr=4e-3),
)
PACE = Pace(per_sample=0.5, per_job=10.0, per_serving=60.0, source="here", per_start=30.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("space", [FINITE, TINY], ids=["full brackets", "brackets not filled"])
@pytest.mark.parametrize("priors", [(), PRIORS], ids=["no priors", "priors"])
def test_no_search_takes_more_than_its_upper_bound(strategy: str, priors: tuple, space: dict) -> None:
    one = make_search(strategy, parameters=space, priors=priors, top_k=1)
    result, bound = replay(one, measured), upper_bound(one, 0, 1)
    trained = {arm for arm, _ in result.scores} | {arm.id for arm in result.finalists}
    assert result.samples + one.space.rungs.samples[-1] <= bound.samples
    assert len(result.scores) + 1 <= bound.training_jobs
    assert len(trained) + 1 <= bound.arms
    if (
        not priors and space is FINITE
    ):  # nothing is promoted that might not have been: the bound is what happens, but for batches that do not fill a cap
        assert result.samples + one.space.rungs.samples[-1] == bound.samples
        assert len(result.scores) + 1 == bound.training_jobs


def test_the_shipped_search_costs_what_a_hand_count_gives() -> None:
    """s2 9x64 + 3x128 + 1x384, s1 3x192 + 1x384, s0 3x576, the standing configuration 576; the verdict 2x3 of 576."""
    work = upper_bound(make_search(), 0, 1)
    assert (work.samples, work.training_jobs, work.serving_jobs, work.contest_jobs, work.arms) == (4608, 21, 3, 0, 16)
    assert work.engine_starts == 1
    assert PACE.device_hours(work) == pytest.approx((4608 * 0.5 + 21 * 10 + 3 * 60 + 30 + 60) / 3600), "a start and a check for three heads"
    judged = upper_bound(make_search(), 3, 2)
    assert (judged.samples, judged.training_jobs, judged.serving_jobs, judged.contest_jobs, judged.arms) == (4608 + 6 * 576, 27, 3, 6, 22)
    assert judged.engine_starts == 3, "two of the selection, one of the verdict"
    assert upper_bound(make_search(top_k=1), 0, 5).engine_starts == 2, "no more than heads"
    slower = replace(PACE, per_contest=100.0)
    assert slower.device_hours(judged) - PACE.device_hours(judged) == pytest.approx(6 * (100 - 60) / 3600)


@pytest.mark.parametrize(
    ("strategy", "budget", "pace", "line"),
    [
        (
            "hyperband",
            {"samples": 4000},
            None,
            r"budget.samples = 4,000 is less than the 4,608 .* set search.bracket = 0, .* 2,304 samples",
        ),
        ("hyperband", {"samples": 2000}, None, "raise it: not even the smallest search of this kind fits"),
        ("hyperband", {"samples": 600}, None, "raise it: not even the smallest search of this kind fits"),
        ("hyperband", {"arms": 10}, None, r"budget.arms = 10 is less than the 16 that this search may use; .* search.bracket = 0"),
        ("tpe", {"samples": 3000}, None, r"set search.arms = 4, the largest that fits, with 2,880 samples"),
        ("hyperband", {"device_hours": 0.1}, PACE, r"budget.device_hours = 0.1 is less than the 0.773 that"),
        ("hyperband", {"device_hours": 1}, None, r"budget.device_hours = 1 cannot be checked without known seconds; set cost"),
        ("grid", {"arms": 3}, None, "raise it, or choose strategy = 'hyperband' or fewer values"),
    ],
)
def test_a_search_over_budget_is_refused_with_what_would_fit(strategy: str, budget: dict, pace: Pace | None, line: str) -> None:
    one = make_search(strategy, **({"parameters": FINITE} if strategy == "grid" else {}))
    with pytest.raises(UserError, match=line) as refusal:
        check_budget(one, 0, 1, Budget.model_validate(budget), pace)
    assert "\n" not in str(refusal.value)


def test_a_search_within_its_budget_is_let_through_and_so_is_what_the_refusal_advises() -> None:
    check_budget(make_search(), 0, 1, Budget(samples=4608, arms=16, device_hours=1), PACE)
    check_budget(make_search(options={"bracket": 0}), 0, 1, Budget(samples=4000), None)
    check_budget(make_search("tpe", options={"arms": 4}), 0, 1, Budget(samples=3000), None)
