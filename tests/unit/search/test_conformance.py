"""The contract of all strategies, for every schedule and sampler. New strategies are included automatically."""

import itertools

import pytest
from lib.arm import Arm
from lib.config import STRATEGIES, Point
from lib.search.decisions import places
from lib.search.priors import Prior
from lib.search.promotion import Score
from lib.search.replay import replay
from lib.search.search import Search
from lib.space import grid_points, infeasible

from tests.unit.search.searches import FINITE, SPACE, STEPPED, make_search, measured

SPACES = {"range": SPACE["parameters"], "finite": FINITE, "stepped": STEPPED, "accum": FINITE | {"accum": [1, 2, 4]}}
CASES = [(strategy, space) for strategy, space in itertools.product(STRATEGIES, SPACES) if (strategy, space) != ("grid", "range")]

each = pytest.mark.parametrize(("strategy", "space"), CASES, ids=lambda value: value)


def search_of(strategy: str, space: str, **options: object) -> Search:
    return make_search(strategy, parameters=SPACES[space], **options)


def proposed(decisions: dict) -> list[str]:
    return [arm for decision in decisions.values() if "dropped" not in decision for arm in decision["points"]]


@each
def test_same_seed_same_arms_and_another_seed_others(strategy: str, space: str) -> None:
    first = replay(search_of(strategy, space), measured)
    assert replay(search_of(strategy, space), measured) == first
    if strategy != "grid":
        assert proposed(replay(search_of(strategy, space, seed=1), measured).decisions) != proposed(first.decisions)


@each
def test_proposals_are_feasible_points_of_the_space(strategy: str, space: str) -> None:
    one = search_of(strategy, space)
    grid = grid_points(one.space.parameters)
    for decision in replay(one, measured).decisions.values():
        for point in map(Point.model_validate, decision["points"].values()):
            assert infeasible(point, one.space, one.training) is None
            if grid is not None:
                assert point in grid
            else:
                lr = one.space.parameters.lr
                assert lr.low <= point.lr <= lr.high
                assert point.global_batch in one.space.parameters.global_batch.values
                assert point.warmup in one.space.parameters.warmup.values


@each
def test_no_arm_is_proposed_twice_and_brackets_are_filled(strategy: str, space: str) -> None:
    one = search_of(strategy, space)
    arms = proposed(replay(one, measured).decisions)
    assert len(set(arms)) == len(arms) == sum(bracket.sizes[0] for bracket in one.brackets)


@each
def test_resumed_after_any_decision_a_search_goes_on_as_it_would_have(strategy: str, space: str) -> None:
    """The decisions taken so far are files, and a search rebuilt from its description meets them with nothing else in mind."""
    one = search_of(strategy, space)
    whole = replay(one, measured)
    for done in range(len(whole.decisions)):
        again = Search.from_description(one.describe())
        assert replay(again, measured, dict(itertools.islice(whole.decisions.items(), done))) == whole


@each
def test_failed_arms_never_break_promotion(strategy: str, space: str) -> None:
    """Two arms in three fail at whatever rung: none of them is promoted, and if all fail the search still comes to its end."""

    def failing(arm: Arm, rung: int) -> Score:
        return measured(arm, rung) if int(arm.id[-8:], 16) % 3 == 0 else Score(arm.id, rung, "oom", None, "out of memory")

    result = replay(search_of(strategy, space), failing)
    failed = {arm for (arm, _), score in result.scores.items() if score.status != "ok"}
    assert failed
    for decision in result.decisions.values():
        if "dropped" in decision:
            assert not failed & set(decision["arms"])
    assert replay(search_of(strategy, space), lambda arm, rung: Score(arm.id, rung, "oom", None, "out of memory")).finalists == ()


@each
def test_ties_go_to_the_smaller_id(strategy: str, space: str) -> None:
    result = replay(search_of(strategy, space), lambda arm, rung: Score(arm.id, rung, "ok", 0.5))
    for decision in result.decisions.values():
        if "dropped" in decision:
            assert decision["arms"] == sorted(decision["scores"])[: len(decision["arms"])]


@each
def test_the_best_measured_at_the_top_are_the_finalists(strategy: str, space: str) -> None:
    one = search_of(strategy, space)
    result = replay(one, measured)
    at_top = {arm: score.value for (arm, rung), score in result.scores.items() if rung == one.top_rung and score.status == "ok"}
    assert [arm.id for arm in result.finalists] == sorted(at_top, key=lambda arm: (-at_top[arm], arm))[: one.top_k]


@each
def test_prior_arms_are_honoured(strategy: str, space: str) -> None:
    """A prior arm at the top rung is not proposed again and is a finalist when it is the best; a failed one is neither."""
    best, bad = Point(global_batch=4, lr=1e-3, warmup=0.0), Point(global_batch=8, lr=1e-2, warmup=0.0)
    if "accum" in SPACES[space]:
        best, bad = best.model_copy(update={"accum": 1}), bad.model_copy(update={"accum": 4})
    priors = (
        Prior(point=best, rung=2, samples=576, status="ok", value=0.99, reason=None, source="before", measured_on={}),
        Prior(point=bad, rung=2, samples=576, status="diverged", value=None, reason="loss is nan", source="before", measured_on={}),
    )
    one = search_of(strategy, space, priors=priors)
    result = replay(one, measured)
    known = {one.arm(best).id, one.arm(bad).id}
    assert not known & set(proposed(result.decisions))
    assert result.finalists[0].id == one.arm(best).id
    final = result.decisions[one.finalists_folder, one.top_rung]
    assert final["dropped"][one.arm(bad).id] == "diverged: loss is nan"
    assert final["scores"][one.arm(best).id]["prior"] == "before"
    assert Search.from_description(one.describe()).id == one.id != search_of(strategy, space).id


@each
def test_every_decision_waits_only_for_decisions_that_come_before_it(strategy: str, space: str) -> None:
    one = search_of(strategy, space)
    order = places(one)
    for index, place in enumerate(order):
        assert all(order.index(below) < index for below in one.below(*place))


def test_a_bracket_whose_space_is_used_up_takes_what_is_left() -> None:
    for strategy in STRATEGIES:
        one = make_search(strategy, parameters={"global_batch": [4, 8], "lr": [1e-3], "warmup": [0.0]}, top_k=1)
        one.check()
        assert len(proposed(replay(one, measured).decisions)) == 2


def test_strategies_that_do_not_need_optuna_do_not_import_it() -> None:
    """Asked in a fresh interpreter, as a user without optuna has it."""
    import subprocess
    import sys
    from pathlib import Path

    program = (
        "import sys; sys.modules['optuna'] = None; from tests.unit.search.searches import FINITE, make_search, measured; "
        "from lib.search.replay import replay; "
        "print([len(replay(make_search(name, parameters=FINITE), measured).finalists) for name in ('grid', 'random', 'hyperband')])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env={"PYTHONPATH": f"{root}/scripts:{root}"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[2, 2, 2]"
