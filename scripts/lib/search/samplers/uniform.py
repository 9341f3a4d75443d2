"""Uniform sampling, log-uniform on log ranges, with equal probability for listed values."""

import random
from collections.abc import Iterator

from lib.config import Point
from lib.files import digest
from lib.search.strategy import Request, Sampler
from lib.space import grid_points, point_of, value_at


def candidates(request: Request) -> Iterator[Point]:
    """Yield points in an order that depends only on the stream.

    A finite space is shuffled by a digest of each point, so a changed value keeps the order of all other points.
    """
    parameters = request.space.parameters
    points = grid_points(parameters)
    if points is not None:
        yield from sorted(points, key=lambda point: digest([request.stream, point.model_dump()], 32))
        return
    generator = random.Random(request.stream)
    domains = parameters.searched()
    while True:
        yield point_of({name: value_at(name, domain, generator.random()) for name, domain in domains.items()})


UNIFORM = Sampler(candidates)
