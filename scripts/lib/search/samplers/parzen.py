"""Optuna's tree-structured Parzen estimator, fed with all measurements.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011. Fidelities are treated as Optuna treats pruned trials. Arms
trained in full rank first, then those that stopped earlier by samples and value, then failed ones.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lib.arm import reachable
from lib.config import Parameters, Point, Range
from lib.files import digest
from lib.hyperparameters import HYPERPARAMETERS
from lib.search.samplers import uniform
from lib.search.strategy import Observation, Request, Sampler
from lib.space import bounds, grid_values, point_of, position_of, rounded, spread

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ASKS_PER_ARM = 50
"""Points requested from the model per wanted arm. In a small space, missing arms are then drawn uniformly."""


class Coordinates:
    """The coordinates of the model: numbered values of lists, positions from 0 to 1 of ranges.

    A hyperparameter with a log range and a `root_of`, such as the learning rate with the global batch, is taken relative to that square
    root. Optima of different batches then line up (Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms",
    NeurIPS 2022), so the model need not learn the correlation from few arms. `decorrelate` False turns this off.
    """

    def __init__(self, parameters: Parameters, *, decorrelate: bool = True) -> None:
        self._domains = parameters.searched()
        self._grids = {name: sorted(grid) for name, domain in self._domains.items() if (grid := grid_values(name, domain)) is not None}
        self._ranges = {name: domain for name, domain in self._domains.items() if isinstance(domain, Range) and name not in self._grids}
        roots = {name: HYPERPARAMETERS[name].root_of for name, domain in self._ranges.items() if decorrelate and domain.scale == "log"}
        self._roots = {name: root for name, root in roots.items() if root in self._domains}
        self._seen = dict(self._ranges)
        for name, root in self._roots.items():
            (smallest, largest), domain = bounds(self._domains[root]), self._ranges[name]
            self._seen[name] = Range(low=domain.low / math.sqrt(largest), high=domain.high / math.sqrt(smallest), scale="log")

    def distributions(self) -> dict[str, Any]:
        """Return Optuna's distribution of every hyperparameter."""
        from optuna.distributions import FloatDistribution, IntDistribution

        numbered = {name: IntDistribution(0, len(grid) - 1) for name, grid in self._grids.items()}
        return {name: numbered.get(name, FloatDistribution(0.0, 1.0)) for name in self._domains}

    def encode(self, point: Point) -> dict[str, float] | None:
        """Return a point's coordinates, None when it is not in the space."""
        if not point.identity.keys() <= self._domains.keys():
            return None
        given = {name: getattr(point, name) for name in self._domains}
        values: dict[str, float] = {name: math.nan if value is None else value for name, value in given.items()}
        if any(values[name] not in grid for name, grid in self._grids.items()):
            return None
        if any(not domain.low <= values[name] <= domain.high for name, domain in self._ranges.items()):
            return None
        for name, root in self._roots.items():
            values[name] /= math.sqrt(values[root])
        numbers = {name: float(grid.index(values[name])) for name, grid in self._grids.items()}
        return numbers | {name: position_of(domain, values[name]) for name, domain in self._seen.items()}

    def decode(self, coordinates: dict[str, float]) -> Point | None:
        """Return the point at `coordinates`, None when a relative value is outside its range."""
        values = {name: grid[int(coordinates[name])] for name, grid in self._grids.items()}
        values |= {name: spread(domain, coordinates[name]) for name, domain in self._seen.items()}
        for name, root in self._roots.items():
            values[name] = rounded(values[name] * math.sqrt(HYPERPARAMETERS[root].typed(values[root])))
            if not self._ranges[name].low <= values[name] <= self._ranges[name].high:
                return None
        return point_of(values)


def candidates(request: Request, *, decorrelate: bool = True) -> Iterator[Point]:
    """Yield the model's next candidates. Candidates that were not taken count as tried, so that the model proposes others."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    coordinates = Coordinates(request.space.parameters, decorrelate=decorrelate)
    distributions = coordinates.distributions()
    sampler = optuna.samplers.TPESampler(
        seed=int(digest(request.stream, 8), 16),
        multivariate=True,
        constant_liar=True,
        n_startup_trials=len(distributions) + 1,  # as in BOHB, because Optuna's default of 10 can exceed a small search
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(_trials(request, coordinates, distributions))
    for _ in range(ASKS_PER_ARM * request.wanted):
        point = coordinates.decode(study.ask(distributions).params)
        if point is not None:
            yield point
    yield from uniform.candidates(request)


def _trials(request: Request, coordinates: Coordinates, distributions: dict[str, Any]) -> list["FrozenTrial"]:
    """Return the history as finished trials, one per point regardless of its number of rungs."""
    import optuna

    by_point: dict[Point, list[Observation]] = {}
    for observation in request.history:
        by_point.setdefault(observation.point, []).append(observation)
    trials = []
    for point, observations in by_point.items():
        encoded = coordinates.encode(point)
        if encoded is None:
            continue
        values = {observation.samples: observation.value for observation in observations if observation.value is not None}
        failed = len(values) < len(observations)
        top = reachable(request.space.rungs.samples[-1], point.global_batch)
        complete = top in values and not failed
        trials.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                value=values[top] if complete else None,
                params=encoded,
                distributions=distributions,
                intermediate_values={} if failed else values,
            )
        )
    return trials


TPE = Sampler(candidates, learns=True, needs=("optuna",))
