"""The target's greedy answers, which a draft head has to predict."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def batches_of_one_length(sequences: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Yield indices into `sequences` in batches of at most `batch` with equal lengths, so that no padding is needed."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        by_length[len(sequence)].append(index)
    for indices in by_length.values():
        yield from (indices[first : first + batch] for first in range(0, len(indices), batch))


def greedy_responses(model: "PreTrainedModel", prompts: list[list[int]], new_tokens: int, batch: int) -> list[list[int]]:
    """Continue each prompt (token ids) greedily by exactly `new_tokens` tokens. End-of-text does not stop it, as with `ignore_eos`.

    At most `batch` prompts of equal length are decoded together, so no padding affects the result.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    for indices in batches_of_one_length(prompts, batch):
        continued = _continue(model, torch.tensor([prompts[index] for index in indices], device=model.device), new_tokens)
        for index, response in zip(indices, continued.tolist(), strict=True):
            responses[index] = response
    return responses


@torch.inference_mode()
def _continue(model: "PreTrainedModel", tokens: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy decoding with a key-value cache: [B, T] -> [B, new_tokens]."""
    cache = None
    generated = []
    for _ in range(new_tokens):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens = output.logits[:, -1:].argmax(-1)
        generated.append(tokens)
    return torch.cat(generated, dim=1)
