"""One search: its brackets, the arms it proposes, the arms it promotes, and the names its decisions are filed under."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lib.arm import Arm, make_arm
from lib.config import Point, SearchOptions, Space, Training
from lib.errors import UserError
from lib.files import digest
from lib.records import layout
from lib.search.priors import Prior
from lib.search.promotion import Score
from lib.search.schedule import Bracket, require_size
from lib.search.strategy import Observation, Request, Strategy, load_strategy
from lib.space import check_space, infeasible

SEARCH_VERSION = 1
"""Part of every search's identity. Raise it when a change of the code changes which arms are proposed or promoted."""

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
    strategy: str = "hyperband"
    options: SearchOptions = field(default_factory=SearchOptions)
    priors: tuple[Prior, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the search as plain data, from which `from_description` makes the same search."""
        return {
            "version": SEARCH_VERSION,
            "space": self.space.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "recipe": self.recipe,
            "top_k": self.top_k,
            "strategy": self.strategy,
            "options": self.options.model_dump(mode="json"),
            "priors": [prior.model_dump(mode="json") for prior in self.priors],
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "Search":
        """Rebuild a search from `describe()`."""
        values = {name: value for name, value in description.items() if name != "version"}
        return cls(
            **{
                **values,
                "space": Space.model_validate(values["space"]),
                "training": Training.model_validate(values["training"]),
                "options": SearchOptions.model_validate(values["options"]),
                "priors": tuple(Prior.model_validate(prior) for prior in values["priors"]),
            }
        )

    def check(self) -> None:
        """Refuse a search that could not run to its end. Raises UserError."""
        for name in SearchOptions.model_fields.keys() - {*self.reads}:
            if (value := getattr(self.options, name)) != SearchOptions.model_fields[name].default:
                raise UserError(f"search.{name} = {value} is not read by strategy = {self.strategy!r}; remove it")
        check_space(self.space, self.training)
        if not self.propose(self.brackets[0]):
            raise UserError(
                "parameters: no point of the space can be trained that is not known already; widen it, or change training or rungs"
            )
        reach = [min(bracket.sizes[-1], len(self.foreseen.get(bracket.label, range(bracket.sizes[-1])))) for bracket in self.brackets]
        finalists = sum(reach) + len(self.contenders(self.finalists_folder, self.top_rung))
        if self.top_k > finalists:
            raise UserError(f"serving.top_k = {self.top_k} is more than the {finalists} arms that reach the top rung; lower it")

    @property
    def top_rung(self) -> int:
        """The last rung of the ladder."""
        return len(self.space.rungs.samples) - 1

    @cached_property
    def id(self) -> str:
        """A digest of the whole search, so that a decision filed under it never changes."""
        return digest(self.describe())

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys of `options` that the strategy reads."""
        return self._strategy.options

    def resized(self, **options: int) -> "Search":
        """Return the same search with other options."""
        return replace(self, options=self.options.model_copy(update=options))

    @property
    def learns(self) -> bool:
        """Whether a bracket's proposals rest on what the brackets before it have measured."""
        return self._strategy.sampler.learns

    @cached_property
    def brackets(self) -> tuple[Bracket, ...]:
        """The brackets of the strategy, in the order in which they are filled."""
        brackets = self._strategy.schedule(self.space, self.training, self.options)
        require_size(sum(bracket.sizes[0] for bracket in brackets))
        return brackets

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
        raise UserError(f"{layout.search(folder)} belongs to another search; this one has {', '.join(map(self.folder, self.brackets))}")

    def below(self, folder: str, rung: int) -> list[tuple[str, int]]:
        """Return (folder, rung) of the cohorts that a decision rests on.

        The finalists rest on the top rung of every bracket, a promotion on the cohort below, a proposal on nothing, or where the strategy
        learns on every cohort of the brackets before.
        """
        if folder == self.finalists_folder:
            return [(self.folder(bracket), self.top_rung) for bracket in self.brackets]
        bracket = self.bracket_of(folder)
        if rung > bracket.first_rung:
            return [(folder, rung - 1)]
        before = self.brackets[: self.brackets.index(bracket)] if self.learns else ()
        return [(self.folder(earlier), earlier_rung) for earlier in before for earlier_rung in earlier.rungs]

    @cached_property
    def standing(self) -> Arm:
        """The standing configuration as an arm."""
        return self.arm(self.space.standing)

    def arm(self, point: Point) -> Arm:
        """Return the arm a point stands for in this search. Raises InfeasibleError when it cannot be laid out."""
        return make_arm(
            point, seed=self.seed, ranks=self.training.ranks, micro_batch_limit=self.training.micro_batch_limit, recipe=self.recipe
        )

    def propose(self, bracket: Bracket, history: tuple[Observation, ...] = (), taken: Collection[str] = ()) -> dict[str, Point]:
        """Return the points a bracket starts with, by arm id.

        No arm is proposed twice, nor a prior arm that competes for promotion or has failed; a small space may give fewer arms than the
        bracket holds.

        Args:
            bracket: the bracket to fill.
            history: what this search has measured in the brackets before; prior arms are added to it.
            taken: arms that these brackets hold. A strategy that does not learn finds out by itself.
        """
        if not self.learns:
            return self._foreseen[bracket.label]
        return self._fill(bracket, history, {*taken})

    @cached_property
    def foreseen(self) -> dict[str, dict[str, Point]]:
        """The proposals that can be told before anything is trained, by bracket: all, or the first where a strategy learns."""
        return {self.brackets[0].label: self.propose(self.brackets[0])} if self.learns else self._foreseen

    def contenders(self, folder: str, rung: int) -> dict[str, Prior]:
        """Return the prior arms that compete for promotion to `rung` in a bracket, or for the finalists, by arm id.

        A prior arm competes once: with the highest rung at which it was measured, in the first bracket that promotes from there. The
        standing configuration does not compete, for it is trained and measured in any case.
        """
        first = next((self.folder(one) for one in self.brackets if rung in one.rungs[1:]), None)
        if folder not in (first, self.finalists_folder):
            return {}
        measured_at = self.top_rung if folder == self.finalists_folder else rung - 1
        return {arm: prior for arm, prior in self._highest.items() if prior.rung == measured_at}

    @cached_property
    def _strategy(self) -> Strategy:
        return load_strategy(self.strategy)

    @cached_property
    def _foreseen(self) -> dict[str, dict[str, Point]]:
        taken: set[str] = set()
        proposals = {}
        for bracket in self.brackets:
            proposals[bracket.label] = self._fill(bracket, (), taken)
            taken |= proposals[bracket.label].keys()
        return proposals

    @cached_property
    def _highest(self) -> dict[str, Prior]:
        """The prior arms that were measured at a rung, each with its highest."""
        ranked = sorted((prior for prior in self.priors if prior.rung is not None), key=lambda prior: prior.rung or 0)
        arms = {self.arm(prior.point).id: prior for prior in ranked}
        return {arm: prior for arm, prior in arms.items() if arm != self.standing.id}

    @cached_property
    def _not_proposed(self) -> set[str]:
        """The arms that are known already: prior ones that compete somewhere, and those whose training failed."""
        contests = [(self.folder(bracket), rung) for bracket in self.brackets for rung in bracket.rungs[1:]]
        competing = {arm for contest in (*contests, (self.finalists_folder, self.top_rung)) for arm in self.contenders(*contest)}
        return competing | {self.arm(prior.point).id for prior in self.priors if prior.status != "ok"}

    def _fill(self, bracket: Bracket, history: tuple[Observation, ...], taken: set[str]) -> dict[str, Point]:
        learned = tuple(Observation(prior.point, prior.samples, prior.value) for prior in self.priors)
        request = Request(self.space, f"{self.seed}/{bracket.label}", bracket.sizes[0], learned + history)
        proposed: dict[str, Point] = {}
        fruitless = 0
        for point in self._strategy.sampler.candidates(request):
            arm = None if infeasible(point, self.space, self.training) else self.arm(point).id
            if arm is None or arm in proposed or arm in taken or arm in self._not_proposed:
                fruitless += 1
                if fruitless >= CANDIDATES_PER_ARM:
                    break
                continue
            fruitless = 0
            proposed[arm] = point
            if len(proposed) == bracket.sizes[0]:
                break
        return proposed


def score_of(arm: str, prior: Prior) -> Score:
    """Return a prior arm as the score with which it competes."""
    assert prior.rung is not None
    return Score(arm, prior.rung, prior.status, prior.value, prior.reason, prior.source)
