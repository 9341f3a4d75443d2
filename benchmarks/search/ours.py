"""The strategies of this repository with the surface in place of training. Search, decisions and samplers are the real ones."""

import sys
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from lib.arm import Arm
from lib.config import Config as RunConfig
from lib.config import Point, SearchOptions, Space
from lib.search.promotion import Score
from lib.search.replay import replay
from lib.search.samplers.parzen import TPE, candidates
from lib.search.search import Search
from lib.search.strategy import Strategy, load_strategy

from benchmarks.search.outcome import Ladder, Outcome, Trained
from benchmarks.search.surface import GLOBAL_BATCHES, LR_HIGH, LR_LOW, WARMUPS, Config, Surface

FINALISTS = 2


class Correlated(Search):
    """The same search whose TPE sees the learning rate as it is, not relative to the square root of the batch."""

    @cached_property
    def _strategy(self) -> Strategy:
        return replace(load_strategy(self.strategy), sampler=replace(TPE, candidates=partial(candidates, decorrelate=False)))


def run(
    surface: Surface,
    ladder: Ladder,
    budget_samples: int,
    seed: int,
    *,
    strategy: str,
    kind: type[Search] = Search,
) -> Outcome:
    """Run a strategy to its finalists. The first is what the proxy alone would promote; measuring them is the common last step.

    Strategies that train in full train as many arms as the budget pays for. Raises AssertionError when the budget is exceeded.
    """
    top = len(ladder.samples) - 1
    options = SearchOptions(arms=budget_samples // ladder.cap) if strategy in ("random", "tpe") else SearchOptions()
    search = kind(space(ladder), RunConfig().training, seed, {}, FINALISTS, strategy, options)

    def measure(arm: Arm, rung: int) -> Score:
        result = surface.measure(_config(arm), ladder.samples[rung], seed)
        return Score(arm.id, rung, result.status, result.acc0, None if result.status == "ok" else "diverged")

    result = replay(search, measure)
    assert result.samples <= budget_samples
    finalists = tuple(Trained(_config(arm), ladder.cap, result.scores[arm.id, top].value or 0.0) for arm in result.finalists)
    trials = len({arm for arm, _ in result.scores})
    return Outcome(finalists[0].config if finalists else None, result.samples, trials, finalists)


def space(ladder: Ladder) -> Space:
    """Return the surface's space as a search space file would hold it."""
    return Space.model_validate(
        {
            "draft": {"method": "eagle3", "aux_layers": [1, 2, 3]},
            "parameters": {
                "global_batch": list(GLOBAL_BATCHES),
                "lr": {"low": LR_LOW, "high": LR_HIGH, "scale": "log"},
                "warmup": list(WARMUPS),
            },
            "objective": {"draft_tokens": 3},
            "rungs": {"samples": list(ladder.samples), "eta": ladder.eta},
            "standing": Point(global_batch=8, lr=3e-4, warmup=0.1).model_dump(),
        }
    )


def _config(arm: Arm) -> Config:
    return {"global_batch": arm.point.global_batch, "lr": arm.point.lr, "warmup": arm.point.warmup}


hyperband = partial(run, strategy="hyperband")
hyperband_tpe = partial(run, strategy="hyperband_tpe")
hyperband_tpe_correlated = partial(run, strategy="hyperband_tpe", kind=Correlated)
tpe = partial(run, strategy="tpe")
tpe_correlated = partial(run, strategy="tpe", kind=Correlated)
