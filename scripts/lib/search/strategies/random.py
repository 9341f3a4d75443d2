"""Random search: arms drawn uniformly, all trained in full."""

from lib.config import SearchOptions, Space, Training
from lib.search.samplers.uniform import UNIFORM
from lib.search.schedule import Bracket, hyperband, in_full, require_size, samples
from lib.search.strategy import Strategy


def arms_in_full(space: Space, options: SearchOptions) -> int:
    """Return the number of arms to train in full, `search.arms` or as many as the samples of Hyperband's brackets allow."""
    caps = space.rungs.samples
    return require_size(options.arms or max(1, samples(hyperband(len(caps), space.rungs.eta), caps) // caps[-1]))


def schedule(space: Space, _: Training, options: SearchOptions) -> tuple[Bracket, ...]:
    """Return one bracket of `arms_in_full` arms."""
    return (in_full("random", arms_in_full(space, options), len(space.rungs.samples)),)


STRATEGY = Strategy(schedule, UNIFORM, options=("arms",))
