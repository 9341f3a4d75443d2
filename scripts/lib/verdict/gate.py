"""The gate tests whether the champion is better than the standing configuration on fresh training seeds.

All lengths are acceptance lengths, 1 + accepted tokens / drafts, so none is below 1.
"""

import math
import warnings
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import special, stats

from lib.records.context import Record

Outcome = Literal["improvement", "regression", "no improvement (within noise)", "insufficient data", "not comparable"]

MOST_SEEDS = 100
"""Largest number of fresh seeds a side that is suggested."""

DIGITS = 12
"""Decimals of means and effects. Token counts resolve less, and equal measurements stay equal despite rounding errors."""


class Side(Record):
    """Statistics of one configuration over the means of its training seeds."""

    n: int = Field(ge=0, description="training seeds")
    mean: float | None = Field(description="acceptance length; null without a seed")
    std: float | None = Field(description="between training seeds, n - 1 in the denominator; null with fewer than two seeds")


class Ruling(Record):
    """The champion against the standing configuration, in acceptance length. A field is null where the data do not determine it."""

    outcome: Outcome
    reason: str = Field(description="why this outcome, in one sentence")
    effect: float | None = Field(description="mean of the champion minus mean of the standing configuration")
    relative_effect: float | None = Field(description="effect as a share of the standing configuration's mean")
    interval: tuple[float, float] | None = Field(description="two-sided interval of the effect")
    interval_level: float = Field(gt=0, lt=1, description="2 * confidence - 1, so each bound has the error rate of a one-sided test")
    p_improvement: float | None = Field(description="one-sided p value: probability of an effect this high or higher if there is none")
    p_regression: float | None = Field(description="one-sided p value: probability of an effect this low or lower if there is none")
    hedges_g: float | None = Field(description="effect in pooled standard deviations, corrected for few seeds; null without spread")
    smallest_effect: float = Field(ge=0, description="effects closer to zero than this are ignored")
    confidence: float = Field(gt=0.5, lt=1, description="one minus the error of each one-sided test")


class Judgement(Ruling):
    """A ruling with the numbers of both sides."""

    champion: Side
    standing: Side


def judge(
    champion: Sequence[Sequence[float]], standing: Sequence[Sequence[float]], *, confidence: float, smallest_effect: float
) -> Judgement:
    """Judge the champion by Welch's t-test on fresh training seeds.

    The training seed is the unit of replication. Repeats of a seed share a head, so they are averaged first.

    Args:
        champion: acceptance lengths, one sequence per training seed with one value per repeat.
        standing: the same for the standing configuration. The numbers of seeds and repeats may differ.
        confidence: one minus the error rate allowed for a false improvement, and for a false regression. Above 0.5.
        smallest_effect: smallest difference in acceptance length that counts.

    Raises:
        ValueError: a value is not an acceptance length, a seed has no repeats, or confidence or smallest effect is out of range.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0.5 and 1")
    if not 0 <= smallest_effect < math.inf:
        raise ValueError(f"smallest_effect is {smallest_effect}; it is zero or more")
    means, standing_means = _seed_means(champion), _seed_means(standing)
    ours, theirs = _side(means), _side(standing_means)
    effect = relative_effect = None
    if ours.mean is not None and theirs.mean is not None:
        effect = round(ours.mean - theirs.mean, DIGITS)
        relative_effect = effect / theirs.mean
    level = round(2 * confidence - 1, DIGITS)
    test, hedges_g = None, None
    if effect is not None and ours.std is not None and theirs.std is not None:
        test = _certain(effect) if ours.std == theirs.std == 0 else _welch(means, standing_means, level)
        hedges_g = _hedges_g(effect, (ours.n, ours.std), (theirs.n, theirs.std))
    if effect is None or test is None:
        outcome, reason = _too_few(ours, theirs)
    else:
        outcome, reason = _decide(effect, test.interval, level, smallest_effect)
    return Judgement(
        outcome=outcome,
        reason=reason,
        effect=effect,
        relative_effect=relative_effect,
        interval=test and test.interval,
        interval_level=level,
        p_improvement=test and test.p_improvement,
        p_regression=test and test.p_regression,
        hedges_g=hedges_g,
        smallest_effect=smallest_effect,
        confidence=confidence,
        champion=ours,
        standing=theirs,
    )


def seeds_to_tell(judgement: Judgement) -> int | None:
    """Return how many fresh seeds a side the observed effect needs to pass, if its spread stays the same.

    None when the effect passed already, is below the smallest of interest, or has too few seeds to estimate the spread.
    """
    effect, ours, theirs = judgement.effect, judgement.champion, judgement.standing
    if judgement.outcome != "no improvement (within noise)" or effect is None or ours.std is None or theirs.std is None:
        return None
    if effect < max(judgement.smallest_effect, 10**-DIGITS):
        return None
    spread = math.hypot(ours.std, theirs.std)
    return next(
        (n for n in range(ours.n + 1, MOST_SEEDS + 1) if stats.t.ppf(judgement.confidence, 2 * n - 2) * spread / math.sqrt(n) < effect),
        None,
    )


def mean_interval(lengths: Sequence[Sequence[float]], *, level: float) -> tuple[float, float] | None:
    """Return Student's two-sided interval of one side's mean over training seeds. None for fewer than two seeds.

    Args:
        lengths: acceptance lengths, one sequence per training seed with one value per repeat.
        level: level of the interval.

    Raises:
        ValueError: a value is not an acceptance length, or a seed has no repeats.
    """
    side = _side(_seed_means(lengths))
    if side.mean is None or side.std is None:
        return None
    reach = float(stats.t.ppf((1 + level) / 2, side.n - 1)) * side.std / math.sqrt(side.n)
    return side.mean - reach, side.mean + reach


def prompt_interval(
    champion: Sequence[Sequence[float]], standing: Sequence[Sequence[float]], *, level: float, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the effect over prompts, a paired percentile bootstrap of the mean difference.

    It holds for these training seeds and excludes the noise between them, which `judge` covers.

    Args:
        champion: acceptance lengths, one sequence per training seed with one value per prompt.
        standing: the same for the standing configuration, on the same prompts in the same order.
        level: level of the two-sided interval.
        seed: seed of the resampling.

    Raises:
        ValueError: the numbers of prompts differ, there are fewer than two, or a value is not an acceptance length.
    """
    ours, theirs = _prompt_means(champion), _prompt_means(standing)
    if len(ours) != len(theirs):
        raise ValueError(f"the champion has {len(ours)} prompts, the standing configuration {len(theirs)}; they must be the same ones")
    resampled = stats.bootstrap(
        (ours, theirs),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        paired=True,
        confidence_level=level,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)


