"""Proposals, and the names decisions are filed under."""

from pathlib import Path

import pytest
import yaml
from lib.config import Config, Space, load_space
from lib.errors import UserError
from lib.search.cohort import decide
from lib.search.promotion import Score
from lib.search.search import Search
from lib.space import infeasible

SPACE = yaml.safe_load((Path(__file__).parents[3] / "config/spaces/eagle3-draft.yaml").read_text())
FINITE = SPACE["parameters"] | {"lr": [1e-4, 3e-4, 1e-3, 3e-3]}


def search(*, seed: int = 0, top_k: int = 2, training: dict | None = None, recipe: dict | None = None, **space) -> Search:
    config = Config.model_validate({"training": training or {}})
    return Search(Space.model_validate(SPACE | space), config.training, seed, recipe or {"target": "t"}, top_k)


def arms(one: Search) -> list[str]:
    return [arm for proposal in one.proposals.values() for arm in proposal]


@pytest.mark.parametrize("parameters", [SPACE["parameters"], FINITE], ids=["range", "finite"])
def test_proposals_are_repeatable_distinct_and_feasible(parameters) -> None:
    one = search(parameters=parameters)
    assert arms(one) == arms(search(parameters=parameters))
    assert arms(one) != arms(search(parameters=parameters, seed=1))
    assert len(set(arms(one))) == len(arms(one)) == sum(bracket.sizes[0] for bracket in one.brackets)
    for proposal in one.proposals.values():
        assert all(infeasible(point, one.space, one.training) is None for point in proposal.values())


def test_an_infeasible_corner_of_the_space_is_never_proposed() -> None:
    one = search(parameters=SPACE["parameters"] | {"accum": [1, 4]})
    batches = {(point.global_batch, point.accum) for proposal in one.proposals.values() for point in proposal.values()}
    assert batches <= {(4, 1), (4, 4), (8, 4), (16, 4)}


def test_a_small_space_is_proposed_whole_and_once() -> None:
    one = search(parameters={"global_batch": [4, 8], "lr": [1e-3], "warmup": [0.0]})
    assert len(arms(one)) == 2
    one.check()


def test_a_changed_value_of_a_finite_space_leaves_most_other_arms_in_place() -> None:
    before = set(arms(search(parameters=FINITE)))
    after = set(arms(search(parameters=FINITE | {"lr": [1e-4, 3e-4, 1e-3, 5e-3]})))
    untouched = {arm for arm in before if "-lr3e-3-" not in arm}
    assert len(untouched & after) >= 0.8 * len(untouched)


def test_decisions_are_filed_by_what_they_depend_on() -> None:
    one = search()
    for other in (search(seed=1), search(recipe={"target": "u"}), search(proxy="chain"), search(training={"micro_batch_limit": 2})):
        assert other.id != one.id
    for other in (search(top_k=1), search(standing=SPACE["standing"] | {"lr": 1e-3})):
        assert other.id != one.id and arms(other) == arms(one), "new decisions, the same arms"
    assert Search.from_description(one.describe()) == one
    with pytest.raises(UserError, match="belongs to another search"):
        one.bracket_of("s2-ffffff")


def test_cohort_records_say_what_was_kept_and_dropped_and_why() -> None:
    one = search()
    bracket = one.brackets[0]
    first = decide(one, one.folder(bracket), 0, [])
    assert first["arms"] == list(first["points"]) and len(first["arms"]) == 9
    scores = [Score(arm, "ok", 0.1 * rank) for rank, arm in enumerate(first["arms"])]
    second = decide(one, one.folder(bracket), 1, scores)
    assert second["arms"] == first["arms"][:-4:-1]
    assert set(second["arms"]) | set(second["dropped"]) == set(first["arms"])
    final = decide(one, one.finalists_folder, 2, scores)
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
    ],
)
def test_a_space_that_cannot_be_trained_is_refused(change, line) -> None:
    with pytest.raises(UserError, match=line):
        search(**change).check()


def test_every_shipped_space_can_be_searched() -> None:
    for path in (Path(__file__).parents[3] / "config/spaces").glob("*.yaml"):
        Search(load_space(path), Config().training, 0, {}, 2).check()
