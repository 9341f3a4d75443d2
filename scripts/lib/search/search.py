"""One search: its brackets, the arms it proposes, the arms it promotes, and the names its decisions are filed under."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lib.arm import Arm, make_arm
from lib.config import Point, Space, Training
from lib.errors import UserError
from lib.files import digest
from lib.search.samplers import uniform
from lib.search.schedule import Bracket, hyperband
from lib.space import check_space, infeasible

CANDIDATES_PER_ARM = 1000
"""Draws after which a space counts as exhausted when they bring no new feasible arm."""


@dataclass(frozen=True)
class Search:
    """Everything that decides which arms are trained how far. `recipe` is what all arms share, as plain data."""

    space: Space
    training: Training
    seed: int
    recipe: dict[str, Any]
    top_k: int

    def describe(self) -> dict[str, Any]:
        """Return the search as plain data, from which `from_description` makes the same search."""
        return {
            "space": self.space.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "recipe": self.recipe,
            "top_k": self.top_k,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "Search":
        """Rebuild a search from `describe()`."""
        return cls(
            **{
                **description,
                "space": Space.model_validate(description["space"]),
                "training": Training.model_validate(description["training"]),
            }
        )

    def check(self) -> None:
        """Refuse a search that could not run to its end. Raises UserError."""
        check_space(self.space, self.training)
        if not self.proposals[self.brackets[0].label]:
            raise UserError("parameters: no point of the space can be trained; widen it, or change training or rungs")

    @property
    def top_rung(self) -> int:
        """The last rung of the ladder."""
        return len(self.space.rungs.samples) - 1

    @cached_property
    def id(self) -> str:
        """A digest of the whole search, its proposals included, so that a decision filed under it never changes."""
        return digest([self.describe(), [list(points) for points in self.proposals.values()]])

    @cached_property
    def brackets(self) -> tuple[Bracket, ...]:
        """The brackets of the strategy."""
        return hyperband(len(self.space.rungs.samples), self.space.rungs.eta)

    def folder(self, bracket: Bracket) -> str:
        """Return the folder name under which a bracket's decisions are filed; a changed search has folders of its own."""
        return f"{bracket.label}-{self.id}"

    @property
    def finalists_folder(self) -> str:
        """The folder name of the decision that picks the arms to be served."""
        return f"finalists-{self.id}"

    def bracket_of(self, folder: str) -> Bracket:
        """Return the bracket filed under `folder`. Raises UserError when this search has none."""
        for bracket in self.brackets:
            if self.folder(bracket) == folder:
                return bracket
        raise UserError(f"results/search/{folder} belongs to another search; this one has {', '.join(map(self.folder, self.brackets))}")

    @cached_property
    def standing(self) -> Arm:
        """The standing configuration as an arm."""
        return self.arm(self.space.standing)

    def entry(self, arm: str) -> tuple[Point, int]:
        """Return the point an arm id stands for and the rung at which the arm enters the ladder. Raises UserError for an unknown id."""
        if arm == self.standing.id:
            return self.space.standing, self.top_rung
        for bracket in self.brackets:
            if arm in self.proposals[bracket.label]:
                return self.proposals[bracket.label][arm], bracket.first_rung
        raise UserError(f"{arm} is not an arm of this search; results/search/ lists those that are")

    def arm(self, point: Point) -> Arm:
        """Return the arm a point stands for in this search. Raises InfeasibleError when it cannot be laid out."""
        return make_arm(
            point, seed=self.seed, ranks=self.training.ranks, micro_batch_limit=self.training.micro_batch_limit, recipe=self.recipe
        )

    @cached_property
    def proposals(self) -> dict[str, dict[str, Point]]:
        """The points every bracket starts with, by bracket label and arm id.

        No arm is proposed twice; a small space may give fewer than asked.
        """
        proposed: set[str] = set()
        proposals = {}
        for bracket in self.brackets:
            stream = f"{self.seed}/{bracket.label}"
            new = itertools.islice(self._new_arms(uniform.candidates(self.space.parameters, stream), proposed), bracket.sizes[0])
            proposals[bracket.label] = dict(new)
        return proposals

    def _new_arms(self, points: Iterable[Point], proposed: set[str]) -> Iterator[tuple[str, Point]]:
        fruitless = 0
        for point in points:
            arm = None if infeasible(point, self.space, self.training) else self.arm(point)
            if arm is None or arm.id in proposed:
                fruitless += 1
                if fruitless >= CANDIDATES_PER_ARM:
                    return
                continue
            fruitless = 0
            proposed.add(arm.id)
            yield arm.id, point
