"""The target's final norm and output projection, which speculators reads from the weight files for heads."""

import re
from pathlib import Path
from typing import Any

import torch

from lib.errors import UserError
from lib.target.load import trusts_code
from lib.target.weights import tensor_names

_LAYER = re.compile(r"\.\d+\.")


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


def require_weights(target: Path) -> None:
    """Raise UserError when a layer lacks a weight that other layers have. Engines and transformers may fill it with random numbers."""
    there = tensor_names(target)
    anywhere = {_LAYER.sub(".", name) for name in there}
    wanted = sorted(name for name, _ in _empty_model(target).named_parameters())
    missing = [name for name in wanted if name not in there and _LAYER.search(name) and _LAYER.sub(".", name) in anywhere]
    if missing:
        raise UserError(f"target.path={target} lacks {missing[0]} and {len(missing) - 1} more weights; finish the download")


def _final_norm(target: Path) -> Any:
    """Return the final norm of the target's decoder in fp32 without its weight."""
    model = _empty_model(target)
    decoder = model.get_decoder()
    if not hasattr(decoder, "norm"):
        raise UserError(f"target.path={target}: a {model.config.model_type} model has no final norm; choose another target")
    return decoder.norm.to_empty(device="cpu").float()


def _empty_model(target: Path) -> Any:
    """Return the target's text model without weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = {"trust_remote_code": trusts_code()}
    config = AutoConfig.from_pretrained(target, local_files_only=True, **trust).get_text_config()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **trust)  # type: ignore[no-untyped-call]
