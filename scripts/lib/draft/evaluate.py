"""Held-out accuracy of a draft head, with one definition for all methods. Arms are compared by it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lib.draft.heads import pack_samples, run_head
from lib.draft.memory import together
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.methods import Draft


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Agreement of greedy drafts with the target's greedy choice.

    A draft starts at a token of an answer and looks `positions` tokens ahead within the answer. `counted[j]`: drafts with all tokens before
    j right. `accuracies[j]`: share of these with token j right too, 0 without any. `acc0`: the first accuracy.
    """

    acc0: float
    accuracies: list[float]
    counted: list[int]


class _Hits:
    """A loss term of zero that records where the argmax of head and target agree. speculators calls it with aligned logits."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls.append((logits.argmax(-1) == targets.argmax(-1)).squeeze(0))
        return torch.zeros(logits.shape[:-1], device=logits.device)


@torch.no_grad()
def evaluate_head(model: Any, draft: Draft, features: FeatureSet, batch: int) -> HeldOutAccuracy:
    """Return the accuracy of `model` over all samples of `features`, `batch` per forward pass. Model and RNGs are not changed.

    Ranks share the samples and add up their counts, so each returns the accuracy over all samples. The method chooses the starts in a
    sample. A method that drafts token by token gets the answer's own tokens. With a reduced draft vocabulary, tokens outside it count as
    missed, as in serving. If memory does not suffice, every rank raises (see `lib.draft.memory.out_of_memory`). Raises UserError when no
    answer is long enough for a draft.
    """
    was_training = model.training
    model.eval()
    longest = max(features.lengths)
    counted = torch.zeros(1 + draft.positions, dtype=torch.long, device=model.device)  # drafts, and those right up to each token
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with together(model.device):
        for first in range(rank * batch, len(features), ranks * batch):
            samples = [features.sample(index) for index in range(first, min(first + batch, len(features)))]
            starts = [draft.evaluated(_draft_starts(sample["loss_mask"], draft.positions)) for sample in samples]
            pack = pack_samples(draft, samples, starts, longest, model.device)
            term = _Hits()
            run_head(draft, model, pack, loss_config={"hits": (term, 1.0)}, **draft.evaluation())
            hits = torch.stack(draft.hits(term.calls, pack), dim=1)  # [S, positions]
            if model.t2d is not None:
                ahead = pack.starts[:, None] + 1 + torch.arange(draft.positions, device=pack.starts.device)
                hits = hits & model.t2d[pack.inputs["input_ids"][0, ahead]]
            counted[0] += len(hits)
            counted[1:] += hits.long().cumprod(1).sum(0)
    model.train(was_training)
    if ranks > 1:
        dist.all_reduce(counted)
    counts = counted.tolist()
    if not counts[0]:
        raise UserError(f"features: no held-out answer is long enough to draft {draft.positions} tokens ahead; prepare longer answers")
    accuracies = [right / before if before else 0.0 for before, right in pairwise(counts)]
    return HeldOutAccuracy(accuracies[0], accuracies, counts[:-1])


def _draft_starts(loss_mask: Tensor, positions: int) -> Tensor:
    """Return where drafts can start in a sample. The token and those ahead belong to the answer, and another token precedes it."""
    answer = loss_mask.bool().tolist()
    starts = [start for start in range(1, len(answer) - positions) if all(answer[start : start + positions + 1])]
    return torch.tensor(starts, dtype=torch.long)
