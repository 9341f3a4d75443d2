"""The verdict depends on the contest alone, and names its evidence."""

from typing import Any

import pytest
from lib.config import FIRST_FRESH_SEED, VerdictOptions
from lib.errors import UserError
from lib.records.measurement import ProxyRecord
from lib.verdict.contest import Contest, Measurements, make_contest
from lib.verdict.verdict import Verdict, give_verdict

from tests.unit.made_records import SERVED, arm, failed, proxy, serving

CHAMPION, STANDING = arm(1e-3), arm(5e-4)


def measured(contest: Contest, champion: list[Any], standing: list[Any]) -> Measurements:
    """Return the measurements of a contest: per side and seed a length, several for repeats, or None where training failed."""
    lengths = {"champion": iter(champion), "standing": iter(standing)}
    servings = []
    for side, one in contest.order():
        length = next(lengths[side])
        each = length if isinstance(length, tuple) else (length,)
        servings.append(failed(one.id) if length is None else serving(one.id, *each))
    return Measurements(champion=CHAMPION.id, standing=STANDING.id, order=[side for side, _ in contest.order()], servings=servings)


def trained(contest: Contest, **sections: dict[str, Any]) -> list[ProxyRecord]:
    """Return the training records of a contest, the first with keys of its context's sections changed."""
    first, *others = contest.arms
    return [proxy(first, **sections), *(proxy(name) for name in others)]


def verdict(champion: list[Any], standing: list[Any], **changes: Any) -> Verdict:
    contest = make_contest(CHAMPION, STANDING, len(champion), "s")
    measurements = changes.pop("measurements", None) or measured(contest, champion, standing)
    lost = {serving.arm for serving in measurements.servings if serving.status != "ok"}
    proxies = changes.pop("proxies", None) or [proxy(name, "diverged" if name in lost else "ok") for name in contest.arms]
    return give_verdict(contest, measurements, proxies, VerdictOptions(**changes), search="s")


@pytest.mark.parametrize(
    ("champion", "standing", "outcome"),
    [
        ([2.5, 2.52, 2.48], [2.0, 2.01, 1.99], "improvement"),
        ([2.0, 2.01, 1.99], [2.5, 2.52, 2.48], "regression"),
        ([2.5, 2.52, 2.48], [2.5, 2.52, 2.48], "no improvement (within noise)"),
        ([2.51, 2.512, 2.508], [2.5, 2.502, 2.498], "no improvement (within noise)"),
        ([2.5, None, 2.48], [2.0, 2.01, 1.99], "insufficient data"),
        ([2.5, 2.52, 2.48], [2.0, None, 1.99], "improvement"),
        ([2.5, None, None], [2.0, 2.01, 1.99], "insufficient data"),
        ([None, None, None], [2.0, 2.01, 1.99], "insufficient data"),
    ],
)
def test_outcomes(champion: list[Any], standing: list[Any], outcome: str) -> None:
    given = verdict(champion, standing)
    rigor = "DRAFT" if outcome == "insufficient data" else "VERDICT"
    assert (given.outcome, given.rigor) == (outcome, rigor)
    assert given.summary.startswith(f"{rigor}: {outcome}.")
    assert given.champion.n == sum(length is not None for length in champion)
    assert given.champion.failed == {} or "failed" in given.summary or "diverged" in given.summary
    assert set(given.champion.failed.values()) == ({"diverged: loss is nan"} if None in champion else set())


def test_repeats_are_averaged_within_their_seed() -> None:
    given = verdict([(2.4, 2.6), (2.42, 2.58)], [(2.0, 2.2), (2.02, 2.18)])
    assert given.champion.n == 2 and given.champion.mean == pytest.approx(2.5) and given.champion.std == pytest.approx(0, abs=1e-9)
    assert given.champion.acceptance_lengths[0] == [2.4, 2.6]


def test_a_verdict_carries_context_subsets_and_prompts() -> None:
    given = verdict([2.5, 2.52], [2.0, 2.01])
    assert given.context is not None
    grounding = given.context.grounding
    assert (grounding.level, grounding.n, grounding.baseline, grounding.node) == ("L4", 2, STANDING.id, "one")
    assert given.subsets["qa"].effect == pytest.approx(given.effect or 0)
    assert given.prompts is not None and given.prompts.n == 2
    assert "Global batch 8, lr 0.001, warmup 0 gives acceptance length 2.510 ± 0.014 (n = 2 seeds)" in given.summary
    assert "90% interval" in given.summary


