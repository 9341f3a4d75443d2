"""What a finished search has found, as the levers read it, and what a lever proposes. Estimates are DRAFT."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from lib.config import Point, Space
from lib.experiment import Experiment
from lib.search.calibration import CONFIGURATION
from lib.search.proxy import proxy_value

Curve = list[tuple[int, float]]
"""Samples and the chain estimate, rung by rung."""


@dataclass(frozen=True)
class Proposal:
    """Another search that may gain acceptance length.

    `expected` is the gain in tokens a step, None where nothing tells; `at_most` bounds it; `how` says where these come from. The lever is
    proven from a measured gain of `needs` on.
    """

    name: str
    title: str
    why: str
    expected: float | None
    at_most: float
    how: str
    needs: float
    space: Space


Found = list[Proposal] | str
"""Proposals, or why there is none."""


@dataclass(frozen=True)
class Finding:
    """A search with its ledger, champion record and verdict."""

    experiment: Experiment
    table: pd.DataFrame
    champion: dict[str, Any]
    verdict: dict[str, Any]

    @property
    def space(self) -> Space:
        """The space that was searched."""
        return self.experiment.space

    @property
    def draft_tokens(self) -> int:
        """Tokens drafted per step in serving (k)."""
        return self.space.objective.draft_tokens

    @property
    def recipe(self) -> dict[str, Any]:
        """What all arms of the search share."""
        return self.experiment.search.recipe

    @cached_property
    def point(self) -> Point:
        """The champion's hyperparameters."""
        return Point.model_validate(self.verdict["champion"]["point"])

    @property
    def length(self) -> float:
        """The champion's acceptance length: the mean of its fresh seeds, or before there are any that of its selection."""
        mean = self.verdict["champion"].get("mean")
        return float(self.champion["acceptance_length"] if mean is None else mean)

    @property
    def measured_as(self) -> str:
        """How often `length` was measured."""
        side = self.verdict["champion"]
        return "selection, one seed" if side.get("mean") is None else f"n = {side['n']} fresh seeds"

    @property
    def per_position(self) -> list[float]:
        """Shares of the champion's drafts that were accepted at least so far, per position; empty where there is no measurement."""
        return list(self.verdict["champion"].get("per_position_acceptance") or [])

    @property
    def smallest_effect(self) -> float:
        """The smallest gain in acceptance length that counts."""
        return float(self.verdict["smallest_effect"])

    @property
    def headroom(self) -> float:
        """What acceptance length can still gain when all k drafted tokens are accepted."""
        return self.draft_tokens + 1 - self.length

    @cached_property
    def proxies(self) -> pd.DataFrame:
        """The sound proxy rows of this recipe, with the `chain` estimate over k positions."""
        if not len(self.table):
            return pd.DataFrame(columns=["arm", "rung", "samples", "chain", *CONFIGURATION])
        own = self.table["recipe"] == json.dumps(self.recipe, sort_keys=True)
        rows = self.table[own & (self.table["kind"] == "proxy") & (self.table["status"] == "ok")]
        return rows.assign(chain=[proxy_value("chain", accuracies, self.draft_tokens) for accuracies in rows["accuracies"]])

    @cached_property
    def full(self) -> pd.DataFrame:
        """The configurations trained to the top rung, each with the `chain` estimate averaged over its seeds."""
        top = self.proxies[self.proxies["rung"] == self.experiment.search.top_rung]
        return top.groupby(CONFIGURATION, as_index=False, dropna=False)[["chain"]].mean()

    @cached_property
    def curve(self) -> tuple[str, Curve]:
        """The learning curve of the champion, or where it entered at the top rung of the best full arm that has one: arm and curve."""
        top = self.proxies[self.proxies["rung"] == self.experiment.search.top_rung].sort_values("chain", ascending=False)
        for arm in [self.champion["arm"], *top["arm"]]:
            rows = self.proxies[self.proxies["arm"] == arm].sort_values("samples")
            if len(rows) > 1:
                return arm, list(zip(rows["samples"].astype(int), rows["chain"].astype(float), strict=True))
        return self.champion["arm"], []

    @cached_property
    def per_chain(self) -> float:
        """Accepted tokens in serving per accepted token of the champion's chain estimate; 1 where there is no estimate."""
        top = self.proxies[(self.proxies["arm"] == self.champion["arm"]) & (self.proxies["rung"] == self.experiment.search.top_rung)]
        chain = float(top["chain"].mean()) if len(top) else 1.0
        return (float(self.champion["acceptance_length"]) - 1) / (chain - 1) if chain > 1 else 1.0

    def changed(self, **sections: Any) -> Space:
        """Return the space with keys of its sections, or whole values, changed. Raises ValidationError when they are out of bounds."""
        values = self.space.model_dump(mode="json")
        changes = {name: values[name] | keys if isinstance(keys, dict) else keys for name, keys in sections.items()}
        return Space.model_validate(values | changes)

    def unknown(self) -> str:
        """Return the words for a gain that nothing tells."""
        return f"unknown; at most {self.headroom:.2f}, when all {self.draft_tokens} drafted tokens are accepted"
