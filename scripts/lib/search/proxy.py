"""The proxy: one number made of held-out accuracies, by which arms are compared while they train. Always DRAFT."""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul


def proxy_value(proxy: str, accuracies: Sequence[float], draft_tokens: int) -> float:
    """Return `acc0`, the accuracy of the first drafted token, or `chain`, the acceptance length that the accuracies would give in serving.

    `accuracies[j]`: share of right tokens at position j where all before were right. The chain is 1 + a0 + a0 a1 + ... over `draft_tokens`
    positions, or over those that were evaluated if these are fewer.
    """
    return accuracies[0] if proxy == "acc0" else 1 + sum(accumulate(accuracies[:draft_tokens], mul))
