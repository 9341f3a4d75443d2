"""Grid: every point of a finite space, trained in full."""

from lib.config import SearchOptions, Space, Training
from lib.errors import UserError
from lib.search.samplers.exhaustive import EXHAUSTIVE
from lib.search.schedule import Bracket, in_full
from lib.search.strategy import Strategy
from lib.space import feasible_grid, grid_values


def schedule(space: Space, training: Training, _: SearchOptions) -> tuple[Bracket, ...]:
    """Return one bracket that holds every feasible point. Raises UserError naming a range that has no steps."""
    endless = [name for name, domain in space.parameters.searched().items() if grid_values(name, domain) is None]
    if endless:
        raise UserError(
            f"parameters.{endless[0]} is a range without steps, which strategy = 'grid' cannot cover; give it steps, list its values, or "
            "choose another strategy"
        )
    return (in_full("grid", len(feasible_grid(space, training) or ()), len(space.rungs.samples)),)


STRATEGY = Strategy(schedule, EXHAUSTIVE)
