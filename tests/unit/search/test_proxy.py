"""The proxy, made of held-out accuracies."""

import pytest
from lib.search.proxy import proxy_value


@pytest.mark.parametrize(("k", "chain"), [(1, 1.5), (2, 1.625), (3, 1.75), (5, 1.75)])
def test_the_chain_is_of_the_tokens_that_serving_drafts(k: int, chain: float) -> None:
    """Of positions that were never evaluated nothing is known: beyond them it stays as it is."""
    assert proxy_value("chain", (0.5, 0.25, 1.0), k) == chain
    assert proxy_value("acc0", (0.5, 0.25, 1.0), k) == 0.5
