"""The decisions of a search as they lie in the results tree."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.arm import Arm
from lib.config import Point
from lib.errors import UserError
from lib.files import read_whole_json
from lib.records import layout
from lib.search.search import Search

Place = tuple[str, int]
"""The folder of a bracket, or of the finalists, and a rung."""


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
        self._read: dict[Place, dict[str, Any]] = {}
        self._entries: dict[str, tuple[Arm, int]] = {search.standing.id: (search.standing, search.top_rung)}

    def __getitem__(self, place: Place) -> dict[str, Any]:
        """Return the decision filed at `place`. Raises UserError when there is none, or none that is whole."""
        if place not in self._read:
            decision = read_whole_json(self._root / layout.decision(*place), "delete it, the next run takes the decision again")
            for arm, point in decision["points"].items():
                self._entries.setdefault(arm, (self._search.arm(Point.model_validate(point)), place[1]))
            self._read[place] = decision
        return self._read[place]

    def taken(self) -> dict[Place, dict[str, Any]]:
        """Return all decisions that have been taken, in the order of the schedule."""
        return {place: self[place] for place in places(self._search) if (self._root / layout.decision(*place)).exists()}

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
