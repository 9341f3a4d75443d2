"""Every point of a finite space, in the order of its file."""

from collections.abc import Iterator

from lib.config import Point
from lib.search.strategy import Request, Sampler
from lib.space import grid_points


def candidates(request: Request) -> Iterator[Point]:
    """Yield all points of the space, none when it is infinite."""
    yield from grid_points(request.space.parameters) or []


EXHAUSTIVE = Sampler(candidates)
