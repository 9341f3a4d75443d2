"""`training`: the recipe that every arm shares."""

from typing import Any, Literal

from pydantic import Field

from lib.hyperparameters import Point
from lib.section import Fraction, Positive, Section, added


class Recipe(Section):
    """The training settings of every arm. The space file has the searched ones. The horizon is the top rung."""

    beta1: Fraction = Field(0.9, description="AdamW beta1")
    beta2: Fraction = Field(0.95, description="AdamW beta2")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay")
    grad_clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    schedule: Literal["cosine", "linear"] = added("cosine", description="how the learning rate falls after its warmup")
    final_lr_fraction: float = Field(0.1, ge=0, le=1, description="learning rate at the horizon, as a fraction of the peak")


class Training(Recipe):
    """The recipe, and how it is laid out on the machine."""

    ranks: Positive = Field(1, description="data-parallel ranks (processes, one per GPU)")
    micro_batch_limit: Positive = Field(4, description="largest micro-batch, in samples per rank, that fits in memory")


def read_recipe(values: dict[str, Any], point: Point) -> Recipe:
    """Return the recipe of an arm. A hyperparameter with the name of a recipe key overrides it."""
    return Recipe.model_validate(values | {name: value for name, value in point.identity.items() if name in Recipe.model_fields})
