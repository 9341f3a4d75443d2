"""The contest behind a verdict: champion and standing configuration, trained and measured once more with fresh seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from lib.arm import Arm
from lib.config import FIRST_FRESH_SEED
from lib.verdict.context import Record
from lib.verdict.record import ServingRecord

Side = Literal["champion", "standing"]


@dataclass(frozen=True)
class Contest:
    """The arms of both sides, one per fresh seed. Both sides train with the same seeds."""

    champion: tuple[Arm, ...]
    standing: tuple[Arm, ...]

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """All arms by id."""
        return {arm.id: arm for arm in (*self.champion, *self.standing)}

    def order(self) -> Iterator[tuple[Side, Arm]]:
        """Yield the arms in the order they are measured: seed by seed, and in turn the one side first or the other.

        A champion that is the standing configuration is measured once, for both.
        """
        if self.champion == self.standing:
            yield from (("champion", arm) for arm in self.champion)
            return
        for number, (champion, standing) in enumerate(zip(self.champion, self.standing, strict=True)):
            pair: list[tuple[Side, Arm]] = [("champion", champion), ("standing", standing)]
            yield from pair if number % 2 == 0 else reversed(pair)


class Measurements(Record):
    """What the contest has measured, in the order in which it was measured, on one node."""

    champion: str
    standing: str
    order: list[Side]
    servings: list[ServingRecord]

    def of(self, side: Side) -> list[ServingRecord]:
        """Return the measurements of one side, seed by seed."""
        if self.champion == self.standing:
            return self.servings
        return [serving for one, serving in zip(self.order, self.servings, strict=True) if one == side]


def make_contest(champion: Arm, standing: Arm, seeds: int) -> Contest:
    """Return the contest of two configurations over so many fresh seeds, which depend on the search's own seed alone."""
    return Contest(_fresh(champion, seeds), _fresh(standing, seeds))


def _fresh(arm: Arm, seeds: int) -> tuple[Arm, ...]:
    first = FIRST_FRESH_SEED * (1 + arm.seed)
    return tuple(replace(arm, seed=first + number) for number in range(seeds))
