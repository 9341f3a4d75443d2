"""Train one draft head from the samples it has seen to a cap, a rung of its ladder.

Whatever happens at a sample is a pure function of the trial and of how many samples came before: the order, the learning rate, DFlash's
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
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lib.draft.heads import HeadSpec, Pack, build_head, head_hash, pack_samples, run_head
from lib.draft.memory import out_of_memory, said, together
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.target.load import target_fingerprint

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0
_EXPLODED = 3.0  # times the loss of a head that knows nothing, see `divergence`


@dataclass(frozen=True)
class Recipe:
    """What the arms of a search share. The loss options are speculators' own and bear its names.

    `horizon`: samples at which the schedule ends; it belongs to the arm, never to a rung.
    `floor`: where the decay ends, as a share of the peak learning rate.
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

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UserError(f"recipe.horizon={self.horizon} must be at least one sample")
        if self.schedule not in ("cosine", "linear"):
            raise UserError(f"recipe.schedule={self.schedule!r} is unknown; choose cosine or linear")
        if self.per_position_loss_weight == "dpace" and self.loss_fn != "ce":
            raise UserError(f"recipe.loss_fn={self.loss_fn!r} does not go with per_position_loss_weight=dpace; set ce")


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
            split = f"ranks={self.ranks} x micro_batch={self.micro_batch} x accumulation={self.accumulation}"
            raise UserError(f"trial.global_batch={self.global_batch} is not {split}; change one of them")
        if not self.lr > 0 or not 0 <= self.warmup < 1:
            raise UserError(f"trial.lr={self.lr} must be positive and trial.warmup={self.warmup} within [0, 1)")


@dataclass
class Training:
    """A head in training: what it is, what it learns from, and how far it has come."""

    spec: HeadSpec
    recipe: Recipe
    trial: Trial
    features: FeatureSet
    model: Any
    optimizer: torch.optim.AdamW
    samples: int = 0

    @property
    def device(self) -> torch.device:
        """Return where the model lives."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def longest(self) -> int:
        """Return the length of the longest sample."""
        return max(self.features.lengths)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return, as plain JSON values, what must be equal for a saved state to be one of this training."""
        features = {"target": self.features.target, "samples": len(self.features), "sha256": self.features.sha256}
        parts = {"spec": asdict(self.spec), "recipe": asdict(self.recipe), "trial": asdict(self.trial), "features": features}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(parts))
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


def start_training(spec: HeadSpec, recipe: Recipe, trial: Trial, target: Path, features: FeatureSet) -> Training:
    """Return a training at sample 0, on this rank's GPU if there is one. With `trial.ranks` > 1 it joins the group that torchrun started.

    Raises UserError when the features are not the target's, the group has another size, or this rank has no GPU where others have.
    """
    if features.target != (fingerprint := target_fingerprint(target)):
        found = f"features {features.path} are those of target {features.target}"
        raise UserError(f"target.path={target} is {fingerprint}, {found}; extract them again")
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) != trial.ranks:
        raise UserError(f"trial.ranks={trial.ranks} but WORLD_SIZE={world}; start the job with torchrun --nproc-per-node={trial.ranks}")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if (gpus := torch.cuda.device_count()) < trial.ranks:
            raise UserError(f"training.ranks={trial.ranks} but this machine has {gpus} GPUs; lower it or ask for more")
        torch.cuda.set_device(device)
    if trial.ranks > 1 and not dist.is_initialized():
        # NCCL connects now, not when a rank that is out of memory has to say so.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", device_id=device if device.type == "cuda" else None)
    model = build_head(spec, target, features, trial.seed).to(device)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=trial.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)
    return Training(spec, recipe, trial, features, model, optimizer)


def train_rung(
    training: Training, cap: int, tally: Tally | None = None, after_step: Callable[[Training, Tally], None] | None = None
) -> RungOutcome:
    """Train until `cap` samples are consumed, counted from the very start, and return what became of it.

    A rung may be trained in several calls with rising caps, in one process or many, to the same bits; `tally` is what the calls before came
    to. `after_step` is told of every step that went well, except the one that reaches the cap.
    Raises UserError for a cap that global batches do not hit, that lies behind, or that is beyond the horizon.
    """
    trial, recipe = training.trial, training.recipe
    if cap % trial.global_batch or not training.samples <= cap <= recipe.horizon:
        bounds = f"from {training.samples}, already consumed, to recipe.horizon={recipe.horizon}"
        raise UserError(f"cap={cap} must be a multiple of global_batch={trial.global_batch} {bounds}")
    clock = _Clock()
    progress = _Progress(training.samples, cap)
    tally = tally or Tally()
    status: Literal["ok", "diverged", "oom"] = "ok"
    reason, lr = "", 0.0
    try:
        while training.samples < cap and status == "ok":
            lr = learning_rate(recipe, trial, training.samples)
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
            training.samples += trial.global_batch
            progress.report(training.samples, loss, lr)
            if after_step and status == "ok" and training.samples < cap:
                after_step(training, tally)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        status, reason = "oom", said(error)
        training.samples += trial.global_batch
    return RungOutcome(
        status=status,
        reason=reason,
        samples=training.samples,
        steps=training.samples // trial.global_batch,
        lr=lr,
        train_loss=tally.loss / tally.steps if tally.steps else None,
        seconds=clock.seconds(),
        peak_memory=_peak_memory(training.device),
        head=head_hash(training.model),
    )


