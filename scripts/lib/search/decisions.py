"""The decisions of a search in the results tree."""

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
    """The keys read from a decision of `lib.search.cohort.decide`."""

    arms: list[str]
    points: dict[str, Point]
    cap_samples: NotRequired[Count]
    dropped: NotRequired[dict[str, str]]


def places(search: Search) -> list[Place]:
    """Return the places of a search's decisions in the order of its schedule, with the finalists last."""
    return [*search.cohorts, (search.finalists_folder, search.top_rung)]


class Decisions:
    """The decisions taken so far. A filed decision never changes, so each file is read once."""

    def __init__(self, search: Search, root: Path) -> None:
        self._search = search
        self._root = root
        self._read: dict[Place, Decision] = {}
        self._entries: dict[str, tuple[Arm, int]] = {search.standing.id: (search.standing, search.top_rung)}

    def __getitem__(self, place: Place) -> Decision:
        """Return the decision filed at `place`. Its arms must be its own or those of the decisions it is based on.

        Raises UserError when one of these decisions is missing or damaged.
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
                raise UserError(f"{path}: {unknown[0]} is not an arm of the cohorts below; delete it, and the next run decides again")
            for name, arm in arms.items():
                self._entries.setdefault(name, (arm, place[1]))
            self._read[place] = decision
        return self._read[place]

    def taken(self) -> dict[Place, Decision]:
        """Return all decisions taken, in the order of the schedule, without those based on a missing one."""
        found: dict[Place, Decision] = {}
        for place in places(self._search):
            if all(below in found for below in self._search.below(*place)) and (self._root / layout.decision(*place)).exists():
                found[place] = self[place]
        return found

    def entry(self, arm: str) -> tuple[Arm, int]:
        """Return an arm by its id and the lowest rung to which this search trains it.

        Raises:
            UserError: no decision so far has named the arm.
        """
        if arm not in self._entries:
            self.taken()
        if arm not in self._entries:
            raise UserError(f"{arm} is not an arm of this search so far; see results/search/ for its arms")
        return self._entries[arm]