def test_a_prompt_that_one_measurement_never_drafted_for_is_left_out_of_the_interval_over_prompts() -> None:
    contest = make_contest(CHAMPION, STANDING, 2, "s")
    known = measured(contest, [2.5, 2.51], [2.0, 2.01])
    drafted = {"qa": [2.5, 2.4, None, 2.6]}
    workload = SERVED["workload"] | {"subsets": {"qa": SERVED["workload"]["subsets"]["qa"] | {"num_prompts": 4}}}
    for lost, n in (([2.0, 2.0, 2.0, 2.0], 3), ([None, 2.0, 2.0, 2.0], 2), ([None, None, 2.0, 2.0], None)):
        each = [drafted, {"qa": lost}, drafted, drafted]
        servings = [
            serving(one.arm, one.acceptance_length or 0, prompt_acceptance=lengths, context=SERVED | {"workload": workload})
            for one, lengths in zip(known.servings, each, strict=True)
        ]
        given = verdict([2.5, 2.51], [2.0, 2.01], measurements=known.model_copy(update={"servings": servings}))
        assert (given.prompts and given.prompts.n) == n


def test_measurements_or_trainings_of_different_contexts_give_no_number() -> None:
    contest = make_contest(CHAMPION, STANDING, 2, "s")
    servings = measured(contest, [2.5, 2.51], [2.0, 2.01]).servings
    other = serving(servings[0].arm, 2.5, context=SERVED | {"stack": SERVED["stack"] | {"vllm": "0.33.0"}})
    mixed = Measurements(
        champion=CHAMPION.id, standing=STANDING.id, order=[side for side, _ in contest.order()], servings=[other, *servings[1:]]
    )
    for given, key in (
        (verdict([2.5, 2.51], [2.0, 2.01], measurements=mixed), "stack.vllm"),
        (verdict([2.5, 2.51], [2.0, 2.01], proxies=trained(contest, stack={"torch": "2.14.0"})), "stack.torch"),
    ):
        assert given.outcome == "not comparable" and key in given.reason
        assert given.effect is None and given.interval is None and not given.subsets


def test_the_contest_trains_with_seeds_no_search_uses_and_alternates_who_is_first() -> None:
    contest = make_contest(CHAMPION, STANDING, 3, "s")
    seeds = [one.seed for one in contest.champion]
    assert seeds == [one.seed for one in contest.standing] and min(seeds) >= FIRST_FRESH_SEED and len(set(seeds)) == 3
    assert [side for side, _ in contest.order()] == ["champion", "standing", "standing", "champion", "champion", "standing"]
    for other in (make_contest(CHAMPION, STANDING, 3, "another search"), make_contest(CHAMPION, STANDING, 4, "s")):
        assert not {one.seed for one in other.champion} & {*seeds}, "a second look is at trainings nobody has seen"
    assert len(make_contest(STANDING, STANDING, 3, "s").arms) == 3


def test_a_verdict_is_named_by_what_it_rests_on() -> None:
    one, same, other = verdict([2.5, 2.52], [2.0, 2.01]), verdict([2.5, 2.52], [2.0, 2.01]), verdict([2.5, 2.53], [2.0, 2.01])
    assert one.id == same.id != other.id
    assert one.id != verdict([2.5, 2.52], [2.0, 2.01], confidence=0.9).id


def test_a_head_that_was_trained_anew_after_it_was_measured_is_not_judged() -> None:
    contest = make_contest(CHAMPION, STANDING, 2, "s")
    first, *others = trained(contest)
    with pytest.raises(UserError, match="was retrained after the contest measured its head; delete the folder"):
        verdict([2.5, 2.52], [2.0, 2.01], proxies=[first.model_copy(update={"head_sha256": "1"}), *others])


def test_measurements_of_other_arms_or_in_another_order_are_refused() -> None:
    contest = make_contest(CHAMPION, STANDING, 2, "s")
    measurements = measured(contest, [2.5, 2.51], [2.0, 2.01])
    measurements.require(contest, CHAMPION.id, STANDING.id)
    other = make_contest(CHAMPION, STANDING, 2, "t")
    for held, champion in ((contest, STANDING.id), (other, CHAMPION.id)):
        with pytest.raises(UserError, match=r"the contest measured .* run again"):
            measurements.require(held, champion, STANDING.id)
    for spoiled in ({"order": ["champion"]}, {"servings": []}):
        with pytest.raises(ValueError, match="order names"):
            Measurements.model_validate(measurements.model_dump() | spoiled)
