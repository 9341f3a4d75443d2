"""The gate distinguishes a better head from a lucky one, and reports when it cannot."""

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.verdict.gate import Judgement, judge, prompt_interval, seeds_to_tell
from scipy import stats

Lengths = Sequence[Sequence[float]]
CLEAR: Lengths = [[2.51, 2.49], [2.52, 2.50], [2.50, 2.48]]
STANDING: Lengths = [[2.40, 2.42], [2.41, 2.39], [2.43, 2.41]]
MIXED: Lengths = [[2.30, 2.32], [2.60, 2.58], [2.44, 2.46]]
HAIR: Lengths = [[2.421, 2.420], [2.419, 2.421], [2.420, 2.420]]
HAIR_LESS: Lengths = [[2.411, 2.410], [2.409, 2.411], [2.410, 2.410]]
NOISE = "no improvement (within noise)"

lengths = st.floats(min_value=1.0, max_value=8.0).map(lambda value: round(value, 3))
sides = st.lists(st.lists(lengths, min_size=1, max_size=3), min_size=2, max_size=5)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def judged(champion: Lengths, standing: Lengths, confidence: float = 0.95, smallest_effect: float = 0.02) -> Judgement:
    return judge(champion, standing, confidence=confidence, smallest_effect=smallest_effect)


@pytest.mark.parametrize(
    ("champion", "standing", "smallest_effect", "outcome", "reason"),
    [
        (CLEAR, STANDING, 0.02, "improvement", "lies above zero and the effect +0.0900 is no smaller"),
        (STANDING, CLEAR, 0.02, "regression", "lies below zero and the effect -0.0900 is no smaller"),
        (CLEAR, STANDING, 0.09, "improvement", "no smaller than the smallest of interest, 0.09"),
        (CLEAR, STANDING, 0.1, NOISE, "lies above zero, but the effect +0.0900 is smaller"),
        (HAIR, HAIR_LESS, 0.02, NOISE, "lies above zero, but the effect +0.0100 is smaller"),
        (HAIR, HAIR_LESS, 0.0, "improvement", "lies above zero"),
        (HAIR_LESS, HAIR, 0.02, NOISE, "lies below zero, but the effect -0.0100 is smaller"),
        (MIXED, STANDING, 0.02, NOISE, "includes zero"),
        (STANDING, STANDING, 0.0, NOISE, "of the effect +0.0000 includes zero"),
        ([[1.0]] * 3, [[1.0]] * 3, 0.0, NOISE, "[+0.0000, +0.0000] of the effect +0.0000 includes zero"),
        ([[1.1]] * 3, [[1.0]] * 3, 0.02, "improvement", "[+0.1000, +0.1000] lies above zero"),
        ([[1.0]] * 3, [[1.1]] * 3, 0.02, "regression", "[-0.1000, -0.1000] lies below zero"),
        (CLEAR[:1], STANDING, 0.02, "insufficient data", "the champion has 1, the standing configuration 3"),
        (CLEAR, STANDING[:1], 0.02, "insufficient data", "the champion has 3, the standing configuration 1"),
        (CLEAR, [], 0.02, "insufficient data", "the champion has 3, the standing configuration 0"),
    ],
)
def test_decisions(champion: Lengths, standing: Lengths, smallest_effect: float, outcome: str, reason: str) -> None:
    judgement = judged(champion, standing, smallest_effect=smallest_effect)
    assert judgement.outcome == outcome
    assert reason in judgement.reason


def test_more_confidence_asks_for_more() -> None:
    assert judged(CLEAR, STANDING, confidence=0.99).outcome == "improvement"
    stricter = judged(CLEAR, STANDING, confidence=0.9999)
    assert (stricter.outcome, stricter.interval_level) == (NOISE, 0.9998)


