"""Records as tests want them."""

from typing import Any

from lib.verdict.record import ProxyRecord

CONTEXT: dict[str, Any] = {
    "model": {"target_fingerprint": "t"},
    "hardware": {"device_type": "cpu", "host": "one", "threads": 1},
    "configuration": {"recipe": {"horizon": 64}, "trial": {"lr": 0.1}},
    "workload": {"heldout_tokens": 640},
    "stack": {"torch": "2.13.0"},
}


def proxy(arm: str, status: str = "ok", accuracies: tuple[float, ...] = (0.5,), **sections: dict[str, Any]) -> ProxyRecord:
    """Return the record of an arm, with keys of its context's sections changed."""
    numbers = {"acc0": accuracies[0], "accuracies": list(accuracies), "head_sha256": "0", "train_loss": 1.0, "last_lr": 0.1}
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
