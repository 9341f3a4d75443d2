"""The other kind of draft head."""

import json

from lib.next.finding import Finding, Found, Proposal

TITLES = {"eagle3": "EAGLE3", "dflash": "DFlash"}


def find(finding: Finding) -> Found:
    """Propose the same search for the other kind of head, where the ledger holds none for this target."""
    draft = finding.space.draft
    other = "dflash" if draft.method == "eagle3" else "eagle3"
    recipes = [json.loads(text) for text in finding.table["recipe"].unique()] if len(finding.table) else []
    tried = [recipe for recipe in recipes if recipe["target"] == finding.recipe["target"] and recipe["draft"]["method"] == other]
    if tried:
        return f"{TITLES[other]} heads for this target are in the ledger already"
    block = max(draft.block_size, finding.draft_tokens + 1)
    return [
        Proposal(
            name=f"try-{other}",
            title=f"Search the same space with a {TITLES[other]} head",
            why=f"Every head measured for this target is {TITLES[draft.method]}; the best has acceptance length {finding.length:.2f} at "
            f"k = {finding.draft_tokens} ({finding.measured_as}).",
            expected=None,
            at_most=finding.headroom,
            how=finding.unknown(),
            needs=finding.smallest_effect,
            space=finding.changed(draft={"method": other, "block_size": block}),
        )
    ]
