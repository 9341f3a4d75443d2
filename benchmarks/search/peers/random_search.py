"""Random search: every arm at full length."""

import contextlib

import numpy as np

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome
from benchmarks.search.surface import Surface, draw


def run(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Train random arms to the cap until the budget is spent; promote the best proxy."""
    rng = np.random.default_rng([seed, 1])
    meter = Meter(surface, budget_samples, seed)
    with contextlib.suppress(BudgetSpentError):
        while True:
            meter.train(draw(rng), ladder.cap)
    return meter.outcome(ladder.cap)
