"""Names of decisions, decisions as records, and refused searches."""

import importlib.util
from pathlib import Path

import pytest
from lib.config import Config, Space, load_space
from lib.errors import UserError
from lib.search.cohort import decide
from lib.search.promotion import Score
from lib.search.search import Search
from lib.space import grid_points

from tests.unit.search.searches import FINITE, RECIPE, SPACE, make_search


def arms(one: Search) -> list[str]:
    return [arm for proposal in one.foreseen.values() for arm in proposal]


def test_proposals_of_the_shipped_space_are_pinned() -> None:
    """Decisions are filed under the search's identity: when this changes, SEARCH_VERSION must too."""
    one = make_search()
    assert one.id == "a75280"
    assert arms(one)[:2] == ["gb4-lr4.8e-3-wu0-s0-66cb456b", "gb4-lr8.21e-4-wu0-s0-72c1a5df"]
    assert make_search("tpe", parameters=SPACE["parameters"] | {"accum": [1, 2]}).id == "7c2740"


def test_an_infeasible_corner_of_the_space_is_never_proposed() -> None:
    one = make_search(parameters=SPACE["parameters"] | {"accum": [1, 4]})
    batches = {(point.global_batch, point.accum) for proposal in one.foreseen.values() for point in proposal.values()}
    assert batches <= {(4, 1), (4, 4), (8, 4), (16, 4)}


@pytest.mark.parametrize(
    ("parameters", "arms"),
    [
        ({"lr": {"low": 1e-3, "high": 1.03e-3, "scale": "log", "steps": 81}}, 4),  # 1.00, 1.01, 1.02 and 1.03e-3
        ({"global_batch": {"low": 4, "high": 6, "scale": "log", "steps": 9}}, 3),
    ],
)
def test_values_of_a_range_that_round_together_count_once(parameters: dict, arms: int) -> None:
    one = {"global_batch": [4], "lr": [1e-3], "warmup": [0.0]} | parameters
    points = grid_points(Space.model_validate(SPACE | {"parameters": one}).parameters)
    assert points is not None and len(points) == len(set(points)) == arms


def test_a_changed_value_of_a_finite_space_leaves_most_other_arms_in_place() -> None:
    before = set(arms(make_search(parameters=FINITE)))
    after = set(arms(make_search(parameters=FINITE | {"lr": [1e-4, 3e-4, 1e-3, 5e-3, 1e-2, 3e-2]})))
    untouched = {arm for arm in before if "-lr3e-3-" not in arm}
    assert len(untouched & after) >= 0.8 * len(untouched)


def test_decisions_are_filed_by_what_they_depend_on() -> None:
    one = make_search()
    others = [
        make_search(seed=1),
        make_search(recipe={"target": "u"}),
        make_search(proxy="chain"),
        make_search(training={"micro_batch_limit": 2}),
        make_search("random"),
        make_search(options={"bracket": 1}),
    ]
    assert len({one.id, *(other.id for other in others)}) == 1 + len(others)
    for other in (make_search(top_k=1), make_search(standing=SPACE["standing"] | {"lr": 1e-3})):
        assert other.id != one.id and arms(other) == arms(one), "new decisions, the same arms"
    assert Search.from_description(one.describe()) == one
    with pytest.raises(UserError, match="belongs to another search"):
        one.bracket_of("s2-ffffff")


def test_one_bracket_can_be_run_alone() -> None:
    one = make_search(options={"bracket": 1})
    assert [(bracket.label, bracket.sizes) for bracket in one.brackets] == [("s1", (3, 1))]
    assert arms(one) == list(make_search().foreseen["s1"])


def test_cohort_records_say_what_was_kept_and_dropped_and_why() -> None:
    one = make_search()
    bracket = one.brackets[0]
    first = decide(one, one.folder(bracket), 0, [], {})
    assert first["arms"] == list(first["points"]) and len(first["arms"]) == 9
    scores = [Score(arm, 0, "ok", 0.1 * rank) for rank, arm in enumerate(first["arms"])]
    second = decide(one, one.folder(bracket), 1, scores, {})
    assert second["arms"] == first["arms"][:-4:-1]
    assert set(second["arms"]) | set(second["dropped"]) == set(first["arms"])
    final = decide(one, one.finalists_folder, 2, scores, {})
    assert final["arms"] == first["arms"][:-3:-1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"standing": SPACE["standing"] | {"global_batch": 128}},
            "standing: global batch 128 takes no step to reach the rung of 64 samples",
        ),
        (
            {"parameters": SPACE["parameters"] | {"global_batch": [4, 128]}},
            "parameters.global_batch = 128: global batch 128 takes no step to reach the rung of 64 samples",
        ),
        ({"training": {"ranks": 3}}, "standing: global batch 8 is not a multiple of 3 ranks"),
        (
            {"parameters": SPACE["parameters"] | {"accum": [1], "global_batch": [16]}},
            "parameters.global_batch = 16: .* needs a micro-batch of 16, above the limit of 4",
        ),
        ({"rungs": {"samples": [64, 66, 128], "eta": 3}}, "standing: global batch 8 takes no step to reach the rung of 66 samples"),
        ({"strategy": "guess"}, "strategy = 'guess' is unknown; choose one of grid, hyperband, hyperband_tpe, random, tpe"),
        ({"strategy": "grid"}, "parameters.lr is a range without steps, which strategy = 'grid' cannot cover; give it steps"),
        ({"strategy": "grid", "options": {"arms": 3}, "parameters": FINITE}, "search.arms = 3 is not read by strategy = 'grid'; remove it"),
        ({"options": {"bracket": 3}}, "search.bracket = 3 does not exist on 3 rungs; choose from 0 to 2"),
        ({"top_k": 6}, "serving.top_k = 6 is more than the 5 arms that reach the top rung; lower it"),
        ({"strategy": "random", "options": {"arms": 1}}, "serving.top_k = 2 is more than the 1 arms that reach the top rung; lower it"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(change, line) -> None:
    with pytest.raises(UserError, match=line):
        make_search(**change).check()


def test_tpe_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else name)
    for strategy in ("tpe", "hyperband_tpe"):
        with pytest.raises(UserError, match=f"strategy = '{strategy}' needs optuna, which is not installed; run: pip install optuna"):
            make_search(strategy).check()


def test_every_shipped_space_can_be_searched() -> None:
    for path in (Path(__file__).parents[3] / "config/spaces").glob("*.yaml"):
        Search(load_space(path), Config().training, 0, RECIPE, 2).check()
