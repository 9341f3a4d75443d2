"""Refusal of jobs whose spending is not acknowledged with the run id, and of jobs that fit on no node."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SPENDING = {"train": "training", "serve": "serving"}


@dataclass
class _Cost:
    """Rules, GPUs and device-hours of the refused jobs of a kind. `uncounted` jobs do not state their device-hours."""

    rules: Counter[str] = field(default_factory=Counter)
    gpus: int = 0
    hours: float = 0.0
    uncounted: int = 0

    def add(self, job: Any) -> None:
        self.rules[job.name] += 1
        gpu = job.resources.get("gpu", 0)
        self.gpus += gpu if isinstance(gpu, int) else 0  # otherwise not known yet
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
    """Return the acknowledged run id per kind of spending, from the keys `ack_train` and `ack_serve` of a workflow's configuration."""
    return {spends: str(config.get(f"ack_{spends}") or "") for spends in SPENDING}


def refusal(jobs: Iterable[Any], acknowledged: Mapping[str, str], run_id: str) -> str | None:
    """Return one line with the jobs that lack an acknowledgement, their cost and the cure; None if every job is acknowledged.

    A rule states what it spends by its resource `spends`, and how much by `device_hours`, a number or a number as text.
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
        why = f"is acknowledged for {given!r}, not for this run" if given else "not acknowledged"
        lines.append(f"{SPENDING[spends]} {why}: would run {cost}; to let it run, {cure.format(spends=spends, run_id=run_id)}")
    return "; ".join(lines) or None


def oversize(jobs: Iterable[Any], gpus_per_node: int) -> str | None:
    """Return one line that names a rule with more GPUs than a node has; None if there is none or `gpus_per_node` is unknown (0)."""
    for job in jobs:
        gpu = job.resources.get("gpu", 0)
        if gpus_per_node and isinstance(gpu, int) and gpu > gpus_per_node:
            flag = f"--kubernetes-experiment-gpus-per-node={gpus_per_node}"
            return f"rule {job.name} asks for {gpu} GPUs, more than a node has ({flag}): lower its resource gpu"
    return None
