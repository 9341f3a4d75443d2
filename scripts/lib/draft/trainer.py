"""Train one draft head from the samples it has seen to a cap, a rung of its ladder.

Whatever happens at a sample is a pure function of the arm and of how many samples came before: the order, the learning rate, the
anchors. So a run may stop after any step and go on elsewhere, and there is no random state to keep.

On several ranks each holds the whole head, takes its share of every global batch, and adds up gradients once per step, whatever the
accumulation. A draft head of a billion weights takes 16 GB in fp32 with its gradient and moments, so there is nothing to shard; and adding
plain sums of losses, which DistributedDataParallel and FSDP average instead, is what lets packs count by their targets. The sample at a
position and its anchors do not depend on the ranks, so neither does what is learned, to rounding.
"""

import json
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from lib.arm import Arm
from lib.config import Recipe, read_recipe
from lib.draft.heads import build_head, head_hash, loss_options, pack_samples, run_head
from lib.draft.memory import out_of_memory, said, together
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.methods import Draft, Pack, read_draft
from lib.target.load import target_fingerprint

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0
_EXPLODED = 3.0  # times the loss of a head that knows nothing, see `divergence`


@dataclass
class Training:
    """A head in training: what it is, what it learns from, and how far it has come."""

    arm: Arm
    draft: Draft
    recipe: Recipe
    features: FeatureSet
    model: Any
    optimizer: torch.optim.AdamW
    samples: int = 0

    @property
    def device(self) -> torch.device:
        """Return where the model lives."""
        device: torch.device = self.model.device
        return device

    @property
    def horizon(self) -> int:
        """Return the samples at which the schedule ends: the top of the arm's ladder, whatever rung it stops at."""
        return int(self.arm.recipe["rungs"][-1])

    @cached_property
    def longest(self) -> int:
        """Return the length of the longest sample."""
        return max(self.features.lengths)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return, as plain JSON values, what must be equal for a saved state to be one of this training."""
        features = {"target": self.features.target, "samples": len(self.features), "sha256": self.features.sha256}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps({"arm": self.arm.record(), "features": features}))
        return plain


@dataclass
class Tally:
    """What a rung has come to so far: the samples it began at, the sum of its steps' losses, the steps, the seconds it took."""

    first: int = 0
    loss: float = 0.0
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RungOutcome:
    """What became of a rung. `ok`, `diverged` and `oom` are results; every other failure is an exception.

    `samples`, `steps`: since the very start, a failed step included. `lr`: of the last step. `train_loss`: mean over the tally's steps,
    None without one. `seconds`: wall time by phase and in `total`. `peak_memory`: bytes of the device; of the process on a CPU.
    `head`: `head_hash` of the weights at the end.
    """

    status: Literal["ok", "diverged", "oom"]
    reason: str
    samples: int
    steps: int
    lr: float
    train_loss: float | None
    seconds: dict[str, float]
    peak_memory: int
    head: str


def start_training(arm: Arm, target: Path, features: FeatureSet) -> Training:
    """Return a training at sample 0, on this rank's GPU if there is one. An arm of several ranks joins the group that torchrun started.

    Raises UserError when the features are not the target's, the group has another size, or this rank has no GPU where others have.
    """
    ranks = arm.layout.ranks
    draft, recipe = read_draft(arm.recipe["draft"]), read_recipe(arm.recipe["training"], arm.point)
    if features.target != (fingerprint := target_fingerprint(target)):
        found = f"features {features.path} are those of target {features.target}"
        raise UserError(f"target.path={target} is {fingerprint}, {found}; extract them again")
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) != ranks:
        raise UserError(f"training.ranks={ranks} but WORLD_SIZE={world}; start the job with torchrun --nproc-per-node={ranks}")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if (gpus := torch.cuda.device_count()) < ranks:
            raise UserError(f"training.ranks={ranks} but this machine has {gpus} GPUs; lower it or ask for more")
        torch.cuda.set_device(device)
    if ranks > 1 and not dist.is_initialized():
        # NCCL connects now, not when a rank that is out of memory has to say so.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", device_id=device if device.type == "cuda" else None)
    model = build_head(draft, target, features, arm.seed).to(device)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (recipe.beta1, recipe.beta2)
    optimizer = torch.optim.AdamW(trained, lr=arm.point.lr, betas=betas, weight_decay=recipe.weight_decay, fused=True)
    return Training(arm, draft, recipe, features, model, optimizer)


def train_rung(
    training: Training, cap: int, tally: Tally | None = None, after_step: Callable[[Training, Tally], None] | None = None
) -> RungOutcome:
    """Train until `cap` samples are consumed, counted from the very start, and return what became of it.

    A rung may be trained in several calls with rising caps, in one process or many, to the same bits; `tally` is what the calls before came
    to. `after_step` is told of every step that went well, except the one that reaches the cap.
    Raises UserError for a cap that global batches do not hit, that lies behind, or that is beyond the horizon.
    """
    batch = training.arm.point.global_batch
    if cap % batch or not training.samples <= cap <= training.horizon:
        bounds = f"from {training.samples}, already consumed, to {training.horizon}, the last rung"
        raise UserError(f"cap={cap} must be a multiple of global_batch={batch} {bounds}")
    clock = _Clock()
    progress = _Progress(training.samples, cap)
    tally = tally or Tally()
    status: Literal["ok", "diverged", "oom"] = "ok"
    reason, lr = "", 0.0
    try:
        while training.samples < cap and status == "ok":
            lr = learning_rate(training, training.samples)
            loss = _gradients(training, clock)
            with clock("update"), together(training.device):
                norm = float(torch.nn.utils.get_total_norm([parameter.grad for parameter in _trained(training)]))
                if not (reason := divergence(training, loss, norm)):
                    _update(training, lr, norm)
            if reason:
                status = "diverged"
            else:
                tally.loss += loss
                tally.steps += 1
            training.samples += batch
            progress.report(training.samples, loss, lr)
            if after_step and status == "ok" and training.samples < cap:
                after_step(training, tally)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        status, reason = "oom", said(error)
        training.samples += batch
    return RungOutcome(
        status=status,
        reason=reason,
        samples=training.samples,
        steps=training.samples // batch,
        lr=lr,
        train_loss=tally.loss / tally.steps if tally.steps else None,
        seconds=clock.seconds(),
        peak_memory=_peak_memory(training.device),
        head=head_hash(training.model),
    )


