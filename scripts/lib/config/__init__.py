"""The configuration, with a file per section and a field per key for its type, range, default, unit and meaning.

A test compares `config/config.yaml` and `config/schema*.json` with these models. Nothing here imports torch or Snakemake.
"""

from lib.config.budget import Budget, Cost
from lib.config.configuration import FIRST_FRESH_SEED, Config, parse_config
from lib.config.features import Features
from lib.config.publish import Publish
from lib.config.search import STRATEGIES, SearchOptions
from lib.config.serving import ENGINES, Serving, WorkloadOptions
from lib.config.space import Objective, Parameters, Range, Rungs, Space, Values, load_space
from lib.config.streaming import Streaming
from lib.config.target import Target, TinyTarget
from lib.config.training import Recipe, Training, read_recipe
from lib.config.verdict import VerdictOptions
from lib.hyperparameters import Point
from lib.section import schema

__all__ = [
    "ENGINES",
    "FIRST_FRESH_SEED",
    "STRATEGIES",
    "Budget",
    "Config",
    "Cost",
    "Features",
    "Objective",
    "Parameters",
    "Point",
    "Publish",
    "Range",
    "Recipe",
    "Rungs",
    "SearchOptions",
    "Serving",
    "Space",
    "Streaming",
    "Target",
    "TinyTarget",
    "Training",
    "Values",
    "VerdictOptions",
    "WorkloadOptions",
    "load_space",
    "parse_config",
    "read_recipe",
    "schema",
]
