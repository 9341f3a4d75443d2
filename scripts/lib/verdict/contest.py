"""The contest behind a verdict trains and measures champion and standing configuration again with fresh seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from lib.arm import Arm
from lib.config import FIRST_FRESH_SEED
from lib.errors import UserError
from lib.files import digest
from lib.records.context import Record
from lib.records.measurement import ServingRecord

FRESH_SEEDS = 10**6
"""Number of seeds that a contest draws from."""

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
        """Yield the arms in measuring order, seed by seed. The side that comes first alternates.

        A champion that equals the standing configuration is measured once, for both sides.
        """
        if self.champion == self.standing:
            yield from (("champion", arm) for arm in self.champion)
            return
        for number, (champion, standing) in enumerate(zip(self.champion, self.standing, strict=True)):
            pair: list[tuple[Side, Arm]] = [("champion", champion), ("standing", standing)]
            yield from pair if number % 2 == 0 else reversed(pair)


class Measurements(Record):
    """The measurements of a contest in the order they were taken, on one node."""

    champion: str = Field(description="arm id of the champion, with the seed of the search")
    standing: str
    order: list[Side]
    servings: list[ServingRecord]

    @model_validator(mode="after")
    def _alike(self) -> "Measurements":
        if len(self.order) != len(self.servings):
            raise ValueError(f"order names {len(self.order)} measurements, servings holds {len(self.servings)}")
        if len({tuple(serving.subsets or ()) for serving in self.servings if serving.status == "ok"}) > 1:
            raise ValueError("the measurements cover different subsets")
        return self

    def require(self, contest: "Contest", champion: str, standing: str) -> None:
        """Raise UserError unless these arms were measured in this order."""
        measured = [(side, serving.arm) for side, serving in zip(self.order, self.servings, strict=True)]
        if (self.champion, self.standing) != (champion, standing) or measured != [(side, arm.id) for side, arm in contest.order()]:
            raise UserError(f"the contest measured {self.champion} against {self.standing}, not {champion} against {standing}; run again")

    def of(self, side: Side) -> list[ServingRecord]:
        """Return the measurements of one side, seed by seed."""
        if self.champion == self.standing:
            return self.servings
        return [serving for one, serving in zip(self.order, self.servings, strict=True) if one == side]


def make_contest(champion: Arm, standing: Arm, seeds: int, search: str) -> Contest:
    """Return the contest of two configurations over `seeds` fresh seeds.

    The seeds are derived from the search id and from their number. A repeated verdict with more seeds, or the next search after a lucky
    baseline was promoted, therefore uses trainings that nobody has seen.
    """
    first = FIRST_FRESH_SEED + int(digest([search, seeds]), 16) % FRESH_SEEDS
    return Contest(*(tuple(replace(arm, seed=first + number) for number in range(seeds)) for arm in (champion, standing)))
