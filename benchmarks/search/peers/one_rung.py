"""One early comparison: many random arms on the lowest rung, then the best of them at full length."""

import numpy as np

from benchmarks.search.outcome import Ladder, Meter, Outcome
from benchmarks.search.surface import Surface, draw


def run(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Spend half of the budget on the lowest rung and half on full trainings of the best; promote the best proxy."""
    rng = np.random.default_rng([seed, 2])
    meter = Meter(surface, budget_samples, seed)
    for _ in range(budget_samples // 2 // ladder.samples[0]):
        meter.train(draw(rng), ladder.samples[0])
    best = meter.ranked()[: (budget_samples - meter.used) // (ladder.cap - ladder.samples[0])]
    for arm in best:
        meter.train(arm.config, ladder.cap)
    return meter.outcome(ladder.cap)
