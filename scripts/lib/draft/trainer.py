"""Train one draft head from the samples it has consumed to a cap, the samples of a rung.

Sample order, learning rate and anchors are pure functions of the arm and of the number of samples so far. A run can stop after any step and
resume elsewhere without a saved random state.

Every rank holds the whole head, takes its share of every global batch, and reduces gradients once per step for any accumulation. A head
with a billion weights takes 16 GB in fp32 with gradient and moments, so sharding is not needed. Losses are summed and not averaged as in
DistributedDataParallel and FSDP, so that packs count by their targets. The sample at a position and its anchors do not depend on the ranks,
so the trained weights depend on them only by rounding.
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
_EXPLODED = 3.0  # times the loss of uniform guessing, see `divergence`


@dataclass
class Training:
    """A head in training with its data and its progress."""

    arm: Arm
    draft: Draft
    recipe: Recipe
    features: FeatureSet
    model: Any
    optimizer: torch.optim.AdamW
    samples: int = 0

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        device: torch.device = self.model.device
        return device

    @property
    def horizon(self) -> int:
        """Return the samples at which the schedule ends, the top rung of the arm."""
        return int(self.arm.recipe["rungs"][-1])

    @cached_property
    def longest(self) -> int:
        """Return the length of the longest sample."""
        return max(self.features.lengths)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return as JSON values the settings that a saved state must share with this training."""
        features = {"target": self.features.target, "samples": len(self.features), "sha256": self.features.sha256}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps({"arm": self.arm.record(), "features": features}))
        return plain


@dataclass
class Tally:
    """Running totals of a rung: samples at its begin, sum of step losses, steps, seconds."""

    first: int = 0
    loss: float = 0.0
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RungOutcome:
    """The outcome of a rung. `ok`, `diverged` and `oom` are results. Every other failure is an exception.

    `samples`, `steps`: counted from scratch, including a failed step. `lr`: learning rate of the last step. `train_loss`: mean over the
    tally's steps, None without steps. `seconds`: wall time by phase and in `total`. `peak_memory`: bytes of the device, on a CPU of the
    process. `head`: `head_hash` of the final weights.
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
    """Return a training at sample 0, on this rank's GPU if there is one. With several ranks it joins the group started by torchrun.

    Raises UserError when the features belong to another target, the group has another size, or this rank has no GPU but others have.
    """
    ranks = arm.layout.ranks
    draft, recipe = read_draft(arm.recipe["draft"]), read_recipe(arm.recipe["training"], arm.point)
    if features.target != (fingerprint := target_fingerprint(target)):
        found = f"but features {features.path} are from target {features.target}"
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
        # Let NCCL connect now, not when a rank has to report that it is out of memory.
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
    """Train until `cap` samples are consumed, counted from scratch, and return the outcome.

    Several calls with rising caps, in one or more processes, give the same bits. `tally` holds the totals of earlier calls. `after_step` is
    called after every successful step except the one that reaches the cap. Raises UserError for a cap that is no multiple of the global
    batch, is already passed, or is beyond the horizon.
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
    """Return the learning rate of the step that starts after `samples`, with linear warmup and then decay.

    The warmup counts the step's own batch, so the first step has a rate above 0. The floor is reached at the horizon, where no step starts.
    """
    point, horizon, floor = training.arm.point, training.horizon, training.recipe.final_lr_fraction
    warmup = point.warmup * horizon
    if samples + point.global_batch < warmup:
        return point.lr * (samples + point.global_batch) / warmup
    done = max(0.0, samples - warmup) / (horizon - warmup)
    left = (1 + math.cos(math.pi * done)) / 2 if training.recipe.schedule == "cosine" else 1 - done
    return point.lr * (floor + (1 - floor) * left)


def divergence(training: Training, loss: float, grad_norm: float) -> str:
    """Return the reason why a step counts as diverged, or "".

    A step diverges if its loss or gradient norm is not finite. After the warmup it also diverges if the loss exceeds three times the loss
    of uniform guessing over the draft vocabulary at every position.
    """
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
    bound = _EXPLODED * training.draft.positions * math.log(training.model.draft_vocab_size)
    warm = training.samples >= training.arm.point.warmup * training.horizon
    return f"loss {loss:.4g} above {bound:.4g}" if warm and loss > bound else ""


def sample_at(position: int, seed: int, count: int) -> int:
    """Return the index of the sample at `position` in an endless stream of `count` samples, reshuffled every epoch."""
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
    """Compute the gradient of the next global batch's loss into the weights, and return the loss.

    The loss is a mean over the targets of the whole global batch, so each pack's mean is weighted by its number of targets.
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
    """Logs samples, loss, speed and time left on rank 0 every few seconds."""

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
