"""A strategy is a schedule of brackets plus a sampler. Each is one file of `strategies/` and is named after it."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lib.config import STRATEGIES, Point, SearchOptions, Space, Training
from lib.errors import UserError
from lib.search.schedule import Bracket


@dataclass(frozen=True)
class Observation:
    """The proxy of a point after a number of training samples, None when its training failed."""

    point: Point
    samples: int
    value: float | None


@dataclass(frozen=True)
class Request:
    """A request to a sampler for `wanted` points of `space`, in an order that depends only on `stream` and `history`."""

    space: Space
    stream: str
    wanted: int
    history: tuple[Observation, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """Yields candidates, endlessly or until the space is exhausted. The search takes new feasible ones.

    `learns`: whether candidates depend on `Request.history`. A bracket then waits for all earlier brackets. `needs`: required packages.
    """

    candidates: Callable[[Request], Iterator[Point]]
    learns: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strategy:
    """A schedule and a sampler. `schedule` returns the brackets in filling order. `options`: the keys of `search` that it reads.

    A schedule raises UserError when the strategy cannot cover the space.
    """

    schedule: Callable[[Space, Training, SearchOptions], tuple[Bracket, ...]]
    sampler: Sampler
    options: tuple[str, ...] = ()


def load_strategy(name: str) -> Strategy:
    """Return the strategy of the file `strategies/<name>.py`. Raises UserError when it or a required package is missing."""
    if name not in STRATEGIES:
        raise UserError(f"strategy = {name!r} is unknown; choose one of {', '.join(STRATEGIES)}")
    strategy: Strategy = importlib.import_module(f"lib.search.strategies.{name}").STRATEGY
    missing = [package for package in strategy.sampler.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"strategy = {name!r} needs {missing[0]}, which is not installed; run: pip install {missing[0]}")
    return strategy
