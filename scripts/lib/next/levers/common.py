"""Common values near the champion's that were not tried."""

import math

from lib.config import Range, Values
from lib.hyperparameters import HYPERPARAMETERS, Hyperparameter
from lib.next.finding import Finding, Found, Proposal

FEW = 3


def find(finding: Finding) -> Found:
    """Propose common values between the champion's value and its neighbours, where fewer than three values are searched."""
    found: list[Proposal] = []
    passed = []
    for name, domain in finding.space.parameters.searched().items():
        if not HYPERPARAMETERS[name].common:
            continue
        proposal = _between(finding, HYPERPARAMETERS[name], domain)
        if isinstance(proposal, str):
            passed.append(proposal)
        else:
            found.append(proposal)
    return found or "; ".join(passed)


def _between(finding: Finding, one: Hyperparameter, domain: Values | Range) -> Proposal | str:
    if not isinstance(domain, Values) or len(domain.values) >= FEW:
        return f"{one.label} is searched over a range, or over three values or more"
    own = getattr(finding.point, one.name)
    if own is None:
        return f"the champion has no {one.label} of its own"
    lower = max((value for value in domain.values if value < own), default=-math.inf)
    upper = min((value for value in domain.values if value > own), default=math.inf)
    added = [value for value in one.common if lower < value < upper and value != own]
    if not added:
        return f"no common {one.label} lies between the champion's {own:g} and its neighbours"
    at_most, how = _bound(finding, one)
    return Proposal(
        name=f"{one.label.replace(' ', '-')}s-between",
        title=f"Try the {one.label}{'s' if len(added) > 1 else ''} {' and '.join(f'{value:g}' for value in added)} near the champion's",
        why=f"Only {', '.join(f'{value:g}' for value in domain.values)} {'was' if len(domain.values) == 1 else 'were'} searched; the "
        f"champion's is {own:g}.",
        expected=None,
        at_most=at_most,
        how=how,
        needs=finding.smallest_effect,
        space=finding.changed(parameters={one.name: sorted({*domain.values, *added})}),
    )


def _bound(finding: Finding, one: Hyperparameter) -> tuple[float, str]:
    """Bound the gain by the difference between the best full configurations of the values tried."""
    best = finding.full.groupby(one.column)["chain"].max()
    spread = float(best.max() - best.min()) * finding.per_chain
    if len(best) < 2 or spread >= finding.headroom:
        return finding.headroom, finding.unknown()
    return spread, (
        f"unknown; unlikely above {spread:.2f}, the difference in chain estimate between the best of each {one.label} tried "
        f"({len(finding.full)} configurations trained in full, other axes not fixed)"
    )
