"""A whole search with a function in place of training, for tests of strategies and for the benchmark."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib.arm import Arm, reachable
from lib.config import Point
from lib.search.cohort import decide
from lib.search.decisions import Place, places
from lib.search.promotion import Score
from lib.search.search import Search

Measure = Callable[[Arm, int], Score]
"""Returns the score of an arm at a rung."""


@dataclass(frozen=True)
class Replay:
    """The result of a search: decisions, scores, finalists with the best first, and training samples with exact resume."""

    decisions: dict[Place, dict[str, Any]]
    scores: dict[tuple[str, int], Score]
    finalists: tuple[Arm, ...]
    samples: int


def replay(search: Search, measure: Measure, decisions: dict[Place, dict[str, Any]] | None = None) -> Replay:
    """Run a search with `measure` in place of training. Earlier `decisions` are reused."""
    taken = dict(decisions or {})
    scores: dict[tuple[str, int], Score] = {}
    points: dict[str, Point] = {}
    trained: dict[str, int] = {}
    samples = 0
    for place in places(search):
        folder, rung = place
        if place not in taken:
            cohorts = search.below(folder, rung)
            evidence = [scores[arm, lower] for below, lower in cohorts for arm in taken[below, lower]["arms"]]
            known = {arm: points[arm] for below, lower in cohorts for arm in taken[below, lower]["arms"]}
            taken[place] = decide(search, folder, rung, evidence, known)
        points |= {arm: Point.model_validate(point) for arm, point in taken[place]["points"].items()}
        if folder == search.finalists_folder:
            break
        for name in taken[place]["arms"]:
            arm = search.arm(points[name])
            consumed = reachable(search.space.rungs.samples[rung], arm.point.global_batch)
            samples += max(0, consumed - trained.get(name, 0))
            trained[name] = max(consumed, trained.get(name, 0))
            scores[name, rung] = measure(arm, rung)
    finalists = tuple(search.arm(points[name]) for name in taken[search.finalists_folder, search.top_rung]["arms"])
    top = search.space.rungs.samples[-1]
    samples += sum(reachable(top, arm.point.global_batch) for arm in finalists if arm.id not in trained)  # prior arms have no checkpoint
    return Replay(taken, scores, finalists, samples)
