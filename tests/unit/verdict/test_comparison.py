"""Numbers are compared in one context or not at all."""

from typing import Any

import pytest
from lib.errors import UserError
from lib.verdict.comparison import require_comparable

from tests.unit.records import proxy


def test_arms_differ_in_their_trial_and_may_train_on_another_host_of_the_same_kind() -> None:
    require_comparable([proxy("a"), proxy("b", configuration={"trial": {"lr": 0.2}}, hardware={"host": "two", "threads": 2})])


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"stack": {"torch": "2.14.0"}}, "stack.torch"),
        ({"hardware": {"device_type": "cuda"}}, "hardware.device_type"),
        ({"configuration": {"recipe": {"horizon": 128}}}, "configuration.recipe.horizon"),
        ({"workload": {"heldout_tokens": 1280}}, "workload.heldout_tokens"),
    ],
)
def test_proxies_of_different_contexts_are_refused_by_file_and_key(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as refusal:
        require_comparable([proxy("a"), proxy("b", **sections)])
    assert str(refusal.value).startswith(f"results/a/rung0.acc and results/b/rung0.acc were measured in different contexts ({key});")


def test_a_failed_arm_is_compared_with_nobody() -> None:
    require_comparable([proxy("a"), proxy("b", "diverged", stack={"torch": "2.14.0"})])
