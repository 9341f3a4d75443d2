"""One search with its brackets, its proposed and promoted arms, and the names of its decisions."""

from collections.abc import Collection, Sequence
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
"""Part of every search's identity. Raise it when a code change changes which arms are proposed or promoted."""

CANDIDATES_PER_ARM = 1000
"""Number of draws without a new feasible arm after which a space counts as exhausted."""


@dataclass(frozen=True)
class Search:
    """Everything that decides which arms are trained and how far. `recipe` is plain data shared by all arms."""

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
        """Raise UserError for a search that cannot run to its end."""
        for name in SearchOptions.model_fields.keys() - {*self.reads}:
            if (value := getattr(self.options, name)) != SearchOptions.model_fields[name].default:
                raise UserError(f"search.{name} = {value} is not read by strategy = {self.strategy!r}; remove it")
        check_space(self.space, self.training)
        if not self.propose(self.brackets[0]):
            raise UserError("parameters: every trainable point of the space is already known; widen it, or change training or rungs")
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
        """A digest of the whole search. A decision filed under it never changes."""
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
        """Whether a bracket's proposals depend on the measurements of earlier brackets."""
        return self._strategy.sampler.learns

    @cached_property
    def brackets(self) -> tuple[Bracket, ...]:
        """The brackets of the strategy in the order they are filled."""
        brackets = self._strategy.schedule(self.space, self.training, self.options)
        require_size(sum(bracket.sizes[0] for bracket in brackets))
        return brackets

    def folder(self, bracket: Bracket) -> str:
        """Return the folder name of a bracket's decisions. A changed search has other folders."""
        return f"{bracket.label}-{self.id}"

    @property
    def finalists_folder(self) -> str:
        """The folder name of the decision that picks the arms to serve."""
        return f"finalists-{self.id}"

    def bracket_of(self, folder: str) -> Bracket:
        """Return the bracket filed under `folder`. Raises UserError when this search has none."""
        for bracket in self.brackets:
            if self.folder(bracket) == folder:
                return bracket
        raise UserError(f"{layout.search(folder)} belongs to another search; this one has {', '.join(map(self.folder, self.brackets))}")

    @property
    def cohorts(self) -> list[tuple[str, int]]:
        """(folder, rung) of every cohort that trains, in the order of the schedule."""
        return [(self.folder(bracket), rung) for bracket in self.brackets for rung in bracket.rungs]

    def below(self, folder: str, rung: int) -> list[tuple[str, int]]:
        """Return (folder, rung) of the cohorts that a decision depends on.

        The finalists depend on the top rung of every bracket, and a promotion on the cohort below. A proposal depends on every cohort of
        earlier brackets if the strategy learns, else on nothing.
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

    def shares(self, finalists: Sequence[str], engines: int) -> list[list[str]]:
        """Return the arms that each engine measures, in order. The finalists and the standing configuration are dealt out in turn."""
        arms = list(dict.fromkeys([*finalists, self.standing.id]))
        return [arms[number::engines] for number in range(engines)]

    def arm(self, point: Point) -> Arm:
        """Return the arm of a point in this search. Raises InfeasibleError when no layout fits."""
        return make_arm(
            point, seed=self.seed, ranks=self.training.ranks, micro_batch_limit=self.training.micro_batch_limit, recipe=self.recipe
        )

    def propose(self, bracket: Bracket, history: tuple[Observation, ...] = (), taken: Collection[str] = ()) -> dict[str, Point]:
        """Return the points a bracket starts with, by arm id.

        No arm is proposed twice. Prior arms that compete for promotion or have failed are not proposed. A small space may have fewer arms
        than the bracket.

        Args:
            bracket: the bracket to fill.
            history: the measurements of earlier brackets. Prior arms are added.
            taken: the arms of these brackets, only needed by a strategy that learns.
        """
        if not self.learns:
            return self._foreseen[bracket.label]
        return self._fill(bracket, history, {*taken})

    @cached_property
    def foreseen(self) -> dict[str, dict[str, Point]]:
        """The proposals known before training, by bracket. A strategy that learns has only the first bracket."""
        return {self.brackets[0].label: self.propose(self.brackets[0])} if self.learns else self._foreseen

    def contenders(self, folder: str, rung: int) -> dict[str, Prior]:
        """Return the prior arms that compete for promotion to `rung` in a bracket, or for the finalists, by arm id.

        A prior arm competes once, at the highest rung whose samples it matches, in the first bracket that promotes from there. The standing
        configuration does not compete, because it is trained and measured in any case.
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
        """The prior arms measured at a rung, each at its highest rung."""
        ranked = sorted((prior for prior in self.priors if prior.rung is not None), key=lambda prior: prior.rung or 0)
        arms = {self.arm(prior.point).id: prior for prior in ranked}
        return {arm: prior for arm, prior in arms.items() if arm != self.standing.id}

    @cached_property
    def _not_proposed(self) -> set[str]:
        """The prior arms that compete or have failed, which are not proposed again."""
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
    """Return the score of a prior arm."""
    assert prior.rung is not None
    return Score(arm, prior.rung, prior.status, prior.value, prior.reason, prior.source)
