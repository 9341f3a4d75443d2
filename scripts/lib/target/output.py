"""The target's final norm and output projection, which speculators reads from the weight files for heads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.errors import UserError
from lib.target.load import trusts_code

LEAST_AGREEMENT = 0.99
"""Smallest share of positions at which the output must match the target's answers. The rest allows for ties by rounding."""


def match_final_norm(norm: Any, target: Path) -> None:
    """Change a head's copy of the final norm in place so that it computes the same as the target's.

    Some kinds of targets multiply by 1 + weight. speculators 0.9 supports some of these, and only for DFlash. Otherwise heads silently
    learn other tokens than the target's answers.

    Args:
        norm: speculators' module in fp32 with the stored weight.
        target: the folder of the target.

    Raises:
        UserError: the target's final norm is not an RMS norm.
    """
    own = _final_norm(target)
    own.load_state_dict({"weight": norm.weight})
    values = torch.linspace(-2, 2, len(norm.weight))
    with torch.no_grad():
        wanted = own(values)
        if torch.allclose(norm(values), wanted, atol=1e-4):
            return
        norm.weight += 1
        if not torch.allclose(norm(values), wanted, atol=1e-4):
            raise UserError(
                f"target.path={target}: its final norm, {type(own).__name__}, is not supported for training heads; choose another"
            )


def _final_norm(target: Path) -> Any:
    """Return the final norm of the target's decoder in fp32 without its weight. Nothing else of the target is built."""
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = {"trust_remote_code": trusts_code()}
    config = AutoConfig.from_pretrained(target, local_files_only=True, **trust).get_text_config()
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(config, **trust).get_decoder()  # type: ignore[no-untyped-call]
    if not hasattr(decoder, "norm"):
        raise UserError(f"target.path={target}: a {config.model_type} model has no final norm; choose another target")
    return decoder.norm.to_empty(device="cpu").float()


@torch.inference_mode()
def require_own_answers(model: Any, states: Tensor, answers: Tensor, target: Path) -> None:
    """Refuse a target whose output differs from output projection and final norm of its last layer, as heads assume.

    Args:
        model: the target.
        states: outputs of its last layer [B, T, H] at the positions before the answers' tokens.
        answers: its greedy answers [B, T].
        target: its folder, for the message.

    Raises:
        UserError: fewer than `LEAST_AGREEMENT` of the tokens agree.
    """
    output = model.get_output_embeddings()(model.get_decoder().norm(states.to(model.device))).argmax(-1).cpu()
    agree = int((output == answers).sum())
    if agree < LEAST_AGREEMENT * answers.numel():
        differ = f"{answers.numel() - agree} of {answers.numel()}"
        raise UserError(
            f"target.path={target}: heads would learn {differ} tokens other than it answers, because a {type(model).__name__} does not "
            "end in a norm and a projection; choose another target"
        )
