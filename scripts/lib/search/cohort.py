"""The cohort decision, the only kind of decision in a search, and its record."""

from collections.abc import Mapping
from typing import Any

from lib.arm import reachable
from lib.config import Point
from lib.search.priors import Prior
from lib.search.promotion import Score, promote
from lib.search.search import Search, score_of
from lib.search.strategy import Observation


def decide(
    search: Search,
    folder: str,
    rung: int,
    scores: list[Score],
    points: Mapping[str, Point],
    measured_on: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Decide which arms train to `rung` in the bracket filed under `folder`, or which finalists are served.

    The record's `arms` are in order of promotion or proposal. `points` holds arms that were not in a cohort below.

    Args:
        search: the search.
        folder: the folder of the bracket, or of the finalists.
        rung: the rung to train to.
        scores: the scores of the cohorts of `Search.below`.
        points: the points of the arms in these cohorts, needed for a proposal.
        measured_on: versions and device of the scores by dotted names. Prior arms measured on others do not compete.
    """
    record: dict[str, Any] = {"search": search.id, "bracket": folder, "rung": rung, "rigor": "DRAFT", "proxy": search.space.proxy}
    if folder != search.finalists_folder:
        record["cap_samples"] = search.space.rungs.samples[rung]
        bracket = search.bracket_of(folder)
        if rung == bracket.first_rung:
            history = tuple(_observed(search, points[score.arm], score) for score in scores)
            proposed = search.propose(bracket, history, points)
            known = len(history) + len(search.priors)
            return record | {
                "rule": f"proposed by {search.strategy}, {len(proposed)} of {bracket.sizes[0]} wanted"
                + (f", from {known} observations" if search.learns else ""),
                "arms": list(proposed),
                "points": {arm: point.model_dump() for arm, point in proposed.items()},
            }
        keep, rule = bracket.size(rung), "best {} of the rung below"
    else:
        keep, rule = search.top_k, "best {} of all brackets"
    ours = {score.arm for score in scores}
    priors = {arm: prior for arm, prior in search.contenders(folder, rung).items() if arm not in ours}
    others = {arm: _differing(prior, measured_on or {}) for arm, prior in priors.items()}
    contenders = [score_of(arm, prior) for arm, prior in priors.items() if not others[arm]]
    promotion = promote(scores + contenders, keep)
    apart = {arm: f"prior arm measured on another {', '.join(keys)}" for arm, keys in others.items() if keys}
    return record | {
        "rule": rule.format(keep) + (f", {len(contenders)} prior arms included" if contenders else ""),
        "arms": list(promotion.kept),
        "points": {arm: priors[arm].point.model_dump() for arm in promotion.kept if arm in priors},
        "dropped": dict(promotion.dropped) | apart,
        "scores": {score.arm: _filed(score) for score in scores + contenders},
    }


def _observed(search: Search, point: Point, score: Score) -> Observation:
    return Observation(point, reachable(search.space.rungs.samples[score.rung], point.global_batch), score.value)


def _filed(score: Score) -> dict[str, Any]:
    filed: dict[str, Any] = {"status": score.status, "value": score.value}
    return filed | ({"prior": score.source} if score.source else {})


def _differing(prior: Prior, measured_on: Mapping[str, Any]) -> list[str]:
    """Return the keys that both have with different values."""
    return [key for key, value in prior.measured_on.items() if key in measured_on and measured_on[key] != value]
