"""Promotion of arms to the next rung, with a reason for every dropped arm. The same rule picks the finalists."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The score of an arm at a rung. `value` is the proxy, None when the arm failed for `reason`.

    `source` is the origin of a prior arm's score, empty for arms that this search trained.
    """

    arm: str
    rung: int
    status: str
    value: float | None
    reason: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Promotion:
    """Arms in order of promotion, and every other arm with the reason it was dropped."""

    kept: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]


def promote(scores: list[Score], keep: int) -> Promotion:
    """Keep the `keep` arms with the highest values. Ties go to the smaller arm id. A failed arm ranks last and is never promoted."""
    ranked = sorted(scores, key=lambda score: (score.status != "ok", -(score.value or 0.0), score.arm))
    sound = [score for score in ranked if score.status == "ok"]
    kept = sound[:keep]
    behind = [(score.arm, f"rank {rank} of {len(scores)}, {keep} kept") for rank, score in enumerate(sound[keep:], start=keep + 1)]
    failed = [(score.arm, f"{score.status}: {score.reason}") for score in ranked[len(sound) :]]
    return Promotion(tuple(score.arm for score in kept), tuple(behind + failed))
