"""The exchange of a draft head's weights in a running engine, requested through vLLM's own `/collective_rpc`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

STACKED = {
    "q_proj": ("qkv_proj", 0),
    "k_proj": ("qkv_proj", 1),
    "v_proj": ("qkv_proj", 2),
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
}
"""Module of a checkpoint -> the module in which vLLM stacks it, and its place there."""

UNUSED = "t2d"
"""The inverse of d2t in a checkpoint, which vLLM does not load."""


class HeadExchange:
    """Mixed into vLLM's worker class."""

    model_runner: Any
    vllm_config: Any

    def spec_decode_tune_exchange(self, folder: str) -> dict[str, list[str]]:
        """Load the draft head in `folder` in place of the present one, which has the same configuration, tensor names and shapes.

        Weights that draft and target share are not loaded. The draft model then reads those of the target, so the file must hold the same.

        Returns:
            Names of tensors. `foreign`: shared with the target but different in the file; nothing was loaded. `missing`: in the file but
            not in the model after loading.
        """
        draft, config = self.model_runner.get_draft_model(), self.vllm_config.speculative_config
        tensors = {name: tensor for file in sorted(Path(folder).glob("*.safetensors")) for name, tensor in load_file(file).items()}
        tensors.pop(UNUSED, None)
        of_target = set(self.model_runner.get_model().modules())
        shared = {name for name, module in draft.named_modules() if module in of_target}
        common = {name for name in tensors if _place(name)[0] in shared}
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            if foreign := _differing(draft, {name: tensors[name] for name in common}):
                return {"foreign": foreign, "missing": []}
            with _without(draft, shared):
                initialize_layerwise_reload(draft)
                draft.load_weights((name, tensor) for name, tensor in tensors.items() if name not in common)
                finalize_layerwise_reload(draft, config.draft_model_config)
            _fuse(draft)
            missing = _differing(draft, tensors)
        config.model = folder
        return {"foreign": [], "missing": missing}


def _place(name: str) -> tuple[str, str, int | None]:
    """Return module, parameter and place in a stacked parameter where vLLM keeps a tensor of a checkpoint."""
    if name == "d2t":
        return "", "draft_id_to_target_id", None
    module, _, parameter = (name if name.startswith("lm_head.") else f"model.{name}").rpartition(".")
    parent, _, last = module.rpartition(".")
    stacked, place = STACKED.get(last, (last, None))
    return f"{parent}.{stacked}".lstrip("."), parameter, place


def _differing(draft: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that the draft model does not hold."""
    return [name for name, tensor in sorted(tensors.items()) if not _same(_held(draft, name), tensor)]


def _held(draft: nn.Module, name: str) -> Tensor:
    """Return what this worker holds of a tensor of the checkpoint."""
    module_name, parameter, place = _place(name)
    module = draft.get_submodule(module_name)
    whole = _weight(module) if parameter == "weight" else getattr(module, parameter)
    return whole if place is None else whole.split(module.output_partition_sizes)[place]


def _weight(module: Any) -> Tensor:
    """Return a module's weight. On CPU linear layers keep only a packed copy, which a product with the identity unpacks exactly."""
    weight: Tensor = module.weight
    if weight.numel():
        return weight
    width = getattr(module, "input_size_per_partition", module.input_size)
    unpacked: Tensor = module.quant_method.apply(module, torch.eye(width, dtype=weight.dtype, device=weight.device))
    return unpacked.T


def _same(held: Tensor, tensor: Tensor) -> bool:
    """Return whether `held` is the whole tensor or a worker's share of it along one dimension, apart from padding at its end."""
    tensor = tensor.to(held.device, held.dtype)
    split = next((dim for dim, (own, all_) in enumerate(zip(held.shape, tensor.shape, strict=True)) if own != all_), 0)
    shares = tensor.split(held.shape[split], split) if held.dim() else [tensor]
    return any(torch.equal(held.narrow(split, 0, share.shape[split]), share) for share in shares)


@contextmanager
def _without(draft: Any, shared: set[str]) -> Iterator[None]:
    """Take the modules of the target out of the draft model, so that loading cannot reach them, and what DFlash does at its end."""
    taken = [
        (draft.get_submodule(parent), last, draft.get_submodule(name)) for name in shared for parent, _, last in [name.rpartition(".")]
    ]
    for parent, last, _ in taken:
        del parent._modules[last]
    draft.model._build_fused_kv_buffers = lambda: None
    try:
        yield
    finally:
        del draft.model._build_fused_kv_buffers
        for parent, last, module in taken:
            parent._modules[last] = module


def _fuse(draft: Any) -> None:
    """Make anew the copies that DFlash keeps of its weights. On CPU the weights that vLLM would copy are packed."""
    model = draft.model
    if not hasattr(model, "_build_fused_kv_buffers"):
        return
    model._build_fused_kv_buffers()
    if model._fused_kv_weight is not None:
        layers = [layer.self_attn for layer in model.layers]
        model._fused_kv_weight = torch.cat([_weight(layer.qkv_proj)[layer.q_size :] for layer in layers])
