"""The proxies are numbers computed from held-out accuracies to compare arms during training. Always DRAFT.

A proxy is an entry of `PROXIES`, and a value of `proxy` in `lib.config.space`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul


@dataclass(frozen=True)
class Proxy:
    """A number computed from an arm's held-out accuracies.

    `value` takes the accuracies and the number of tokens drafted in serving. An accuracy is the share of right tokens at a position given
    that all earlier ones were right. `reads` returns the number of positions used for a number of drafted tokens.
    """

    value: Callable[[Sequence[float], int], float]
    reads: Callable[[int], int]


def _chain(accuracies: Sequence[float], draft_tokens: int) -> float:
    """Return 1 + a0 + a0 a1 + ... over `draft_tokens` positions, or over all evaluated positions if there are fewer."""
    return 1 + float(sum(accumulate(accuracies[:draft_tokens], mul)))


PROXIES = {
    "acc0": Proxy(lambda accuracies, _: accuracies[0], reads=lambda _: 1),
    "chain": Proxy(_chain, reads=lambda draft_tokens: draft_tokens),
}
"""`acc0` is the accuracy of the first drafted token, `chain` the acceptance length that the accuracies would give in serving."""


def proxy_value(proxy: str, accuracies: Sequence[float], draft_tokens: int) -> float:
    """Return the value of a proxy for serving with `draft_tokens` tokens per step."""
    return PROXIES[proxy].value(accuracies, draft_tokens)
