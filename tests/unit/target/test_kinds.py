"""Tiny random targets of every kind: a head learns exactly the target's answers, or the kind is refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lib.draft.heads import assemble_head, build_untrained_head, learnt_output
from lib.errors import UserError
from lib.features.extract import Agreement
from lib.methods import read_draft
from lib.target.load import check_target
from safetensors.numpy import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.stub_engine.engine import Reference, load_target

COMMON = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"vocab_size": 512, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
LINEAR = {f"linear_{name}": size for name, size in dict(num_value_heads=2, num_key_heads=2, key_head_dim=32, value_head_dim=32).items()}
LATENT = {
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8},
    **{"qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    **{"moe_intermediate_size": 32, "first_k_dense_replace": 1},
}
LEARNT: dict[str, dict[str, Any]] = {
    **{key: {} for key in ["llama", "apertus", "granite", "qwen2", "mistral", "olmo2", "smollm3", "exaone4", "phi3"]},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, **EXPERTS},
    "glm4_moe": {"head_dim": 32, **EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "gpt_oss": {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma4_text": {"head_dim": 32, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 512},
    "deepseek_v3": LATENT,
    "gemma2": {"head_dim": 32},
    "gemma3_text": {"head_dim": 32},
    "qwen3_next": {"head_dim": 32, **EXPERTS, **LINEAR},
    "qwen3_5_text": {"head_dim": 32, **LINEAR},
    "qwen3_5_moe_text": {"head_dim": 32, **EXPERTS, **LINEAR},
}
REFUSED = ["cohere", "cohere2", "starcoder2", "stablelm", "nemotron", "phi", "gpt_neox", "lfm2"]


def make(kind: str, tokenizer: Path, folder: Path) -> Path:
    """Make a random target whose norms are far from one, so that another norm shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**COMMON, **LEARNT.get(kind, {})}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("kind", LEARNT)
def test_a_head_learns_the_tokens_that_the_target_answers(kind: str, target: Path, tmp_path: Path) -> None:
    path = make(kind, target, tmp_path / kind)
    assert check_target(path).model_type == kind
    reference, prompt = Reference(load_target(path), [4]), [1, 20, 3, 77, 5, 6]
    answer = reference.answer(prompt, 40, [], {})
    last = reference.states(prompt + answer)[len(prompt) - 1 : -1, -1]
    for method in ("eagle3", "dflash"):
        draft = read_draft({"method": method, "aux_layers": (1, 2)})
        agreement = Agreement(learnt_output(draft, path), path)
        agreement.add(agreement.compare(last, answer), len(answer))
        agreement.judge()
        assert agreement.positions == 40
    head = assemble_head(draft, path, None, 0)
    assert head.config.transformer_layer_config.hidden_act == "silu", "vLLM serves no head of another activation"


@pytest.mark.parametrize("kind", REFUSED)
def test_a_target_whose_output_no_head_can_learn_is_refused_by_its_configuration(kind: str, target: Path, tmp_path: Path) -> None:
    path = make(kind, target, tmp_path / kind)
    with pytest.raises(UserError, match=rf"^target\.path={path}: config\.json: a {kind} model has no RMS norm .*; choose another target$"):
        check_target(path)


def test_a_target_whose_answers_heads_would_not_learn_is_refused(target: Path) -> None:
    reference, prompt = Reference(load_target(target), [2]), [1, 2, 3, 4]
    output = learnt_output(read_draft({"method": "eagle3", "aux_layers": (0, 1, 2)}), target)
    with torch.no_grad():
        reference.model.lm_head.weight.mul_(-1)  # as logits that something else changes
    tokens = prompt + reference.answer(prompt, 40, [], {})
    agreement = Agreement(output, target)
    agreement.add(agreement.compare(reference.states(tokens)[3:-1, -1], tokens[4:]), 40)
    with pytest.raises(UserError, match=rf"^target\.path={target}: heads would learn \d+ of 40 tokens other than the target answers"):
        agreement.judge()


@pytest.mark.parametrize(("dtype", "agree"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_ties_by_rounding_agree(dtype: torch.dtype, agree: int) -> None:
    """The engine's logits are rounded to its dtype, so it may choose another token than the highest of ours."""
    agreement = Agreement(lambda _: torch.tensor([[10.0, 10.05, 3.0]]), Path("model"))
    assert agreement.compare(torch.zeros(1, 4, dtype=dtype), [0]) == agree


@pytest.mark.parametrize("method", ["eagle3", "dflash"])
@pytest.mark.parametrize("draft_vocab_size", [None, 256])
def test_an_untrained_head_has_the_shape_of_those_to_come(method: str, draft_vocab_size: int | None, target: Path, tmp_path: Path) -> None:
    draft = read_draft({"method": method, "aux_layers": (0, 1), "draft_vocab_size": draft_vocab_size})
    build_untrained_head(draft, target, tmp_path / "head")
    config = json.loads((tmp_path / "head/config.json").read_text())
    tensors = load_file(tmp_path / "head/model.safetensors")
    assert config["draft_vocab_size"] == (draft_vocab_size or 512) and config["speculators_model_type"] == method
    assert ("d2t" in tensors) == (draft_vocab_size is not None) and not any("verifier" in name for name in tensors)


@pytest.mark.parametrize(("mask", "says"), [("beyond", "mask token of its tokenizer, 512, is beyond"), (None, "has no token for what")])
def test_a_target_without_a_token_to_mask_with_is_refused_by_our_key(
    target: Path, monkeypatch: pytest.MonkeyPatch, mask: str | None, says: str
) -> None:
    def resolve(*_arguments: object, **_options: object) -> int:
        if mask is None:
            raise ValueError("Could not resolve mask_token_id: no --mask-token-id provided")
        return 512

    monkeypatch.setattr("speculators.train.utils.resolve_mask_token_id", resolve)
    with pytest.raises(UserError, match=rf"^target\.path={target}: .*{says}.*; set draft\.mask_token_id of the space to one"):
        assemble_head(read_draft({"method": "dflash", "aux_layers": (0, 1)}), target, None, 0)
