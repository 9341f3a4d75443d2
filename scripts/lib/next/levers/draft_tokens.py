"""Another number of drafted tokens (k): more if the last position is still accepted, fewer if it almost never is."""

from lib.next.finding import Finding, Found, Proposal

NEAR_ZERO = 0.05
"""Share of drafts accepted up to the last position, below which that position is not worth drafting."""


def find(finding: Finding) -> Found:
    """Propose k + 1 if its estimated gain counts, k - 1 if the last position is almost never accepted."""
    rates, k = finding.per_position, finding.draft_tokens
    if len(rates) != k:
        return "no acceptance per position was measured"
    shown = ", ".join(f"{rate:.2f}" for rate in rates)
    evidence = f"The shares of the champion's drafts accepted up to positions 1 to {k} are {shown} ({finding.measured_as})"
    if k > 1 and rates[-1] < NEAR_ZERO:
        return [
            Proposal(
                name="draft-less",
                title=f"Draft k = {k - 1} tokens instead of {k}",
                why=f"{evidence}. The last token is drafted and verified every time, but rarely accepted.",
                expected=-rates[-1],
                at_most=0.0,
                how="the share of the last position is lost; the gain is in speed, see the throughput in serving.json",
                needs=-finding.smallest_effect,
                space=finding.changed(objective={"draft_tokens": k - 1}),
            )
        ]
    conditional, gain = next_position(rates)
    if gain < finding.smallest_effect:
        return f"another drafted token would gain about {gain:.3f} at most, smallest effect {finding.smallest_effect:g} (DRAFT)"
    options, known = finding.space.draft.for_tokens(k + 1)
    return [
        Proposal(
            name="draft-more",
            title=f"Draft k = {k + 1} tokens instead of {k}",
            why=f"{evidence}. The last token is still worth drafting. Lengths at different k are compared, so check the throughput too.",
            expected=gain,
            at_most=rates[-1],
            how=f"{rates[-1]:.2f} of the drafts reach position {k + 1}; by the trend of the earlier positions about {conditional:.2f} of "
            f"them would be accepted{known and f'; {known}'}",
            needs=finding.smallest_effect,
            space=finding.changed(draft=options, objective={"draft_tokens": k + 1}),
        )
    ]


def next_position(rates: list[float]) -> tuple[float, float]:
    """Return the conditional acceptance of one more position, and its gain in acceptance length.

    If the conditional acceptance fell at the last position, it falls by as much again. If it rose, it stays.
    """
    reached = [1.0, *rates]
    conditional = [rate / before if before else 0.0 for before, rate in zip(reached, rates, strict=False)]
    last = conditional[-1]
    fall = max(0.0, conditional[-2] - last) if len(conditional) > 1 else 0.0
    following = max(0.0, last - fall)
    return following, rates[-1] * following
