"""Nothing is spent without an acknowledgement that names the run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

SPENDING = {"train": "training", "serve": "serving"}


def refusal(jobs: Iterable[Any], acknowledged: Mapping[str, str], run_id: str) -> str | None:
    """Return what would run without acknowledgement, in one line with the flag that would let it; None when nothing would.

    A rule says what it spends by its resource `spends`.
    """
    refused: dict[str, Counter[str]] = {}
    gpus: Counter[str] = Counter()
    for job in jobs:
        spends = job.resources.get("spends")
        if spends is None:
            continue
        if spends not in SPENDING:
            return f"rule {job.name} spends {spends!r}: it can be {' or '.join(SPENDING)}"
        if acknowledged[spends] != run_id:
            refused.setdefault(spends, Counter())[job.name] += 1
            gpu = job.resources.get("gpu", 0)
            gpus[spends] += gpu if isinstance(gpu, int) else 0  # not known yet
    lines = []
    for spends, rules in refused.items():
        what = ", ".join(f"{count} x {rule}" for rule, count in rules.items())
        given = acknowledged[spends]
        why = f"acknowledged is {given!r}, not this run" if given else "not acknowledged"
        flag = f"--kubernetes-experiment-ack-{spends}={run_id}"
        lines.append(f"{SPENDING[spends]} {why}: would run {what} with {gpus[spends]} GPUs; to let it run, pass {flag}")
    return "; ".join(lines) or None
