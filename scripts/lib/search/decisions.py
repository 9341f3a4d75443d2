"""The decisions of a search as they lie in the results tree."""

from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from lib.arm import Arm, InfeasibleError
from lib.config import Point
from lib.errors import UserError
from lib.records import layout
from lib.records.measurement import Count, read_record
from lib.search.search import Search

Place = tuple[str, int]
"""The folder of a bracket, or of the finalists, and a rung."""


class Decision(TypedDict):
    """What is read of a decision, as `lib.search.cohort.decide` makes it."""

    arms: list[str]
    points: dict[str, Point]
    cap_samples: NotRequired[Count]
    dropped: NotRequired[dict[str, str]]


def places(search: Search) -> Iterator[Place]:
    """Yield where a search files its decisions, in the order of its schedule, the finalists last."""
    for bracket in search.brackets:
        yield from ((search.folder(bracket), rung) for rung in bracket.rungs)
    yield search.finalists_folder, search.top_rung


class Decisions:
    """The decisions that have been taken so far. A decision never changes once it is filed, so each file is read once."""

    def __init__(self, search: Search, root: Path) -> None:
        self._search = search
        self._root = root
        self._read: dict[Place, Decision] = {}
        self._entries: dict[str, tuple[Arm, int]] = {search.standing.id: (search.standing, search.top_rung)}

    def __getitem__(self, place: Place) -> Decision:
        """Return the decision filed at `place`, whose arms are its own or those of the decisions that it rests on.

        Raises UserError when one of them is not there, or not whole.
        """
        if place not in self._read:
            path = self._root / layout.decision(*place)
            decision = read_record(path, Decision)
            try:
                arms = {arm.id: arm for arm in map(self._search.arm, decision["points"].values())}
            except InfeasibleError:
                arms = {}
            known = arms.keys() | {arm for below in self._search.below(*place) for arm in self[below]["arms"]}
            if unknown := [arm for arm in (*decision["points"].keys() - arms.keys(), *decision["arms"]) if arm not in known]:
                raise UserError(f"{path}: {unknown[0]} is no arm that it could name; delete it, the next run takes the decision again")
            for name, arm in arms.items():
                self._entries.setdefault(name, (arm, place[1]))
            self._read[place] = decision
        return self._read[place]

    def taken(self) -> dict[Place, Decision]:
        """Return all decisions that have been taken, in the order of the schedule. One that rests on a missing one does not count."""
        found: dict[Place, Decision] = {}
        for place in places(self._search):
            if all(below in found for below in self._search.below(*place)) and (self._root / layout.decision(*place)).exists():
                found[place] = self[place]
        return found

    def entry(self, arm: str) -> tuple[Arm, int]:
        """Return an arm by its id and the rung at which it enters the ladder: the lowest to which this search trains it.

        Raises:
            UserError: no decision so far has named the arm.
        """
        if arm not in self._entries:
            self.taken()
        if arm not in self._entries:
            raise UserError(f"{arm} is not an arm of this search so far; results/search/ lists those that are")
        return self._entries[arm]
