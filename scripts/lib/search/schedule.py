"""Schedules of brackets: the first rung of each, and the number of arms at each rung."""

from dataclasses import dataclass

from lib.errors import UserError

MOST_ARMS = 10_000
"""Largest number of arms. With more, a plan takes minutes, and Snakemake's graph hours."""


@dataclass(frozen=True)
class Bracket:
    """A ladder of cohorts: `sizes[i]` arms train to rung `first_rung + i`."""

    label: str
    first_rung: int
    sizes: tuple[int, ...]

    @property
    def rungs(self) -> range:
        """The rungs of the common ladder that this bracket uses."""
        return range(self.first_rung, self.first_rung + len(self.sizes))

    def size(self, rung: int) -> int:
        """Return how many arms train to `rung`."""
        return self.sizes[rung - self.first_rung]


def hyperband(rungs: int, eta: int) -> tuple[Bracket, ...]:
    """Return Hyperband's brackets for a ladder of `rungs` rungs, the one with most arms first.

    Bracket s starts floor((s_max + 1) / (s + 1)) * eta^s arms at rung s_max - s and keeps one in eta at every rung. See table 1 of
    Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18 (2018).
    """
    s_max = rungs - 1
    return tuple(_halving(f"s{s}", s_max - s, (s_max + 1) // (s + 1) * eta**s, rungs, eta) for s in range(s_max, -1, -1))


def require_size(arms: int) -> int:
    """Return a number of arms. Raises UserError when it is too large for a search."""
    if arms > MOST_ARMS:
        raise UserError(f"the search would have more than {MOST_ARMS:,} arms; lower search.arms, rungs.eta or the number of rungs.samples")
    return arms


def in_full(label: str, arms: int, rungs: int) -> Bracket:
    """Return a bracket without early stopping, with `arms` arms that all train to the last of `rungs` rungs."""
    return Bracket(label, rungs - 1, (arms,))


def samples(brackets: tuple[Bracket, ...], caps: tuple[int, ...]) -> int:
    """Return an upper bound of the samples of `brackets` when every rung resumes from the one below. `caps` are the rungs in samples."""
    return sum(
        size * (caps[rung] - (caps[rung - 1] if rung > bracket.first_rung else 0))
        for bracket in brackets
        for rung, size in zip(bracket.rungs, bracket.sizes, strict=True)
    )


def _halving(label: str, first_rung: int, arms: int, rungs: int, eta: int) -> Bracket:
    return Bracket(label, first_rung, tuple(arms // eta**step for step in range(rungs - first_rung)))
