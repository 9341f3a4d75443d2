"""The repairs of vLLM's CPU kernels: the fault exists, the check finds it, and the repair gives the correct result."""

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def vllm_as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load vLLM's CPU kernels and undo after the test what it changes in them."""
    custom_ops = pytest.importorskip("vllm._custom_ops")
    from vllm.utils import cpu_triton_utils

    monkeypatch.setattr(custom_ops, "rms_norm", custom_ops.rms_norm)
    monkeypatch.setattr(cpu_triton_utils, "_expand_kernel_impl", cpu_triton_utils._expand_kernel_impl)


@pytest.mark.usefixtures("vllm_as_shipped")
@pytest.mark.parametrize("values", [torch.tensor([0.3, 0.0, 1.7]), torch.tensor([5, 0, 20], dtype=torch.int32)])
def test_sampling_parameters_reach_every_draft_token(values: torch.Tensor) -> None:
    from spec_decode_tune_vllm import repairs
    from vllm.utils import cpu_triton_utils

    def expand() -> list[float]:
        output = torch.full((6,), -1, dtype=values.dtype)
        cpu_triton_utils._expand_kernel_impl(output, values, torch.tensor([2, 3, 6], dtype=torch.int32), 0, 9, MAX_NUM_TOKENS=32)
        return output.tolist()

    first, _, last = values.tolist()
    expected = [first, first, 9, last, last, last]
    assert repairs.sampling_expansion_is_wrong()
    assert expand() != expected
    repairs.cure_sampling_expansion()
    assert not repairs.sampling_expansion_is_wrong()
    assert expand() == expected


@pytest.mark.usefixtures("vllm_as_shipped")
def test_each_layer_is_normalised_with_its_own_weight() -> None:
    from spec_decode_tune_vllm import repairs
    from vllm import _custom_ops

    torch.manual_seed(0)
    keys, weight = torch.randn(3, 5, 2, 32), torch.rand(3, 32)
    expected = keys * torch.rsqrt(keys.pow(2).mean(-1, keepdim=True) + 1e-6) * weight[:, None, None]

    def normalise() -> torch.Tensor:
        normed = torch.empty_like(keys)
        _custom_ops.rms_norm(normed, keys, weight, 1e-6)
        return normed

    assert repairs.stacked_rms_norm_is_wrong()
    assert not torch.allclose(normalise(), expected, atol=1e-5)
    repairs.cure_stacked_rms_norm()
    assert not repairs.stacked_rms_norm_is_wrong()
    torch.testing.assert_close(normalise(), expected)
    single = torch.empty_like(keys)
    _custom_ops.rms_norm(single, keys, weight[1], 1e-6)
    torch.testing.assert_close(single[1], expected[1])
