"""Extract the target's answers to prompts and its hidden states into a folder for `FeatureSet`."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from lib.errors import UserError
from lib.features.prompts import read_prompts
from lib.features.responses import batches_of_one_length, greedy_responses
from lib.features.samples import seal_features, states_name
from lib.files import whole_directory
from lib.target.load import check_target, load_target, target_fingerprint
from lib.target.output import require_own_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def extract_features(
    target_path: Path, prompts_jsonl: Path, out_dir: Path, *, response_tokens: int, aux_layers: list[int], batch: int, threads: int
) -> None:
    """Write to `out_dir` the target's greedy answers of `response_tokens` tokens and its hidden states over each prompt and answer.

    Aux layer k is the output of the target's first k layers (0: the embeddings). The entry after the aux layers is the last layer's output
    before the final norm. The loss mask covers the answers. Raises UserError for an aux layer that the target does not have, a prompt that
    does not fit the target's context, and a target that yields infinities.
    """
    from datasets import Dataset  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    facts = check_target(target_path)
    if not aux_layers or not all(0 <= layer < facts.num_layers for layer in aux_layers):
        raise UserError(
            f"draft.aux_layers={aux_layers}: target.path={target_path} has layers 0 to {facts.num_layers - 1}; name some of them"
        )
    model, _ = load_target(target_path)
    prompts = [list(prompt.token_ids) for prompt in read_prompts(prompts_jsonl)]
    longest = max(map(len, prompts)) + response_tokens
    if longest > facts.max_positions:
        raise UserError(
            f"features.response_tokens={response_tokens} makes {longest} tokens, the target holds {facts.max_positions}; lower it"
        )
    highest = max(map(max, prompts))
    if highest >= facts.vocab_size:
        raise UserError(
            f"target.path={target_path}: its tokenizer makes token {highest}, its embedding holds {facts.vocab_size}; copy it again"
        )
    rows: list[list[int]] = [[] for _ in prompts]
    started, done = time.monotonic(), 0
    with whole_directory(out_dir) as folder:
        (folder / "hidden_states").mkdir()
        for indices in batches_of_one_length(prompts, batch):
            group = [prompts[index] for index in indices]
            responses = greedy_responses(model, group, response_tokens, batch)
            tokens = torch.tensor([prompt + response for prompt, response in zip(group, responses, strict=True)])
            states = hidden_states(model, tokens, aux_layers)
            if not states.isfinite().all():
                raise UserError(f"target.path={target_path} yields infinite hidden states; the target is broken, export it again")
            first = tokens.shape[1] - response_tokens
            require_own_answers(model, states[:, first - 1 : -1, -1], tokens[:, first:], target_path)
            for index, row, row_states in zip(indices, tokens, states, strict=True):
                rows[index] = row.tolist()
                (folder / states_name(index)).write_bytes(save({"hidden_states": row_states.contiguous(), "token_ids": row}))
            done += len(indices)
            seconds_left = (time.monotonic() - started) / done * (len(prompts) - done)
            logger.info("%d of %d samples, %.0f s left", done, len(prompts), seconds_left)
        dataset = Dataset.from_dict(
            {
                "input_ids": rows,
                "loss_mask": [[0] * (len(row) - response_tokens) + [1] * response_tokens for row in rows],
                "seq_len": [len(row) for row in rows],
            }
        )
        dataset.with_format("torch").save_to_disk(folder)
        seal_features(folder, target=target_fingerprint(target_path), aux_layers=aux_layers, hidden_size=facts.hidden_size)


@torch.inference_mode()
def hidden_states(model: "PreTrainedModel", tokens: torch.Tensor, aux_layers: Sequence[int]) -> torch.Tensor:
    """Run the decoder over `tokens` [B, T]. Return [B, T, aux layers + 1, H] on the CPU. The last entry is the last layer's output.

    The layers are hooked because a model's own list of hidden states ends with the normalised ones.
    """
    decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    # The embeddings are layer 0, so layers[k - 1] yields the output of k layers.
    handles = [module.register_forward_hook(keep(k)) for k, module in enumerate([decoder.get_input_embeddings(), *decoder.layers])]
    try:
        decoder(input_ids=tokens.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([outputs[layer] for layer in (*aux_layers, len(decoder.layers))], dim=2).cpu()