def test_the_numbers_are_welch_by_formula() -> None:
    one, other = np.mean(MIXED, axis=1), np.mean(STANDING, axis=1)
    errors = np.var(one, ddof=1) / 3, np.var(other, ddof=1) / 3
    error = math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / 2 + errors[1] ** 2 / 2)
    effect = one.mean() - other.mean()
    reach = stats.t.ppf(0.95, freedom) * error
    judgement = judged(MIXED, STANDING)
    assert judgement.effect == pytest.approx(effect)
    assert judgement.relative_effect == pytest.approx(effect / other.mean())
    assert judgement.interval == pytest.approx((effect - reach, effect + reach))
    assert judgement.interval_level == 0.9
    assert judgement.p_improvement == pytest.approx(stats.t.sf(effect / error, freedom))
    assert judgement.p_regression == pytest.approx(stats.t.cdf(effect / error, freedom))
    assert judgement.hedges_g == pytest.approx(
        effect / math.sqrt((np.var(one, ddof=1) + np.var(other, ddof=1)) / 2) * math.gamma(2) / math.sqrt(2) / math.gamma(1.5)
    )
    assert (judgement.champion.n, judgement.standing.n) == (3, 3)
    assert judgement.champion.mean == pytest.approx(one.mean())
    assert judgement.champion.std == pytest.approx(np.std(one, ddof=1))


def test_repeats_of_a_seed_are_no_further_evidence() -> None:
    many = [list(repeats) * 10 for repeats in MIXED]
    assert judged(many, STANDING) == judged(MIXED, STANDING)


def test_a_record_reads_back() -> None:
    judgement = judged(CLEAR, STANDING)
    assert Judgement.model_validate_json(judgement.model_dump_json()) == judgement


def test_a_single_seed_gives_an_effect_without_its_noise() -> None:
    judgement = judged([[2.5, 2.7]], STANDING)
    assert judgement.effect == pytest.approx(2.6 - 2.41)
    assert judgement.champion.std is judgement.interval is judgement.p_improvement is judgement.hedges_g is None


def test_without_a_seed_there_is_no_effect() -> None:
    judgement = judged([], STANDING)
    assert judgement.effect is judgement.relative_effect is judgement.champion.mean is None


@pytest.mark.parametrize("value", [1.0, 1.3, 2.0 + 1 / 3, math.pi])
def test_heads_without_any_spread_give_a_point_whatever_their_number(value: float) -> None:
    judgement = judged([[value] * 3] * 7, [[value]] * 3, smallest_effect=0.0)
    assert (judgement.effect, judgement.interval, judgement.outcome) == (0.0, (0.0, 0.0), NOISE)
    assert (judgement.p_improvement, judgement.p_regression, judgement.hedges_g) == (0.5, 0.5, None)


def test_one_side_may_lack_spread() -> None:
    judgement = judged(MIXED, [[1.0]] * 3)
    assert judgement.outcome == "improvement"
    assert judgement.interval is not None and judgement.interval[0] > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.99, -1.0])
def test_what_is_no_acceptance_length_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not an acceptance length"):
        judged([[2.4, value], [2.5]], STANDING)
    with pytest.raises(ValueError, match="is not an acceptance length"):
        prompt_interval([[2.4, value]], [[2.0, 2.0]], level=0.9)


def test_a_seed_without_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one data point"):
        judged([[], [2.5]], STANDING)


@pytest.mark.parametrize(
    ("confidence", "smallest_effect", "key"),
    [
        (0.5, 0.02, "confidence"),
        (1.0, 0.02, "confidence"),
        (math.nan, 0.02, "confidence"),
        (0.95, -0.1, "smallest_effect"),
        (0.95, math.nan, "smallest_effect"),
    ],
)
def test_options_out_of_range_are_refused_by_name(confidence: float, smallest_effect: float, key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} is "):
        judged(CLEAR, STANDING, confidence, smallest_effect)


@given(sides, sides)
def test_outcome_and_interval_never_disagree(champion: Lengths, standing: Lengths) -> None:
    judgement = judged(champion, standing)
    assert judgement.interval is not None and judgement.effect is not None
    low, high = judgement.interval
    assert low <= judgement.effect + 1e-9 and judgement.effect - 1e-9 <= high
    assert (judgement.outcome == "improvement") == (low > 0 and judgement.effect >= 0.02)
    assert (judgement.outcome == "regression") == (high < 0 and judgement.effect <= -0.02)


@given(sides, sides)
def test_swapping_the_sides_mirrors_everything(champion: Lengths, standing: Lengths) -> None:
    there, back = judged(champion, standing), judged(standing, champion)
    mirrored = {"improvement": "regression", "regression": "improvement", NOISE: NOISE}
    assert there.interval is not None and back.interval is not None and there.effect is not None
    assert back.outcome == mirrored[there.outcome]
    assert back.effect == -there.effect
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-9)
    assert back.p_improvement == pytest.approx(there.p_regression, abs=1e-9)


