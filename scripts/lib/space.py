"""The search space: its points, which of them can be trained, and how points are drawn."""

import itertools
import math

from lib.arm import InfeasibleError, lay_out, reachable
from lib.config import Parameters, Point, Range, Space, Training, Values
from lib.errors import UserError
from lib.hyperparameters import HYPERPARAMETERS

SIGNIFICANT_DIGITS = 3
"""Digits of drawn values, few enough that an arm's id shows the exact value."""


MOST_POINTS = 50_000
"""Largest number of points in a finite space. A plan visits every point."""


def check_space(space: Space, training: Training) -> None:
    """Refuse a space with a part that can never be trained.

    Raises:
        UserError: the standing configuration or every point with one of the global batches is infeasible, a range has one value, or a
            finite space is too large.
    """
    domains = space.parameters.searched()
    for name, domain in domains.items():
        if isinstance(domain, Range) and spread(domain, 0.0) == spread(domain, 1.0):
            raise UserError(
                f"parameters.{name}: low = {domain.low:.10g} and high = {domain.high:.10g} are the same value in the "
                f"{SIGNIFICANT_DIGITS} digits of drawn values; widen the range, or list the value"
            )
    sizes = [len(domain.values) if isinstance(domain, Values) else domain.steps for domain in domains.values()]
    if None not in sizes and (count := math.prod(size or 1 for size in sizes)) > MOST_POINTS:
        raise UserError(f"parameters: {count:,} points are more than the {MOST_POINTS:,} of a finite space; remove steps, or list fewer")
    reason = infeasible(space.standing, space, training)
    if reason:
        raise UserError(f"standing: {reason}; change standing or training")
    accums = [int(accum) for accum in _corners(domains["accum"])] if "accum" in domains else [None]
    for global_batch in _corners(domains["global_batch"]):
        points = [space.standing.model_copy(update={"global_batch": int(global_batch), "accum": accum}) for accum in accums]
        reasons = [infeasible(point, space, training) for point in points]
        if all(reasons):
            raise UserError(f"parameters.global_batch = {global_batch:g}: {reasons[0]}; remove it, or change training or rungs")


def infeasible(point: Point, space: Space, training: Training) -> str | None:
    """Return the reason why a point cannot be trained to every rung, None when it can."""
    try:
        lay_out(point.global_batch, ranks=training.ranks, micro_batch_limit=training.micro_batch_limit, accumulation=point.accum)
    except InfeasibleError as error:
        return str(error)
    consumed = [reachable(cap, point.global_batch) for cap in space.rungs.samples]
    for cap, samples, before in zip(space.rungs.samples, consumed, [0, *consumed], strict=False):
        if samples <= before:
            return f"global batch {point.global_batch} takes no step to reach the rung of {cap} samples"
    return None


def _corners(domain: Values | Range) -> tuple[float, ...]:
    """Return the values of a list, or the bounds of a range."""
    return domain.values if isinstance(domain, Values) else (domain.low, domain.high)


def grid_values(name: str, domain: Values | Range) -> tuple[float, ...] | None:
    """Return the distinct values of a hyperparameter's domain, None when there are infinitely many."""
    if isinstance(domain, Values):
        return domain.values
    if domain.steps is None:
        return None
    places = (step / (domain.steps - 1) for step in range(domain.steps))
    return tuple(dict.fromkeys(HYPERPARAMETERS[name].typed(spread(domain, place)) for place in places))


def value_at(name: str, domain: Values | Range, quantile: float) -> float:
    """Return the value at `quantile` (at least 0, below 1) of a hyperparameter's domain."""
    grid = grid_values(name, domain)
    if grid is not None:
        return grid[int(quantile * len(grid))]
    assert isinstance(domain, Range)
    return spread(domain, quantile)


def grid_points(parameters: Parameters) -> list[Point] | None:
    """Return every point of a finite space in the order its file lists them, or None when the space is infinite."""
    grids = {name: grid_values(name, domain) for name, domain in parameters.searched().items()}
    if any(grid is None for grid in grids.values()):
        return None
    return [point_of(dict(zip(grids, values, strict=True))) for values in itertools.product(*(grid for grid in grids.values() if grid))]


def feasible_grid(space: Space, training: Training) -> list[Point] | None:
    """Return every point of a finite space that can be trained, or None when the space is infinite."""
    points = grid_points(space.parameters)
    return None if points is None else [point for point in points if infeasible(point, space, training) is None]


def point_of(values: dict[str, float]) -> Point:
    """Return the point of drawn values. Counts are rounded to whole numbers."""
    return Point.model_validate({name: HYPERPARAMETERS[name].typed(value) for name, value in values.items()})


def spread(domain: Range, position: float) -> float:
    """Return the value at `position` (0 to 1) of a range, in few digits."""
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.scale == "log" else (domain.low, domain.high)
    value = low + position * (high - low)
    return min(max(rounded(math.exp(value) if domain.scale == "log" else value), domain.low), domain.high)


def rounded(value: float) -> float:
    """Return a value in the digits that an arm's id shows."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def bounds(domain: Values | Range) -> tuple[float, float]:
    """Return the smallest and the largest value of a domain."""
    return (min(domain.values), max(domain.values)) if isinstance(domain, Values) else (domain.low, domain.high)


def position_of(domain: Range, value: float) -> float:
    """Return the position of a value in a range, from 0 to 1. Inverse of `spread` up to rounding."""
    position = (
        math.log(value / domain.low) / math.log(domain.high / domain.low)
        if domain.scale == "log"
        else (value - domain.low) / (domain.high - domain.low)
    )
    return min(max(position, 0.0), 1.0)
