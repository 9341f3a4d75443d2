"""What a strategy is: a schedule of brackets plus a sampler. Each is one file of `strategies/`, known by its name."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lib.config import STRATEGIES, Point, SearchOptions, Space, Training
from lib.errors import UserError
from lib.search.schedule import Bracket


@dataclass(frozen=True)
class Observation:
    """What is known of a point: its proxy after so many training samples, or None when its training failed."""

    point: Point
    samples: int
    value: float | None


@dataclass(frozen=True)
class Request:
    """What a sampler is asked: `wanted` points of `space`, in an order that `stream` and `history` alone decide."""

    space: Space
    stream: str
    wanted: int
    history: tuple[Observation, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """Yields candidates without end or until the space is exhausted; the search takes the feasible ones that are new.

    `learns`: whether candidates follow from `Request.history`; a bracket then waits for all brackets before it. `needs`: packages.
    """

    candidates: Callable[[Request], Iterator[Point]]
    learns: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strategy:
    """`schedule` returns the brackets in the order in which they are filled. `options`: the keys of `search` that it reads.

    A schedule raises UserError when the strategy cannot cover the space.
    """

    schedule: Callable[[Space, Training, SearchOptions], tuple[Bracket, ...]]
    sampler: Sampler
    options: tuple[str, ...] = ()


def load_strategy(name: str) -> Strategy:
    """Return the strategy of the file `strategies/<name>.py`. Raises UserError when there is none or a package it needs is missing."""
    if name not in STRATEGIES:
        raise UserError(f"strategy = {name!r} is unknown; choose one of {', '.join(STRATEGIES)}")
    strategy: Strategy = importlib.import_module(f"lib.search.strategies.{name}").STRATEGY
    missing = [package for package in strategy.sampler.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"strategy = {name!r} needs {missing[0]}, which is not installed; run: pip install {missing[0]}")
    return strategy
