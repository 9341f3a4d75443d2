"""Input and output of every strategy, and the meter that charges all strategies in the same way."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.search.surface import Config, Measurement, Surface


@dataclass(frozen=True)
class Ladder:
    """The training lengths on which arms compete, in samples consumed, rising by `eta`."""

    samples: tuple[int, ...]
    eta: int = 3

    @property
    def cap(self) -> int:
        """The length of a full training."""
        return self.samples[-1]


@dataclass(frozen=True)
class Trained:
    """An arm that was trained to `samples` without diverging."""

    config: Config
    samples: int
    acc0: float


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy.

    `promoted` is the arm that the strategy selects, or None if every arm failed. `samples_consumed` is the total charge, including the
    promoted arm's full training. `top` are its arms, ordered by proxy on the highest rung that they reached. It is empty if the strategy
    has measured acceptance itself, because a last step would only repeat that.
    """

    promoted: Config | None
    samples_consumed: int
    trials: int
    top: tuple[Trained, ...] = ()
    restarts: bool = False
    """Whether more training of an arm starts from zero, so that it is charged in full."""


Strategy = Callable[[Surface, Ladder, int, int], Outcome]
"""Surface, ladder, budget in samples, seed."""


class BudgetSpentError(Exception):
    """The next training would cost more than is left."""


class Meter:
    """Trains arms on a surface and charges for it.

    An arm that was trained before is charged the difference, with `restarts` the whole. An arm that diverges is charged like any other: the
    surface does not say after how many steps it did.
    """

    def __init__(self, surface: Surface, budget: int, seed: int, restarts: bool = False) -> None:
        self.used = 0
        self._surface = surface
        self._budget = budget
        self._seed = seed
        self._restarts = restarts
        self._arms: dict[tuple[int, float, float], Trained] = {}
        self._reached: dict[tuple[int, float, float], int] = {}

    def cost(self, config: Config, samples: int) -> int:
        """Return what training to `samples` would be charged now."""
        reached = 0 if self._restarts else self._reached.get(_key(config), 0)
        return max(samples - reached, 0)

    def train(self, config: Config, samples: int) -> Measurement:
        """Train an arm to `samples`. Raises BudgetSpentError, and charges nothing, when the budget does not reach that far."""
        if self.used + self.cost(config, samples) > self._budget:
            raise BudgetSpentError
        return self._train(config, samples)

    @property
    def trials(self) -> int:
        """Return the number of different arms that were trained."""
        return len(self._reached)

    def ranked(self) -> list[Trained]:
        """Return the arms that did not diverge, ordered by rung and then by proxy, best first."""
        return sorted(self._arms.values(), key=lambda arm: (-arm.samples, -arm.acc0))

    def outcome(self, cap: int) -> Outcome:
        """Promote the best arm of the highest rung, after training it to `cap` if it was not there.

        That training is always charged, even beyond the budget, because a strategy must end with a fully trained arm. If the arm diverges,
        the next best takes its place.
        """
        ranked = self.ranked()
        for arm in ranked:
            if arm.samples == cap or self._train(arm.config, cap).status == "ok":
                return Outcome(arm.config, self.used, self.trials, tuple(self.ranked()[:5]), self._restarts)
        return Outcome(None, self.used, self.trials, (), self._restarts)

    def _train(self, config: Config, samples: int) -> Measurement:
        key = _key(config)
        self.used += self.cost(config, samples)
        self._reached[key] = max(samples, self._reached.get(key, 0))
        result = self._surface.measure(config, samples, self._seed)
        if result.acc0 is None:
            self._arms.pop(key, None)
        elif key not in self._arms or samples >= self._arms[key].samples:
            self._arms[key] = Trained(config, samples, result.acc0)
        return result


def last_step(surface: Surface, outcome: Outcome, cap: int, seed: int, finalists: int = 2) -> tuple[Config | None, int]:
    """Train the best `finalists` by proxy to `cap`, measure their acceptance, promote the best measured.

    Returns that arm and all samples then consumed. Without finalists it is the strategy's own arm.
    """
    used = outcome.samples_consumed
    measured: list[tuple[float, int, Config]] = []
    for rank, arm in enumerate(outcome.top[:finalists]):
        if arm.samples < cap:
            used += cap if outcome.restarts else cap - arm.samples
        acceptance = surface.measure(arm.config, cap, seed).acceptance
        if acceptance is not None:
            measured.append((acceptance, -rank, arm.config))
    return (max(measured)[2] if measured else outcome.promoted), used


def hyperband_budget(ladder: Ladder) -> int:
    """Return the samples that one synchronous Hyperband over `ladder` consumes when arms resume.

    Li et al., JMLR 18 (2018), table 1: bracket s starts floor((s_max + 1) / (s + 1)) * eta^s arms at rung s_max - s.
    """
    s_max = len(ladder.samples) - 1
    return sum(_bracket_cost(ladder, s_max - s, (s_max + 1) // (s + 1) * ladder.eta**s) for s in range(s_max + 1))


def _bracket_cost(ladder: Ladder, first_rung: int, arms: int) -> int:
    caps = (0, *ladder.samples[first_rung:])
    return sum((cap - below) * (arms // ladder.eta**step) for step, (below, cap) in enumerate(itertools.pairwise(caps)))


def _key(config: Config) -> tuple[int, float, float]:
    return config["global_batch"], config["lr"], config["warmup"]
