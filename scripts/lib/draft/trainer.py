"""Train one draft head from the samples it has seen to a cap, a rung of its ladder.

Everything that happens at a sample is a pure function of the trial and of how many samples came before it: the order, the learning rate, DFlash's
anchors. So a run may stop anywhere and go on elsewhere, and no random state needs keeping.
"""

import logging
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from lib.draft.data import FeatureSet
from lib.draft.heads import HeadSpec, Pack, build_head, head_hash, pack_samples, run_head
from lib.errors import UserError
from lib.target.load import target_fingerprint

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0
_EXPLODED = 3.0


@dataclass(frozen=True)
class Recipe:
    """What the arms of a search share. The loss options are speculators' own and bear its names.

    `horizon`: samples at which the schedule ends; it belongs to the arm and never to a rung. `floor`: last learning rate, as a share of the peak.
    """

    horizon: int
    schedule: Literal["cosine", "linear"] = "cosine"
    floor: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    loss_fn: str = "kl_div"
    ttt_step_loss_decay: float = 1.0
    per_position_loss_weight: Literal["fixed-exp-decay", "dpace"] = "fixed-exp-decay"
    dflash_decay_gamma: float = 4.0
    dpace_alpha: float = 0.5


@dataclass(frozen=True)
class Trial:
    """What an arm varies. `lr`: peak learning rate; `warmup`: share of the horizon over which it rises linearly."""

    global_batch: int
    ranks: int
    micro_batch: int
    accumulation: int
    lr: float
    warmup: float
    seed: int

    def __post_init__(self) -> None:
        if self.ranks * self.micro_batch * self.accumulation != self.global_batch:
            raise UserError(
                f"global_batch={self.global_batch} is not ranks={self.ranks} x micro_batch={self.micro_batch} x accumulation={self.accumulation}"
            )
        if not self.lr > 0 or not 0 <= self.warmup < 1:
            raise UserError(f"lr={self.lr} must be positive and warmup={self.warmup} within [0, 1)")


@dataclass
class Training:
    """A head in training: what it is, what it learns from, and how far it has come."""

    spec: HeadSpec
    recipe: Recipe
    trial: Trial
    features: FeatureSet
    model: Module
    optimizer: torch.optim.AdamW
    rank: int
    samples: int = 0

    @property
    def device(self) -> torch.device:
        """Return where the model lives."""
        return next(self.model.parameters()).device

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a saved state to be this training's own, as plain JSON values."""
        data = {"target": self.features.target, "samples": len(self.features), "aux_layers": self.features.aux_layers}
        parts = {"spec": asdict(self.spec), "recipe": asdict(self.recipe), "trial": asdict(self.trial), "features": data}
        return {part: {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()} for part, values in parts.items()}


@dataclass(frozen=True)
class RungOutcome:
    """What became of a rung. `ok`, `diverged` and `oom` are results; any other failure is an exception.

    `samples`: consumed in all, the batch that failed included; `train_loss`: mean over the last tenth of this rung's steps;
    `seconds`: wall time of this call, by phase and in all; `peak_memory`: bytes, of the device or of the process on a CPU.
    """

    status: Literal["ok", "diverged", "oom"]
    reason: str
    samples: int
    steps: int
    lr: float
    train_loss: float | None
    seconds: dict[str, float]
    peak_memory: int
    head: str | None
