"""The proxy as a function of held-out accuracies."""

from typing import get_args

import pytest
from lib.config import Space
from lib.search.proxy import PROXIES, proxy_value


def test_the_configuration_names_every_proxy() -> None:
    assert get_args(Space.model_fields["proxy"].annotation) == tuple(PROXIES)


@pytest.mark.parametrize(("k", "chain"), [(1, 1.5), (2, 1.625), (3, 1.75), (5, 1.75)])
def test_the_chain_is_of_the_tokens_that_serving_drafts(k: int, chain: float) -> None:
    """Of positions that were never evaluated nothing is known: beyond them it stays as it is."""
    assert proxy_value("chain", (0.5, 0.25, 1.0), k) == chain
    assert proxy_value("acc0", (0.5, 0.25, 1.0), k) == 0.5
