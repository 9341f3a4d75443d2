"""What a worker holds of a tensor, and where vLLM keeps it."""

import pytest
import torch

pytestmark = pytest.mark.slow

WHOLE = torch.arange(24.0).reshape(6, 4)


@pytest.mark.parametrize(
    ("held", "same"),
    [
        (WHOLE, True),
        (WHOLE.to(torch.bfloat16), True),
        (WHOLE + 1, False),
        (WHOLE[2:4], True),
        (WHOLE[1:3], False),
        (WHOLE[:, 2:], True),
        (WHOLE[:, 1:3], False),
        (torch.cat([WHOLE[4:], torch.zeros(2, 4)]), True),
        (torch.cat([WHOLE, torch.zeros(2, 4)]), True),
        (torch.cat([WHOLE + 1, torch.zeros(2, 4)]), False),
    ],
    ids=["all", "rounded", "other", "rows", "rows of no share", "columns", "columns of no share", "padded share", "padded", "padded other"],
)
def test_a_worker_holds_a_tensor_or_its_share_of_it(held: torch.Tensor, same: bool) -> None:
    from spec_decode_tune_vllm.exchange import _same

    assert _same(held, WHOLE) is same


def test_tensors_are_found_where_vllm_stacks_them() -> None:
    from spec_decode_tune_vllm.exchange import _place

    assert _place("layers.0.self_attn.v_proj.weight") == ("model.layers.0.self_attn.qkv_proj", "weight", 2)
    assert _place("layers.1.mlp.up_proj.weight") == ("model.layers.1.mlp.gate_up_proj", "weight", 1)
    assert _place("fc.weight") == ("model.fc", "weight", None)
    assert _place("lm_head.weight") == ("lm_head", "weight", None)
    assert _place("d2t") == ("", "draft_id_to_target_id", None)
