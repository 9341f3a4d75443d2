"""TPE: Optuna proposes a few arms at a time from all finished ones. All arms are trained in full."""

from lib.config import SearchOptions, Space, Training
from lib.search.samplers.parzen import TPE
from lib.search.schedule import Bracket, in_full
from lib.search.strategies.random import arms_in_full
from lib.search.strategy import Strategy


def schedule(space: Space, _: Training, options: SearchOptions) -> tuple[Bracket, ...]:
    """Return a bracket for every round of `search.round` arms. The last one has the remaining arms."""
    arms = arms_in_full(space, options)
    starts = range(0, arms, options.round)
    rungs = len(space.rungs.samples)
    return tuple(in_full(f"round{number}", min(options.round, arms - start), rungs) for number, start in enumerate(starts))


STRATEGY = Strategy(schedule, TPE, options=("arms", "round"))
