"""Numbers are compared in one context or not at all."""

from typing import Any

import pytest
from lib.errors import UserError
from lib.verdict.comparison import require_comparable
from lib.verdict.record import ProxyRecord

CONTEXT: dict[str, Any] = {
    "model": {"target_fingerprint": "t"},
    "hardware": {"device_type": "cpu", "host": "one", "threads": 1},
    "configuration": {"recipe": {"horizon": 64}, "trial": {"lr": 0.1}},
    "workload": {"heldout_tokens": 640},
    "stack": {"torch": "2.13.0"},
}


def proxy(arm: str, status: str = "ok", **sections: dict[str, Any]) -> ProxyRecord:
    numbers = {"acc0": 0.5, "chain": 1.5, "accuracies": [0.5], "head_sha256": "0", "train_loss": 1.0, "last_lr": 0.1}
    return ProxyRecord(
        arm=arm,
        status=status,
        reason=None if status == "ok" else "loss is nan",
        context={name: values | sections.get(name, {}) for name, values in CONTEXT.items()},
        rung=0,
        cap_samples=8,
        samples=8,
        steps=1,
        wall_seconds=1.0,
        device_seconds=1.0,
        resumed_from_samples=0,
        **(numbers if status == "ok" else dict.fromkeys(numbers)),
    )


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
