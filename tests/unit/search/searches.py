"""Searches over the shipped EAGLE3 space, with a function in place of training."""

import math
from pathlib import Path

import yaml
from lib.arm import Arm
from lib.config import Config, SearchOptions, Space
from lib.search.promotion import Score
from lib.search.search import Search

SPACE = yaml.safe_load((Path(__file__).parents[3] / "config/spaces/eagle3-draft.yaml").read_text())
FINITE = {"global_batch": [4, 8, 16], "lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], "warmup": [0.0, 0.1]}
STEPPED = FINITE | {"lr": {"low": 1e-4, "high": 1e-1, "scale": "log", "steps": 7}}
RECIPE = {"target": "t", "features": "f", "rungs": [64, 192, 576]}


def make_search(
    strategy: str = "hyperband",
    *,
    seed: int = 0,
    top_k: int = 2,
    training: dict | None = None,
    recipe: dict | None = None,
    options: dict | None = None,
    priors: tuple = (),
    **space: object,
) -> Search:
    """Return a search over the shipped space with sections of it replaced."""
    config = Config.model_validate({"training": training or {}})
    return Search(
        Space.model_validate(SPACE | space),
        config.training,
        seed,
        recipe or RECIPE,
        top_k,
        strategy,
        SearchOptions.model_validate(options or {}),
        priors,
    )


def measured(arm: Arm, rung: int) -> Score:
    """Score an arm: best at lr 2e-3 x sqrt(batch / 4), better with every rung; learning rates above 2e-2 diverge."""
    if arm.point.lr > 2e-2:
        return Score(arm.id, rung, "diverged", None, "loss is nan")
    distance = math.log10(arm.point.lr / 2e-3) - 0.5 * math.log10(arm.point.global_batch / 4)
    return Score(arm.id, rung, "ok", round((0.4 + 0.1 * rung) * math.exp(-(distance**2)) - 0.01 * arm.point.warmup, 6))
