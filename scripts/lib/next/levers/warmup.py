"""Warmups that were never tried near the champion's."""

import math

from lib.config import Values
from lib.next.finding import Finding, Found, Proposal

COMMON = (0.0, 0.02, 0.05, 0.1)
"""Warmups in common use, as shares of the horizon."""

FEW = 3


def find(finding: Finding) -> Found:
    """Propose common warmups between the champion's and its neighbours, where fewer than three values are searched."""
    domain, own = finding.space.parameters.warmup, finding.point.warmup
    if not isinstance(domain, Values) or len(domain.values) >= FEW:
        return "warmup is searched over a range, or over three values or more"
    lower = max((value for value in domain.values if value < own), default=-math.inf)
    upper = min((value for value in domain.values if value > own), default=math.inf)
    added = [value for value in COMMON if lower < value < upper and value != own]
    if not added:
        return f"no common warmup lies between the champion's {own:g} and its neighbours"
    names = [f"{value:g}" for value in added]
    at_most, how = _bound(finding)
    return [
        Proposal(
            name="warmups-between",
            title=f"Try the warmup{'s' if len(added) > 1 else ''} {' and '.join(names)} near the champion's",
            why=f"Only {', '.join(f'{value:g}' for value in domain.values)} {'was' if len(domain.values) == 1 else 'were'} searched; the "
            f"champion's is {own:g}.",
            expected=None,
            at_most=at_most,
            how=how,
            needs=finding.smallest_effect,
            space=finding.changed(parameters={"warmup": sorted({*domain.values, *added})}),
        )
    ]


def _bound(finding: Finding) -> tuple[float, str]:
    """Bound the gain by the difference between the best full configurations of the warmups tried, the size that warmup matters."""
    best = finding.full.groupby("warmup")["chain"].max()
    spread = float(best.max() - best.min()) * finding.per_chain
    if len(best) < 2 or spread >= finding.headroom:
        return finding.headroom, finding.unknown()
    return spread, (
        f"unknown; hardly more than {spread:.2f}, by which the best of each warmup tried differ in their chain estimate "
        f"({len(finding.full)} configurations trained in full, other axes not held fixed)"
    )
