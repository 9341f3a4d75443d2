"""Rank correlations between proxies and acceptance lengths in vLLM over configurations. Everything here is DRAFT."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lib.hyperparameters import HYPERPARAMETERS
from lib.records.comparison import OF_THE_ARM
from lib.search.proxy import PROXIES, proxy_value

CONFIGURATION = [one.column for one in HYPERPARAMETERS.values()]
"""Columns of the ledger that identify a configuration within a recipe. Seeds of a configuration are averaged into one point."""

FOR_INTERVAL = 5
FOR_RECOMMENDATION = 8
LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Calibration:
    """Spearman's rank correlation of a proxy with the measured acceptance length over `n` configurations, with its 95 % interval."""

    proxy: str
    n: int
    correlation: float | None
    interval: tuple[float, float] | None
    evidence: str
    rigor: str = "DRAFT"


def calibrate(table: pd.DataFrame, draft_tokens: int, recipe: dict[str, Any]) -> list[Calibration]:
    """Return how well each proxy ranks the configurations of the ledger `table` that were trained by `recipe`."""
    points = configurations(table, draft_tokens, recipe)
    return [_calibration(proxy, points[proxy], points["acceptance_length"]) for proxy in PROXIES]


def recommend(table: pd.DataFrame, draft_tokens: int, recipe: dict[str, Any]) -> str | None:
    """Return the proxy that ranks configurations better than every other, None without enough evidence.

    The evidence is a 95 % bootstrap interval over configurations of the difference of two correlations that lies above 0.
    """
    points = configurations(table, draft_tokens, recipe)
    columns = {name: points[name].to_numpy(float) for name in PROXIES}
    lengths = points["acceptance_length"].to_numpy(float)
    if len(points) < FOR_RECOMMENDATION or any(rank_correlation(column, lengths) is None for column in (*columns.values(), lengths)):
        return None
    better = {one: all(_ranks_better(columns[one], columns[other], lengths) for other in PROXIES if other != one) for one in PROXIES}
    return next((proxy for proxy, is_better in better.items() if is_better), None)


def _ranks_better(one: Any, other: Any, lengths: Any) -> bool:
    """Return whether one proxy ranks the acceptance lengths significantly better than another."""

    def difference(first: Any, second: Any, lengths: Any) -> float:
        # A resample with a constant side has no ranking.
        return (rank_correlation(first, lengths) or 0.0) - (rank_correlation(second, lengths) or 0.0)

    columns = (one, other, lengths)
    drawn = stats.bootstrap(
        columns, difference, paired=True, vectorized=False, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=0
    )
    return bool(drawn.confidence_interval.low > 0)


def configurations(table: pd.DataFrame, draft_tokens: int, recipe: dict[str, Any]) -> pd.DataFrame:
    """Return top-rung proxies and measured acceptance lengths, one row per configuration with means over its seeds.

    Only arms of `recipe` served with `draft_tokens` are used, and among them the largest group with one training and one serving context.
    """
    nothing = pd.DataFrame(columns=[*CONFIGURATION, *PROXIES, "acceptance_length"])
    if not len(table):
        return nothing
    sound = table[(table["recipe"] == json.dumps(recipe, sort_keys=True)) & (table["status"] == "ok")]
    proxies = sound[(sound["kind"] == "proxy") & (sound["rung"] == len(recipe["rungs"]) - 1)]
    served = sound[sound["kind"] == "serving"]
    served = served[[asked["draft_tokens"] == draft_tokens for asked in served["asked"]]] if len(served) else served
    if not len(proxies) or not len(served):
        return nothing
    values = {proxy: [proxy_value(proxy, accuracies, draft_tokens) for accuracies in proxies["accuracies"]] for proxy in PROXIES}
    proxies = proxies[["arm", *CONFIGURATION]].assign(**values, proxy_context=_contexts(proxies, "proxy"))
    served = served[["arm", "acceptance_length"]].assign(serving_context=_contexts(served, "serving"))
    both = proxies.merge(served, on="arm")
    groups = [group for _, group in both.groupby(["proxy_context", "serving_context"])]
    if not groups:
        return nothing
    means = [group.groupby(CONFIGURATION, as_index=False, dropna=False)[[*PROXIES, "acceptance_length"]].mean() for group in groups]
    return max(means, key=len)


def rank_correlation(one: Any, other: Any) -> float | None:
    """Return Spearman's rank correlation with mean ranks for ties. None if one side is constant."""
    first, second = stats.rankdata(one), stats.rankdata(other)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def interval(correlation: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation over `n` > 3 pairs by Fisher's z with Bonett & Wright's (2000) standard error.

    They give sqrt((1 + rho^2 / 2) / (n - 3)): "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika 65. At a perfect correlation z is infinite. It is replaced by the value half-way to the next lower one that n pairs can
    have, 1 - 12 / (n (n^2 - 1)), so the interval is not a point.
    """
    most = 1 - 6 / (n * (n**2 - 1))
    rho = min(max(correlation, -most), most)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)


def _calibration(proxy: str, values: pd.Series, lengths: pd.Series) -> Calibration:
    n = len(values)
    if n < FOR_INTERVAL:
        return Calibration(proxy, n, None, None, f"{proxy}: insufficient data ({n} of {FOR_INTERVAL} configurations measured)")
    rho = rank_correlation(values, lengths)
    if rho is None:
        return Calibration(proxy, n, None, None, f"{proxy}: all {n} configurations are alike, nothing to rank")
    low, high = interval(rho, n)
    text = f"{proxy}: rank correlation {rho:.2f} [{low:.2f}, {high:.2f}] with measured acceptance over {n} configurations (DRAFT)"
    return Calibration(proxy, n, rho, (low, high), text)


def _contexts(rows: pd.DataFrame, kind: str) -> list[str]:
    """Return the context of every row without the arm, as text."""
    own = tuple(f"context.{key}" for key in (*OF_THE_ARM[kind], "grounding."))
    columns = [name for name in rows.columns if name.startswith("context.") and not f"{name}.".startswith(own)]
    return [row.to_json() for _, row in rows[columns].iterrows()]
