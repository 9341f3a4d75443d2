"""Repairs of vLLM's CPU kernels. Each is applied only if its own check shows the fault.

A check runs the kernel on a few numbers and compares the output with a plain computation. It takes microseconds and does not read the
version of vLLM. A correct vLLM is left alone, and a faulty one is repaired whatever its version. A kernel that no longer exists raises,
because no server is better than one with unchecked numbers.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

logger = logging.getLogger("vllm.spec_decode_tune")

applied: list[str] = []
"""Names of the repairs applied in this process."""

checked = False
"""Whether vLLM has loaded the plugin in this process. Only then is `applied` complete."""


class Repair(NamedTuple):
    """One fault: its name, a check that returns whether it is present, and the cure."""

    name: str
    shows: Callable[[], bool]
    cure: Callable[[], None]


def repair_cpu_kernels() -> None:
    """Check every kernel of `REPAIRS` and repair the faulty ones, with one log line each."""
    import vllm._custom_ops  # noqa: F401  (loads the compiled kernels)

    for repair in REPAIRS:
        if repair.shows():
            repair.cure()
            applied.append(repair.name)
            logger.warning("repaired %s: this vLLM computes it wrongly on CPU", repair.name)


def sampling_expansion_is_wrong() -> bool:
    """Return whether per-request sampling parameters fail to reach the tokens.

    The rejection sampler spreads temperature, top_k and top_p over the draft tokens of each request with the `expand` kernel. The CPU
    version of vLLM 0.32.0 converts the output to int64 first and writes into that copy. The caller keeps uninitialised memory, and
    every temperature above 0 samples at random (https://github.com/vllm-project/vllm/issues/55005).
    """
    from vllm.utils import cpu_triton_utils

    expanded = torch.full((3,), torch.nan)
    cpu_triton_utils._expand_kernel_impl(expanded, torch.tensor([0.5, 0.0]), torch.tensor([1, 3], dtype=torch.int32), 0, 1)
    return bool(expanded.tolist() != [0.5, 1.0, 1.0])


def cure_sampling_expansion() -> None:
    """Replace the CPU `expand` kernel. The dispatcher uses the replacement when the worker registers its kernels."""
    from vllm.utils import cpu_triton_utils

    cpu_triton_utils._expand_kernel_impl = expand_to_tokens


def expand_to_tokens(
    output: torch.Tensor,
    values: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int | None = None,  # noqa: ARG001, N803  (the kernel's parameter)
) -> None:
    """Write `values` [batch] into `output` [tokens], each repeated for its request's tokens. Replace `replace_from` by `replace_to`.

    `cu_num_tokens` [batch] is the running sum of tokens per request.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    replaced = torch.where(values == replace_from, torch.full_like(values, replace_to), values)
    output.copy_(replaced.repeat_interleave(counts))


def stacked_rms_norm_is_wrong() -> bool:
    """Return whether `rms_norm` with one weight per layer ([layers, dim]) uses the first layer's weight for all layers.

    DFlash normalises the context keys of all its layers in one such call. The CUDA kernel selects the weight by the outermost index. The
    CPU kernel of vLLM 0.32.0 reads row 0 only, so a head with several layers drafts with wrong keys.
    """
    from vllm import _custom_ops

    weight = torch.tensor([[1.0], [2.0]]).expand(2, 32).contiguous()
    normed = torch.full((2, 1, 1, 32), torch.nan)
    _custom_ops.rms_norm(normed, torch.ones(2, 1, 1, 32), weight, 1e-6)
    return not torch.allclose(normed[:, 0, 0], weight, atol=1e-4)


def cure_stacked_rms_norm() -> None:
    """Call the kernel once per layer."""
    from vllm import _custom_ops

    with_one_weight = _custom_ops.rms_norm

    def rms_norm(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> None:
        if weight is None or weight.dim() == 1:
            with_one_weight(out, input, weight, epsilon)
            return
        for layer in range(weight.shape[0]):
            with_one_weight(out[layer], input[layer], weight[layer], epsilon)

    _custom_ops.rms_norm = rms_norm


REPAIRS = (
    Repair("expansion of sampling parameters", sampling_expansion_is_wrong, cure_sampling_expansion),
    Repair("rms_norm with one weight per layer", stacked_rms_norm_is_wrong, cure_stacked_rms_norm),
)