def learning_rate(recipe: Recipe, trial: Trial, samples: int) -> float:
    """Return the learning rate of the step that starts after `samples`: linear warm-up, then decay.

    The warm-up counts the step's own batch, so the first step already learns; the floor belongs to the horizon, where no step starts.
    """
    warmup = trial.warmup * recipe.horizon
    if samples + trial.global_batch < warmup:
        return trial.lr * (samples + trial.global_batch) / warmup
    done = max(0.0, samples - warmup) / (recipe.horizon - warmup)
    left = (1 + math.cos(math.pi * done)) / 2 if recipe.schedule == "cosine" else 1 - done
    return trial.lr * (recipe.floor + (1 - recipe.floor) * left)


def divergence(training: Training, loss: float, grad_norm: float) -> str:
    """Return why a step counts as diverged, or "".

    Either its loss or gradient norm is not finite, or, past the warm-up, the loss is above three times what guessing evenly over the draft
    vocabulary costs at every position ahead. A healthy head never comes near that; one lost to its learning rate is far beyond.
    """
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
    spec = training.spec
    positions = spec.ttt_steps if spec.method == "eagle3" else spec.block_size - 1
    bound = _EXPLODED * positions * math.log(training.model.draft_vocab_size)
    warm = training.samples >= training.trial.warmup * training.recipe.horizon
    return f"loss {loss:.4g} above {bound:.4g}" if warm and loss > bound else ""


def sample_at(position: int, seed: int, count: int) -> int:
    """Return which of `count` samples comes at `position` of the endless stream that shuffles every epoch anew."""
    epoch, place = divmod(position, count)
    return int(_epoch_order(seed, epoch, count)[place])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def _draw_anchors(loss_mask: Tensor, spec: HeadSpec, seed: int, position: int) -> Tensor:
    """Return sorted block starts within a sample, from the places that speculators' `select_anchors` draws from."""
    starts = loss_mask[: max(0, len(loss_mask) - spec.block_size)].nonzero().squeeze(1)
    drawn = np.random.default_rng((seed, 1, position)).permutation(len(starts))[: spec.max_anchors_per_sample]
    return starts[torch.from_numpy(np.sort(drawn))]


def _micro_batches(training: Training) -> Iterator[Pack]:
    """Yield this rank's share of the next global batch."""
    spec, trial, features = training.spec, training.trial, training.features
    for turn in range(trial.accumulation):
        first = training.samples + (turn * trial.ranks + _rank()) * trial.micro_batch
        positions = range(first, first + trial.micro_batch)
        samples = [features.sample(sample_at(position, trial.seed, len(features))) for position in positions]
        anchors = None
        if spec.method == "dflash":
            masks = [sample["loss_mask"] for sample in samples]
            anchors = [_draw_anchors(mask, spec, trial.seed, position) for mask, position in zip(masks, positions, strict=True)]
        yield pack_samples(spec, samples, anchors, training.longest, training.device)


def _gradients(training: Training, clock: "_Clock") -> float:
    """Leave the gradient of the next global batch's loss in the weights; return that loss.

    The loss is a mean over the targets of the whole global batch: a pack's mean counts by its targets, whatever pack and rank they are in.
    """
    sums = torch.zeros(2, device=training.device)  # loss, targets
    options = _loss_options(training)
    counted = "full_acc_0_total" if training.spec.method == "eagle3" else "full_acc_total"
    packs = _micro_batches(training)
    with together(training.device):
        for _ in range(training.trial.accumulation):
            with clock("data"):
                pack = next(packs)
            with clock("forward_backward"):
                loss, metrics = run_head(training.model, pack, **options)
                targets = metrics[counted]
                torch.autograd.backward(loss * targets)
                sums += torch.stack([loss.detach() * targets, targets])
    with clock("update"):
        if training.trial.ranks > 1:
            dist.all_reduce(sums)
        targets = sums[1].clamp(min=1)
        for parameter in _trained(training):
            if training.trial.ranks > 1:
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


def _loss_options(training: Training) -> dict[str, Any]:
    implementation = "fused" if training.device.type == "cuda" else "eager"
    try:
        options, _ = training.model.get_trainer_kwargs(
            **asdict(training.recipe), ttt_steps=training.spec.ttt_steps, loss_implementation=implementation
        )
    except ValueError as error:
        raise UserError(f"recipe.loss_fn={training.recipe.loss_fn!r}: {error}") from None
    options.pop("max_anchors", None)  # DFlash's anchors come with the pack
    return dict(options)


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
