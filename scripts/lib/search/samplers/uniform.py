"""Uniform sampling: log-uniform on log ranges, every listed value as likely as the next."""

import random
from collections.abc import Iterator

from lib.config import Parameters, Point
from lib.files import digest
from lib.space import grid_points, point_of, value_at


def candidates(parameters: Parameters, stream: str) -> Iterator[Point]:
    """Yield points of the space in an order that `stream` alone decides.

    A finite space is shuffled by a digest of each point: a changed value leaves the order of all other points as it was.
    """
    points = grid_points(parameters)
    if points is not None:
        yield from sorted(points, key=lambda point: digest([stream, point.model_dump()], 32))
        return
    generator = random.Random(stream)
    domains = parameters.searched()
    while True:
        yield point_of({name: value_at(domain, generator.random()) for name, domain in domains.items()})
