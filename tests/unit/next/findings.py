"""Finished searches for tests. The champion record is from a real run, the ledger around it is made up."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from lib.config import Point, Space
from lib.experiment import load_experiment
from lib.hyperparameters import HYPERPARAMETERS
from lib.next.finding import Finding
from lib.search.work import Pace

from tests.unit.made_records import SERVED
from tests.workflow.clones import ROOT

CHAMPION = json.loads((ROOT / "benchmarks/embedded/result.json").read_text())["champion"] | {"context": SERVED}
POINT = {"global_batch": 4, "lr": 4.8e-3, "warmup": 0.0, "accum": None}
STANDING = {"global_batch": 8, "lr": 3e-4, "warmup": 0.1, "accum": None}
PACE = Pace(per_sample=0.01, per_job=7.0, per_serving=30.0, source="measured")
CURVE = ((64, (0.35, 0.25, 0.2)), (192, (0.55, 0.45, 0.4)), (576, (0.72, 0.66, 0.6)))
"""Samples and conditional accuracies of the champion, rung by rung."""

FULL = {(4, 1.72e-3, 0.0): 0.62, (8, 4.8e-3, 0.0): 0.58, (8, 2e-3, 0.1): 0.5, (16, 2e-3, 0.1): 0.4}
"""Configurations trained in full besides the champion, and their accuracy at every position."""


def finding(
    *,
    space: dict[str, Any] | None = None,
    point: dict[str, Any] | None = None,
    per_position: tuple[float, ...] = (0.75, 0.52, 0.34),
    mean: float | None = 2.54,
    curve: tuple = CURVE,
    full: dict | None = None,
    extra: tuple = (),
    folder: Path | None = None,
    config: dict[str, Any] | None = None,
) -> Finding:
    """Return a finding over the space of `config`, keys of its sections changed. A changed space is written to `folder`."""
    values = config or {}
    experiment = load_experiment(values)
    if space:
        assert folder
        model = experiment.space.model_dump(mode="json")
        changed = {name: model[name] | keys if isinstance(keys, dict) else keys for name, keys in space.items()}
        path = folder / "space-of-test.yaml"
        path.write_text(json.dumps(Space.model_validate(model | changed).model_dump(mode="json")))
        experiment = load_experiment(values | {"space": str(path)})
    recipe = json.dumps(experiment.search.recipe, sort_keys=True)
    chosen = Point.model_validate(POINT | (point or {}))
    top = experiment.search.top_rung
    rungs = enumerate(curve, top + 1 - len(curve))
    rows = [proxy_row(CHAMPION["arm"], chosen.model_dump(), rung, *at, recipe=recipe) for rung, at in rungs]
    for (batch, lr, warmup), accuracy in (FULL if full is None else full).items():
        one = {"global_batch": batch, "lr": lr, "warmup": warmup}
        rows.append(proxy_row(f"{one}", one, top, experiment.space.rungs.samples[-1], (accuracy,) * 3, recipe=recipe))
    return Finding(experiment, pd.DataFrame([*rows, *extra]), CHAMPION, verdict(mean, per_position, chosen))


def verdict(mean: float | None, per_position: tuple[float, ...], point: Point) -> dict[str, Any]:
    """Return a verdict as the gate gives it."""
    n = 0 if mean is None else 3
    lengths = [[mean - 0.01], [mean], [mean + 0.01]] if mean else []
    side = {"acceptance_lengths": lengths, "point": point.model_dump(), "arms": [], "n": n, "mean": mean, "std": 0.02, "subsets": {}}
    return {
        "id": "1f3a9c",
        "summary": "DRAFT: insufficient data." if mean is None else f"VERDICT: improvement, {mean:.3f}.",
        "rigor": "DRAFT" if mean is None else "VERDICT",
        "search": CHAMPION["search"],
        "outcome": "insufficient data" if mean is None else "improvement",
        "effect": None if mean is None else mean - 1.55,
        "interval": None if mean is None else [mean - 1.61, mean - 1.49],
        "interval_level": 0.95,
        "smallest_effect": 0.05,
        "confidence": 0.95,
        "seeds_to_tell": None,
        "champion": side | {"per_position_acceptance": list(per_position)},
        "standing": side | {"point": STANDING, "mean": mean and 1.55, "per_position_acceptance": [0.4, 0.1, 0.05]},
    }


def proxy_row(
    arm: str, point: dict[str, Any], rung: int, samples: int, accuracies: tuple[float, ...], recipe: str, **more: Any
) -> dict[str, Any]:
    """Return a row of the ledger for a rung."""
    values = {one.column: point.get(name, math.nan) for name, one in HYPERPARAMETERS.items()} | {"accumulation": 1, "seed": 0}
    result = {"rung": rung, "samples": samples, "acc0": accuracies[0], "accuracies": list(accuracies)}
    return {"arm": arm, "kind": "proxy", "status": "ok", "recipe": recipe, **values, **result, **more}
