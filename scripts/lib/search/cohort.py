"""The cohort decision: the one kind of decision a search takes, as the record that is filed for it."""

from typing import Any

from lib.search.promotion import Score, promote
from lib.search.search import Search


def decide(search: Search, folder: str, rung: int, scores: list[Score]) -> dict[str, Any]:
    """Decide which arms train to `rung` in the bracket filed under `folder`, or which finalists are served.

    `scores` are those of the cohort below; a bracket's first cohort is proposed, and rests on none.
    """
    record: dict[str, Any] = {"search": search.id, "bracket": folder, "rung": rung, "rigor": "DRAFT", "proxy": search.space.proxy}
    if folder == search.finalists_folder:
        return record | _promoted(scores, search.top_k, f"best {search.top_k} of all brackets")
    bracket = search.bracket_of(folder)
    record["cap_samples"] = search.space.rungs.samples[rung]
    if rung > bracket.first_rung:
        return record | _promoted(scores, bracket.size(rung), f"best {bracket.size(rung)} of the rung below")
    points = search.proposals[bracket.label]
    return record | {
        "rule": f"proposed: uniform, {len(points)} of {bracket.sizes[0]} wanted",
        "arms": list(points),
        "points": {arm: point.model_dump() for arm, point in points.items()},
    }


def _promoted(scores: list[Score], keep: int, rule: str) -> dict[str, Any]:
    promotion = promote(scores, keep)
    return {
        "rule": rule,
        "arms": list(promotion.kept),
        "dropped": dict(promotion.dropped),
        "scores": {score.arm: {"status": score.status, "value": score.value} for score in scores},
    }
