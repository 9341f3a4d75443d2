"""Results of a finished search, and the proposals that levers make from them. Estimates are DRAFT."""

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
"""Samples and chain estimate per rung."""


@dataclass(frozen=True)
class Proposal:
    """Another search that may gain acceptance length.

    `expected` is the gain in tokens per step, None where there is no estimate. `at_most` is its upper bound, `how` the method of the
    estimate. A measured gain of at least `needs` proves the lever.
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
"""Proposals, or the reason why there are none."""


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
        """The recipe that all arms of the search share."""
        return self.experiment.search.recipe

    @cached_property
    def point(self) -> Point:
        """The champion's hyperparameters."""
        return Point.model_validate(self.verdict["champion"]["point"])

    @property
    def length(self) -> float:
        """The champion's acceptance length, as the mean over its fresh seeds, or from selection when there are none."""
        mean = self.verdict["champion"].get("mean")
        return float(self.champion["acceptance_length"] if mean is None else mean)

    @property
    def measured_as(self) -> str:
        """The number of measurements behind `length`."""
        side = self.verdict["champion"]
        return "selection, one seed" if side.get("mean") is None else f"n = {side['n']} fresh seeds"

    @property
    def per_position(self) -> list[float]:
        """The share of the champion's drafts accepted up to each position. Empty without a measurement."""
        return list(self.verdict["champion"].get("per_position_acceptance") or [])

    @property
    def smallest_effect(self) -> float:
        """The smallest gain in acceptance length that counts."""
        return float(self.verdict["smallest_effect"])

    @property
    def headroom(self) -> float:
        """The gain in acceptance length if all k drafted tokens were accepted."""
        return self.draft_tokens + 1 - self.length

    @cached_property
    def proxies(self) -> pd.DataFrame:
        """The `ok` proxy rows of this recipe, with the `chain` estimate over k positions."""
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
        """The champion's arm id and learning curve. If it has one rung only, those of the best full arm with several rungs."""
        top = self.proxies[self.proxies["rung"] == self.experiment.search.top_rung].sort_values("chain", ascending=False)
        for arm in [self.champion["arm"], *top["arm"]]:
            rows = self.proxies[self.proxies["arm"] == arm].sort_values("samples")
            if len(rows) > 1:
                return arm, list(zip(rows["samples"].astype(int), rows["chain"].astype(float), strict=True))
        return self.champion["arm"], []

    @cached_property
    def per_chain(self) -> float:
        """Accepted tokens in serving per accepted token of the champion's chain estimate. 1 without an estimate."""
        top = self.proxies[(self.proxies["arm"] == self.champion["arm"]) & (self.proxies["rung"] == self.experiment.search.top_rung)]
        chain = float(top["chain"].mean()) if len(top) else 1.0
        return (float(self.champion["acceptance_length"]) - 1) / (chain - 1) if chain > 1 else 1.0

    def changed(self, **sections: Any) -> Space:
        """Return the space with changed sections or values. Raises ValidationError when they are out of bounds."""
        values = self.space.model_dump(mode="json")
        changes = {name: values[name] | keys if isinstance(keys, dict) else keys for name, keys in sections.items()}
        return Space.model_validate(values | changes)

    def unknown(self) -> str:
        """Return the description of a gain without an estimate."""
        return f"unknown; at most {self.headroom:.2f}, if all {self.draft_tokens} drafted tokens are accepted"
