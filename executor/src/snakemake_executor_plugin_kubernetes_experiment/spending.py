"""Nothing is spent without an acknowledgement that names the run, and nothing is asked for that no node has."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SPENDING = {"train": "training", "serve": "serving"}


@dataclass
class _Cost:
    """What the refused jobs of a kind are and ask for. `uncounted` of them do not say how many device-hours they take."""

    rules: Counter[str] = field(default_factory=Counter)
    gpus: int = 0
    hours: float = 0.0
    uncounted: int = 0

    def add(self, job: Any) -> None:
        self.rules[job.name] += 1
        gpu = job.resources.get("gpu", 0)
        self.gpus += gpu if isinstance(gpu, int) else 0  # not known yet
        try:
            self.hours += float(job.resources.get("device_hours"))
        except (TypeError, ValueError):
            self.uncounted += 1

    def __str__(self) -> str:
        what = ", ".join(f"{count} x {rule}" for rule, count in self.rules.items())
        what += f" with {self.gpus} GPUs" if self.gpus else ""
        if self.uncounted == self.rules.total():
            return what
        return f"{what}, {'at least' if self.uncounted else 'about'} {self.hours:,.1f} device-hours"


def acknowledged(config: Mapping[str, Any]) -> dict[str, str]:
    """Return for which run each kind of spending is acknowledged, by the keys `ack_train` and `ack_serve` of a workflow's configuration."""
    return {spends: str(config.get(f"ack_{spends}") or "") for spends in SPENDING}


def refusal(jobs: Iterable[Any], acknowledged: Mapping[str, str], run_id: str) -> str | None:
    """Return what would run without acknowledgement, in one line with its cost and the cure that would let it; None when nothing would.

    A rule says what it spends by its resource `spends`, and how much by `device_hours`, a number or one as text.
    """
    refused: dict[str, _Cost] = {}
    for job in jobs:
        spends = job.resources.get("spends")
        if spends is None:
            continue
        if spends not in SPENDING:
            return f"rule {job.name} spends {spends!r}: it can be {' or '.join(SPENDING)}"
        if not run_id or acknowledged[spends] != run_id:
            refused.setdefault(spends, _Cost()).add(job)
    lines = []
    cure = "add ack_{spends}={run_id} to --config" if run_id else "name the run, add run_id=NAME ack_{spends}=NAME to --config"
    for spends, cost in refused.items():
        given = acknowledged[spends]
        why = f"acknowledged is {given!r}, not this run" if given else "not acknowledged"
        lines.append(f"{SPENDING[spends]} {why}: would run {cost}; to let it run, {cure.format(spends=spends, run_id=run_id)}")
    return "; ".join(lines) or None


def oversize(jobs: Iterable[Any], gpus_per_node: int) -> str | None:
    """Return which rule asks for more GPUs than a node has, in one line; None when none does or a node's number is not known (0)."""
    for job in jobs:
        gpu = job.resources.get("gpu", 0)
        if gpus_per_node and isinstance(gpu, int) and gpu > gpus_per_node:
            flag = f"--kubernetes-experiment-gpus-per-node={gpus_per_node}"
            return f"rule {job.name} asks for {gpu} GPUs, more than a node has ({flag}): lower its resource gpu"
    return None