@given(sides, sides, st.integers(min_value=1, max_value=4))
def test_a_constant_added_to_both_sides_changes_nothing(champion: Lengths, standing: Lengths, constant: int) -> None:
    def shifted(side: Lengths) -> Lengths:
        return [[value + constant for value in repeats] for repeats in side]

    before, after = judged(champion, standing), judged(shifted(champion), shifted(standing))
    assert after.outcome == before.outcome
    assert after.effect == pytest.approx(before.effect, abs=1e-9)
    assert after.interval == pytest.approx(before.interval, abs=1e-6)


@given(sides)
def test_an_arm_is_no_better_than_itself(side: Lengths) -> None:
    judgement = judged(side, side, smallest_effect=0.0)
    assert (judgement.effect, judgement.outcome) == (0.0, NOISE)


def test_false_improvements_stay_within_the_error_allowed() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(2.5, 0.03, (500, 2, 5, 1)).tolist()
    false = sum(judged(*draw, smallest_effect=0.0).outcome == "improvement" for draw in draws)
    assert stats.binomtest(false, 500, 0.05).pvalue > 0.001


def test_prompts_are_paired_and_averaged_over_seeds() -> None:
    rng = np.random.default_rng(1)
    easy = rng.uniform(1.5, 6.0, 80)
    gain = rng.normal(0.2, 0.1, 80)
    low, high = prompt_interval([easy + gain + 0.1, easy + gain - 0.1, easy + gain], [easy, easy], level=0.9)
    error = gain.std(ddof=1) / math.sqrt(80)
    assert (low, high) == pytest.approx((gain.mean() - 1.645 * error, gain.mean() + 1.645 * error), abs=0.005)


def test_the_prompt_interval_depends_on_its_seed_alone_and_mirrors_with_the_sides() -> None:
    one, other = [[2.0, 2.5, 3.0, 2.2]], [[1.9, 2.6, 2.7, 2.0]]
    low, high = prompt_interval(one, other, level=0.9, seed=3)
    assert (low, high) == prompt_interval(one, other, level=0.9, seed=3)
    assert prompt_interval(other, one, level=0.9, seed=3) == pytest.approx((-high, -low))


def test_a_gain_alike_on_every_prompt_does_not_hang_on_them() -> None:
    assert prompt_interval([[2.0, 3.0, 4.0]], [[1.5, 2.5, 3.5]], level=0.9) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("champion", "standing"),
    [([[2.0, 2.1]], [[2.0, 2.1, 2.2]]), ([[2.0, 2.1], [2.0]], [[2.0, 2.1]]), ([], [[2.0, 2.1]]), ([[2.0]], [[2.0]])],
)
def test_prompts_that_do_not_pair_up_are_refused(champion: Lengths, standing: Lengths) -> None:
    with pytest.raises(ValueError):
        prompt_interval(champion, standing, level=0.9)


def test_the_seeds_an_effect_would_take_are_the_fewest_that_pass_at_the_same_spread() -> None:
    """Two seeds a side, each side spread by 0.1 * sqrt(2) about its mean: the effect of 0.2 passes with a handful more."""
    seen = judge([[2.3], [2.1]], [[2.1], [1.9]], confidence=0.95, smallest_effect=0.02)
    needed = seeds_to_tell(seen)
    assert needed is not None and seen.outcome == "no improvement (within noise)"
    for n, passes in ((needed - 1, False), (needed, True)):
        half = stats.t.ppf(0.95, 2 * n - 2) * math.sqrt(2 * 0.02 / n)
        assert bool(half < 0.2) is passes


@pytest.mark.parametrize(
    ("champion", "standing"),
    [
        ([[2.5], [2.51]], [[2.0], [2.01]]),  # passed
        ([[2.0], [1.8]], [[2.1], [1.9]]),  # behind
        ([[2.21], [2.0]], [[2.2], [2.0]]),  # too small to matter
        ([[2.5]], [[2.0], [2.01]]),  # the spread is not known
    ],
)
def test_more_seeds_are_advised_only_where_they_could_tell(champion: list[list[float]], standing: list[list[float]]) -> None:
    assert seeds_to_tell(judge(champion, standing, confidence=0.95, smallest_effect=0.02)) is None
