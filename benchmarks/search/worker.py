"""Runs one strategy in the interpreter that has its library. It reads a question per line and writes an answer per line.

Started by run.py as `python -m benchmarks.search.worker MODULE:FUNCTION DISTRIBUTION...`.
"""

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from benchmarks.search.outcome import Ladder, Strategy, hyperband_budget, last_step
from benchmarks.search.surface import Config, Surface


def main(target: str, distributions: list[str]) -> None:
    """Say which versions answer, then answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print; standard output is for answers alone
    module, function = target.split(":")
    strategy: Strategy = getattr(importlib.import_module(module), function)
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in distributions}
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        print(json.dumps(evaluate(strategy, **json.loads(line))), file=answers)


def evaluate(strategy: Strategy, rungs: list[int], eta: int, seed: int) -> dict[str, Any]:
    """Run a strategy on the surface of `seed` with Hyperband's budget, and say how far from the best arm it ended."""
    surface = _surface(seed, rungs[-1])
    ladder = Ladder(tuple(rungs), eta)
    outcome = strategy(surface, ladder, hyperband_budget(ladder), seed)
    answer = {"regret": _regret(surface, outcome.promoted), "samples": outcome.samples_consumed, "trials": outcome.trials}
    if outcome.top:
        promoted, samples = last_step(surface, outcome, ladder.cap, seed)
        answer |= {"last_regret": _regret(surface, promoted), "last_samples": samples}
    elif outcome.promoted is None:
        answer |= {"last_regret": answer["regret"], "last_samples": answer["samples"]}
    return answer


@functools.cache
def _surface(seed: int, horizon: int) -> Surface:
    """Return a surface that is shared by all ladders of that horizon: finding its best arm takes longer than most strategies."""
    return Surface(seed, horizon)


def _regret(surface: Surface, promoted: Config | None) -> float:
    """Return the acceptance length given away; nothing promoted drafts nothing."""
    return round(surface.best_acceptance - (1.0 if promoted is None else surface.true_acceptance(promoted)), 5)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
