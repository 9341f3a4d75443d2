"""The proxies: numbers made of held-out accuracies, by which arms are compared while they train. Always DRAFT.

A proxy is an entry of `PROXIES`, and a value of `proxy` in `lib.config.space`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul


@dataclass(frozen=True)
class Proxy:
    """A number made of an arm's held-out accuracies.

    `value` takes the accuracies, the share of right tokens at each position where all before were right, and the tokens that serving
    drafts. `reads` returns for these tokens how many positions it compares.
    """

    value: Callable[[Sequence[float], int], float]
    reads: Callable[[int], int]


def _chain(accuracies: Sequence[float], draft_tokens: int) -> float:
    """Return 1 + a0 + a0 a1 + ... over `draft_tokens` positions, or over those that were evaluated if these are fewer."""
    return 1 + float(sum(accumulate(accuracies[:draft_tokens], mul)))


PROXIES = {
    "acc0": Proxy(lambda accuracies, _: accuracies[0], reads=lambda _: 1),
    "chain": Proxy(_chain, reads=lambda draft_tokens: draft_tokens),
}
"""`acc0` is the accuracy of the first drafted token, `chain` the acceptance length that the accuracies would give in serving."""


def proxy_value(proxy: str, accuracies: Sequence[float], draft_tokens: int) -> float:
    """Return the value of a proxy where serving drafts `draft_tokens` tokens per step."""
    return PROXIES[proxy].value(accuracies, draft_tokens)
