"""Axes with the champion at their edge, where values beyond were not tried."""

import math

import pandas as pd
from scipy import stats

from lib.config import Range, Values
from lib.hyperparameters import HYPERPARAMETERS, Hyperparameter
from lib.next.finding import Finding, Found, Proposal
from lib.space import bounds, infeasible, position_of, rounded

OUTER = 0.1
"""Share of a range on its scale that counts as its edge."""

FOR_SLOPE = 4
"""Smallest number of full configurations to estimate a slope from."""


def find(finding: Finding) -> Found:
    """Propose to widen every axis with the champion at its edge."""
    found: list[Proposal] = []
    passed = []
    for name, domain in finding.space.parameters.searched().items():
        value = getattr(finding.point, name)
        if value is None or (bound := beyond(name, domain, value)) is None:
            continue
        proposal = _widen(finding, name, domain, value, bound)
        if isinstance(proposal, str):
            passed.append(proposal)
        else:
            found.append(proposal)
    return found or "; ".join(passed) or "the champion lies inside every axis that is searched"


def beyond(name: str, domain: Values | Range, value: float) -> float | None:
    """Return the new bound of an axis, one step beyond the edge at which `value` lies. None when it lies inside.

    A list steps by the ratio or difference of its last two values, depending on the hyperparameter's scale. A range steps by half its
    width on its own scale.
    """
    one = HYPERPARAMETERS[name]
    if isinstance(domain, Values):
        ordered = sorted(domain.values)
        if len(ordered) < 2 or value not in (ordered[0], ordered[-1]):
            return None
        edge, next_to = ordered[:2] if value == ordered[0] else ordered[:-3:-1]
        bound = 2 * edge - next_to if one.scale == "linear" else edge * edge / next_to
    else:
        position = position_of(domain, value)
        if not domain.low <= value <= domain.high or OUTER < position < 1 - OUTER:
            return None
        steps = domain.steps - 1 if domain.steps else 2
        share = max(1, steps // 2) / steps * (1 if position > 0.5 else -1)
        edge = domain.high if position > 0.5 else domain.low
        bound = edge * (domain.high / domain.low) ** share if domain.scale == "log" else edge + share * (domain.high - domain.low)
    if one.whole:
        return float(round(bound))
    return rounded(bound) if one.ge is None else max(one.ge, rounded(bound))


def widened(domain: Values | Range, bound: float) -> Values | Range:
    """Return a domain that reaches to `bound`. A range with steps keeps their spacing."""
    if isinstance(domain, Values):
        return Values(values=tuple(sorted({*domain.values, bound})))
    low, high = min(domain.low, bound), max(domain.high, bound)
    steps = domain.steps and domain.steps + max(1, (domain.steps - 1) // 2)
    return Range(low=low, high=high, scale=domain.scale, steps=steps)


def _widen(finding: Finding, name: str, domain: Values | Range, value: float, bound: float) -> Proposal | str:
    one, (low, high) = HYPERPARAMETERS[name], bounds(domain)
    upwards = bound > high
    if low <= bound <= high or not one.allows(bound):
        return f"{name} = {value:g} is at the edge, but nothing lies beyond"
    tried = finding.full[one.column]
    known = finding.full[tried >= bound] if upwards else finding.full[tried <= bound]
    if len(known):
        best, own = known["chain"].max(), finding.full["chain"].max()
        return f"{name} = {value:g} is at the edge, but {bound:g} and beyond was tried (chain {best:.2f} against {own:.2f}, DRAFT)"
    space = finding.changed(parameters={name: widened(domain, bound).model_dump(mode="json")})
    reason = infeasible(finding.point.model_copy(update={name: one.typed(bound)}), space, finding.experiment.config.training)
    if reason:
        return f"{name} = {value:g} is at the edge, but {bound:g} cannot be trained: {reason}"
    expected, how = _gain(finding, one, value, bound)
    return Proposal(
        name=f"widen-{name.replace('_', '-')}-{'up' if upwards else 'down'}",
        title=f"Widen {name} {'up' if upwards else 'down'} to {bound:g}",
        why=f"The champion's {name} = {value:g} lies at the {'upper' if upwards else 'lower'} edge of {low:g} to {high:g}.",
        expected=expected,
        at_most=finding.headroom,
        how=how,
        needs=finding.smallest_effect,
        space=space,
    )


def _gain(finding: Finding, one: Hyperparameter, value: float, bound: float) -> tuple[float | None, str]:
    """Estimate the gain from the slope of the chain estimate along the axis over configurations trained in full."""
    full = finding.full.dropna(subset=[one.column])
    if len(full) < FOR_SLOPE or full[one.column].nunique() < 2:
        return None, f"{finding.unknown()} (slope: {len(full)} configurations trained in full, too few or all alike)"
    places = _scaled(one, pd.concat([full[one.column], pd.Series([value, bound])]))
    fit = stats.linregress(places[:-2], full["chain"])
    gain = float(fit.slope) * (places[-1] - places[-2]) * finding.per_chain
    if gain <= 0:
        return None, f"{finding.unknown()} (the {len(full)} configurations trained in full have no slope in this direction)"
    return (
        min(gain, finding.headroom),
        f"slope of the chain estimate along {one.name} over {len(full)} configurations trained in full, r = {fit.rvalue:.2f}, extrapolated "
        f"to {bound:g}; other axes not fixed",
    )


def _scaled(one: Hyperparameter, values: pd.Series) -> list[float]:
    return [float(value) if one.scale == "linear" else math.log(value) for value in values]
