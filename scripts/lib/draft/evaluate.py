"""Held-out accuracy of a draft head, defined alike for every method: the proxy that arms are compared by."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lib.draft.heads import HeadSpec, Pack, pack_samples, run_head
from lib.draft.memory import together
from lib.features.samples import FeatureSet


@dataclass(frozen=True)
class HeldOutAccuracy:
    """How far greedy drafts agree with the target's greedy choice.

    A draft starts at a token of an answer and looks `k` tokens ahead, all of them within the answer.
    `accuracies[j]`: share of the drafts right so far whose token j is right as well, 0 where none is left; `acc0` is the first of them.
    `starts`: drafts counted.
    """

    acc0: float
    accuracies: list[float]
    starts: int


class _Hits:
    """A loss term that speculators calls with aligned logits of head and target; it keeps where their argmax agrees and costs nothing."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls.append((logits.argmax(-1) == targets.argmax(-1)).squeeze(0))
        return torch.zeros(logits.shape[:-1], device=logits.device)


@torch.no_grad()
def evaluate_head(model: Any, spec: HeadSpec, features: FeatureSet, batch: int) -> HeldOutAccuracy:
    """Return the accuracy of `model` over every sample of `features`, `batch` to a forward pass, without effect on the model or any RNG.

    Several ranks share the samples and count together, so that each returns the accuracy over all.
    EAGLE3 drafts from every start, fed with the answer's own tokens; DFlash from `max_anchors_per_sample` evenly spaced starts in a sample.
    With a reduced draft vocabulary an answer's token outside it counts as missed, as it is at serving.
    Where memory does not suffice every rank raises, as `lib.draft.memory.out_of_memory` tells.
    """
    was_training = model.training
    model.eval()
    longest = max(features.lengths)
    counted = torch.zeros(1 + spec.k, dtype=torch.long, device=model.device)  # drafts, and those right up to each token
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with together(model.device):
        for first in range(rank * batch, len(features), ranks * batch):
            samples = [features.sample(index) for index in range(first, min(first + batch, len(features)))]
            starts = [_draft_starts(sample["loss_mask"], spec) for sample in samples]
            pack = pack_samples(spec, samples, starts if spec.method == "dflash" else None, longest, model.device)
            if spec.method == "dflash":
                hits, positions = _dflash_hits(model, spec, pack)
            else:
                hits, positions = _eagle3_hits(model, spec, pack, samples, starts)
            if model.t2d is not None:
                ahead = positions[:, None] + 1 + torch.arange(spec.k, device=positions.device)
                hits = hits & model.t2d[pack.inputs["input_ids"][0, ahead]]
            counted[0] += len(hits)
            counted[1:] += hits.long().cumprod(1).sum(0)
    model.train(was_training)
    if ranks > 1:
        dist.all_reduce(counted)
    counts = counted.tolist()
    accuracies = [right / before if before else 0.0 for before, right in pairwise(counts)]
    return HeldOutAccuracy(accuracies[0], accuracies, counts[0])


def _draft_starts(loss_mask: Tensor, spec: HeadSpec) -> Tensor:
    """Return where drafts start in a sample: the token itself and the `k` after it belong to the answer, and something precedes it."""
    answer = loss_mask.bool().tolist()
    starts = [start for start in range(1, len(answer) - spec.k) if all(answer[start : start + spec.k + 1])]
    if spec.method == "dflash" and len(starts) > spec.max_anchors_per_sample:
        kept = torch.linspace(0, len(starts) - 1, spec.max_anchors_per_sample).long().tolist()
        starts = [starts[index] for index in kept]
    return torch.tensor(starts, dtype=torch.long)


def _eagle3_hits(model: Any, spec: HeadSpec, pack: Pack, samples: list[dict[str, Tensor]], starts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return hits [S, k] and the starts' positions [S] in the pack; there a sample lacks its first token, so a start comes one earlier."""
    term = _Hits()
    run_head(model, pack, ttt_steps=spec.k, loss_config={"hits": (term, 1.0)})
    first, positions = 0, []
    for sample, own in zip(samples, starts, strict=True):
        positions.append(own - 1 + first)
        first += len(sample["input_ids"]) - 1
    where = torch.cat(positions).to(model.device)
    return torch.stack([step[where] for step in term.calls], dim=1), where


def _dflash_hits(model: Any, spec: HeadSpec, pack: Pack) -> tuple[Tensor, Tensor]:
    """Return hits [S, k] and the starts' positions [S] in the pack; slot 0 of a block is the start itself."""
    assert pack.anchors is not None
    term = _Hits()
    run_head(model, pack, loss_config={"hits": (term, 1.0)})
    used = pack.anchors >= 0
    return term.calls[0].view(-1, spec.block_size)[used, 1 : spec.k + 1], pack.anchors[used]
