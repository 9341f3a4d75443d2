"""The other proxy, if it ranks arms more like serving does."""

from lib.next.finding import Finding, Found, Proposal
from lib.search.calibration import calibrate, recommend


def find(finding: Finding) -> Found:
    """Propose the other proxy if it ranks the measured configurations better."""
    evidence = "; ".join(one.evidence for one in calibrate(finding.table, finding.draft_tokens, finding.recipe))
    better = recommend(finding.table, finding.draft_tokens, finding.recipe)
    if better in (None, finding.space.proxy):
        return f"no evidence against {finding.space.proxy}; {evidence}"
    return [
        Proposal(
            name=f"proxy-{better}",
            title=f"Drop arms by {better} instead of {finding.space.proxy}",
            why=f"Its ranking of configurations agrees better with vLLM's ({evidence}).",
            expected=None,
            at_most=finding.headroom,
            how=finding.unknown(),
            needs=finding.smallest_effect,
            space=finding.changed(proxy=better),
        )
    ]