def learning_rate(training: Training, samples: int) -> float:
    """Return the learning rate of the step that starts after `samples`: linear warm-up, then decay.

    The warm-up counts the step's own batch, so the first step already learns; the floor belongs to the horizon, where no step starts.
    """
    point, horizon, floor = training.arm.point, training.horizon, training.recipe.final_lr_fraction
    warmup = point.warmup * horizon
    if samples + point.global_batch < warmup:
        return point.lr * (samples + point.global_batch) / warmup
    done = max(0.0, samples - warmup) / (horizon - warmup)
    left = (1 + math.cos(math.pi * done)) / 2 if training.recipe.schedule == "cosine" else 1 - done
    return point.lr * (floor + (1 - floor) * left)


def divergence(training: Training, loss: float, grad_norm: float) -> str:
    """Return why a step counts as diverged, or "".

    Either its loss or gradient norm is not finite, or, past the warm-up, the loss is above three times what guessing evenly over the draft
    vocabulary costs at every position ahead. A healthy head never comes near that; one lost to its learning rate is far beyond.
    """
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
    bound = _EXPLODED * training.draft.positions * math.log(training.model.draft_vocab_size)
    warm = training.samples >= training.arm.point.warmup * training.horizon
    return f"loss {loss:.4g} above {bound:.4g}" if warm and loss > bound else ""


def sample_at(position: int, seed: int, count: int) -> int:
    """Return which of `count` samples comes at `position` of the endless stream that shuffles every epoch anew."""
    epoch, place = divmod(position, count)
    return int(_epoch_order(seed, epoch, count)[place])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def _micro_batches(training: Training) -> Iterator[Pack]:
    """Yield this rank's share of the next global batch."""
    arm, draft, features = training.arm, training.draft, training.features
    layout, seed = arm.layout, arm.seed
    for turn in range(layout.accumulation):
        first = training.samples + (turn * layout.ranks + _rank()) * layout.micro_batch
        positions = range(first, first + layout.micro_batch)
        samples = [features.sample(sample_at(position, seed, len(features))) for position in positions]
        starts = None
        if draft.max_anchors:
            masks = [sample["loss_mask"] for sample in samples]
            starts = [draft.anchors_in(mask, (seed, 1, position)) for mask, position in zip(masks, positions, strict=True)]
        yield pack_samples(draft, samples, starts, training.longest, training.device)


def _gradients(training: Training, clock: "_Clock") -> float:
    """Leave the gradient of the next global batch's loss in the weights; return that loss.

    The loss is a mean over the targets of the whole global batch: a pack's mean counts by its targets, whatever pack and rank they are in.
    """
    sums = torch.zeros(2, device=training.device)  # loss, targets
    layout, options = training.arm.layout, loss_options(training.draft, training.model)
    packs = _micro_batches(training)
    with together(training.device):
        for _ in range(layout.accumulation):
            with clock("data"):
                pack = next(packs)
            with clock("forward_backward"):
                loss, metrics = run_head(training.draft, training.model, pack, **options)
                targets = metrics[training.draft.counted]
                torch.autograd.backward(loss * targets)
                sums += torch.stack([loss.detach() * targets, targets])
    with clock("update"):
        if layout.ranks > 1:
            dist.all_reduce(sums)
        targets = sums[1].clamp(min=1)
        for parameter in _trained(training):
            if layout.ranks > 1:
                dist.all_reduce(parameter.grad)
            parameter.grad /= targets
        return float(sums[0] / targets)


def _update(training: Training, lr: float, norm: float) -> None:
    torch.nn.utils.clip_grads_with_norm_(_trained(training), training.recipe.grad_clip, torch.tensor(norm))
    training.optimizer.param_groups[0]["lr"] = lr
    training.optimizer.step()
    training.optimizer.zero_grad()


def _trained(training: Training) -> list[Any]:
    trained: list[Any] = training.optimizer.param_groups[0]["params"]
    return trained


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._phases: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._phases[phase] = self._phases.get(phase, 0.0) + time.monotonic() - started

    def seconds(self) -> dict[str, float]:
        return {**self._phases, "total": time.monotonic() - self._started}


class _Progress:
    """Rank 0's line every few seconds: samples done, loss, speed, time left."""

    def __init__(self, samples: int, cap: int) -> None:
        self._first, self._cap = samples, cap
        self._started = self._last = time.monotonic()

    def report(self, samples: int, loss: float, lr: float) -> None:
        now = time.monotonic()
        if _rank() != 0 or (now - self._last < _PROGRESS_SECONDS and samples < self._cap):
            return
        self._last = now
        speed = (samples - self._first) / (now - self._started)
        left = (self._cap - samples) / speed
        logger.info("samples %d/%d, loss %.4f, lr %.3g, %.1f samples/s, %.0f s left", samples, self._cap, loss, lr, speed, left)
