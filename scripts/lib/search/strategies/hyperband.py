"""Hyperband: brackets from many arms with a low first rung to few arms trained in full, each filled at random."""

from lib.config import SearchOptions, Space, Training
from lib.errors import UserError
from lib.search.samplers.uniform import UNIFORM
from lib.search.schedule import Bracket, hyperband
from lib.search.strategy import Strategy


def schedule(space: Space, _: Training, options: SearchOptions) -> tuple[Bracket, ...]:
    """Return Hyperband's brackets, or the one that `search.bracket` names."""
    brackets = hyperband(len(space.rungs.samples), space.rungs.eta)
    if options.bracket is None:
        return brackets
    chosen = tuple(bracket for bracket in brackets if bracket.label == f"s{options.bracket}")
    if not chosen:
        raise UserError(
            f"search.bracket = {options.bracket} does not exist on {len(brackets)} rungs; choose from 0 to {len(brackets) - 1}, or leave "
            "it empty for all"
        )
    return chosen


STRATEGY = Strategy(schedule, UNIFORM, options=("bracket",))
