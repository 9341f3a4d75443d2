"""Other kinds of draft head."""

import json

from lib.methods import heads
from lib.next.finding import Finding, Found, Proposal


def find(finding: Finding) -> Found:
    """Propose the same search for every kind of head that the ledger does not have for this target."""
    draft = finding.space.draft
    recipes = [json.loads(text) for text in finding.table["recipe"].unique()] if len(finding.table) else []
    tried = {recipe["draft"]["method"] for recipe in recipes if recipe["target"] == finding.recipe["target"]}
    return [
        Proposal(
            name=f"try-{name}",
            title=f"Search the same space with a {head.title} head",
            why=f"No {head.title} head was measured for this target; the best {draft.title} head has acceptance length "
            f"{finding.length:.2f} at k = {finding.draft_tokens} ({finding.measured_as}).",
            expected=None,
            at_most=finding.headroom,
            how=finding.unknown(),
            needs=finding.smallest_effect,
            space=finding.changed(draft=head.in_place_of(draft, finding.draft_tokens)),
        )
        for name, head in heads().items()
        if name not in {draft.method, *tried}
    ] or "the ledger already has heads of every kind for this target"
