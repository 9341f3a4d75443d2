"""The TPE sampler: its coordinates, and that it learns."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.config import Parameters, Point, Space
from lib.search.promotion import Score
from lib.search.replay import replay
from lib.search.samplers import parzen, uniform
from lib.search.samplers.parzen import Coordinates
from lib.search.strategy import Observation, Request

from tests.unit.search.searches import FINITE, SPACE, STEPPED, measured
from tests.unit.search.searches import make_search as make

SPACES = [SPACE["parameters"], FINITE, STEPPED, SPACE["parameters"] | {"global_batch": {"low": 4, "high": 64, "scale": "log"}}]


@pytest.mark.parametrize("decorrelate", [True, False])
@given(st.sampled_from(SPACES), st.integers(0, 2**32))
def test_coordinates_round_trip(decorrelate: bool, parameters: dict, seed: int) -> None:
    """A point drawn from the space comes back from its coordinates, learning rates to their three digits."""
    space = Space.model_validate(SPACE | {"parameters": parameters})
    coordinates = Coordinates(space.parameters, decorrelate=decorrelate)
    point = next(uniform.candidates(Request(space, str(seed), 1)))
    encoded = coordinates.encode(point)
    assert encoded is not None
    decoded = coordinates.decode(encoded)
    if decoded is None:  # rounding took it over the edge of the range
        assert min(abs(point.lr / edge - 1) for edge in (3e-4, 3e-2)) < 0.02
    else:
        assert decoded.lr == pytest.approx(point.lr, rel=0.01)
        assert (decoded.global_batch, decoded.warmup) == (point.global_batch, point.warmup)


def test_learning_rates_are_seen_relative_to_the_square_root_of_the_batch() -> None:
    coordinates = Coordinates(Parameters.model_validate(SPACE["parameters"]))
    small, large = (coordinates.encode(Point(global_batch=batch, lr=1e-3 * math.sqrt(batch), warmup=0.0)) for batch in (4, 16))
    assert small["lr"] == pytest.approx(large["lr"])


def test_a_point_outside_the_space_teaches_nothing() -> None:
    """So does one with a hyperparameter that is not searched, or without one that is."""
    decayed, plain = (Point(global_batch=4, lr=1e-3, warmup=0.0, weight_decay=decay) for decay in (0.1, None))
    assert Coordinates(Parameters.model_validate(SPACE["parameters"])).encode(decayed) is None
    both = Coordinates(Parameters.model_validate(SPACE["parameters"] | {"weight_decay": [0.0, 0.1]}))
    assert both.encode(plain) is None and both.encode(decayed) is not None
    assert Coordinates(Parameters.model_validate(SPACE["parameters"])).encode(Point(global_batch=4, lr=1.0, warmup=0.0)) is None


def test_after_a_history_proposals_lie_nearer_to_the_optimum_than_uniform_ones() -> None:
    """Twenty measured arms of a known surface; the distance from its best learning rate, in decades, of the next eight proposals."""
    one = make()
    space = one.space

    def distance(point: Point) -> float:
        return abs(math.log10(point.lr / 2e-3) - 0.5 * math.log10(point.global_batch / 4))

    closer = 0
    for seed in range(10):
        drawn = list(itertools.islice(uniform.candidates(Request(space, f"history {seed}", 20)), 20))
        history = tuple(Observation(point, 576, measured(one.arm(point), 2).value) for point in drawn)
        asked = Request(space, f"asked {seed}", 8, history)
        learned, blind = (list(itertools.islice(source(asked), 8)) for source in (parzen.candidates, uniform.candidates))
        closer += statistics.mean(map(distance, learned)) < statistics.mean(map(distance, blind))
    assert closer >= 9


@pytest.mark.parametrize(("strategy", "options"), [("tpe", {}), ("tpe", {"arms": 12}), ("hyperband_tpe", {})])
def test_even_a_small_search_learns(strategy: str, options: dict) -> None:
    """At the shipped sizes, proposals after the first differ when what was measured differs."""
    one = make(strategy, options=options)
    plain = replay(one, measured)
    turned = replay(one, lambda arm, rung: Score(arm.id, rung, "ok", 0.5 - (measured(arm, rung).value or 0.0)))
    places = [place for place in plain.decisions if place[0] != one.finalists_folder]
    firsts = [place for place in places if one.bracket_of(place[0]).first_rung == place[1]]
    differing = [plain.decisions[place]["arms"] != turned.decisions[place]["arms"] for place in firsts]
    assert not differing[0] and differing[-1] and sum(differing) >= len(firsts) - 2


def test_a_value_that_the_space_does_not_list_teaches_nothing() -> None:
    coordinates = Coordinates(Parameters.model_validate(FINITE | {"accum": [1, 2]}))
    assert coordinates.encode(Point(global_batch=64, lr=1e-3, warmup=0.0, accum=1)) is None
    assert coordinates.encode(Point(global_batch=8, lr=1e-3, warmup=0.0)) is None
    assert coordinates.encode(Point(global_batch=8, lr=1e-3, warmup=0.0, accum=2)) is not None


def test_what_the_model_keeps_missing_is_drawn_uniformly() -> None:
    """Of a space of 36 points, 35 known: the last one is still found."""
    space = Space.model_validate(SPACE | {"parameters": FINITE})
    points = list(uniform.candidates(Request(space, "all", 36)))
    history = tuple(Observation(point, 576, 0.5) for point in points[1:])
    assert points[0] in set(parzen.candidates(Request(space, "one more", 1, history)))