class _Test(NamedTuple):
    interval: tuple[float, float]
    p_improvement: float
    p_regression: float


def _welch(champion: list[float], standing: list[float], level: float) -> _Test:
    with warnings.catch_warnings():
        # scipy warns of lost precision when one side has no spread. Welch's test is valid as long as the other side has some.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ttest_ind(champion, standing, equal_var=False)
    low, high = result.confidence_interval(level)
    distribution = stats.t(result.df)
    return _Test((float(low), float(high)), float(distribution.sf(result.statistic)), float(distribution.cdf(result.statistic)))


def _certain(effect: float) -> _Test:
    """Return the limit of Welch's test as the spread of both sides vanishes."""
    p_improvement = 0.5 if effect == 0 else float(effect < 0)
    return _Test((effect, effect), p_improvement, 1 - p_improvement)


def _hedges_g(effect: float, champion: tuple[int, float], standing: tuple[int, float]) -> float | None:
    """Return the effect in pooled standard deviations. Source: Hedges, J. Educ. Stat. 6 (1981), the exact correction."""
    (n, std), (standing_n, standing_std) = champion, standing
    freedom = n + standing_n - 2
    pooled = math.sqrt(((n - 1) * std**2 + (standing_n - 1) * standing_std**2) / freedom)
    if pooled == 0:
        return None
    return effect / pooled * float(special.poch((freedom - 1) / 2, 0.5)) / math.sqrt(freedom / 2)


def _decide(effect: float, interval: tuple[float, float], level: float, smallest_effect: float) -> tuple[Outcome, str]:
    low, high = interval
    found = f"the {level * 100:g} % interval [{low:+.4f}, {high:+.4f}]"
    if low <= 0 <= high:
        return "no improvement (within noise)", f"{found} of the effect {effect:+.4f} includes zero"
    side = "above" if low > 0 else "below"
    if abs(effect) < smallest_effect:
        return (
            "no improvement (within noise)",
            f"{found} lies {side} zero, but the effect {effect:+.4f} is smaller than the smallest of interest, {smallest_effect:g}",
        )
    return (
        "improvement" if low > 0 else "regression",
        f"{found} lies {side} zero and the effect {effect:+.4f} is no smaller than the smallest of interest, {smallest_effect:g}",
    )


def _too_few(champion: Side, standing: Side) -> tuple[Outcome, str]:
    return (
        "insufficient data",
        f"the noise between training seeds takes two seeds a side to see: the champion has {champion.n}, "
        f"the standing configuration {standing.n}",
    )


def _side(means: list[float]) -> Side:
    return Side(n=len(means), mean=_mean(means) if means else None, std=stdev(means) if len(means) > 1 else None)


def _seed_means(lengths: Sequence[Sequence[float]]) -> list[float]:
    return [_mean(_sound(repeats)) for repeats in lengths]


def _prompt_means(lengths: Sequence[Sequence[float]]) -> list[float]:
    return [_mean(prompt) for prompt in zip(*map(_sound, lengths), strict=True)]


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), DIGITS)


def _sound(lengths: Sequence[float]) -> Sequence[float]:
    for length in lengths:
        if not 1 <= length < math.inf:
            raise ValueError(f"{length} is not an acceptance length; acceptance lengths are finite and at least 1")
    return lengths
