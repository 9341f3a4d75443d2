"""Answers and hidden states of the real server equal those of transformers, for several architectures and layer sets."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lib.serving.engine import EngineError, EngineSettings
from lib.serving.vllm.engine import extracting
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.stub_engine.engine import Reference, load_target

pytestmark = [pytest.mark.slow, pytest.mark.long]

SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"vocab_size": 512, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "head_dim": 32},
}
GREEDY = {"temperature": 0.0, "seed": 0}


@pytest.mark.parametrize(("kind", "layers"), [("llama", [1, 2, 3, 4]), ("qwen3", [0, 2, 4]), ("granite", [1, 4])])
def test_states_and_answers_equal_those_of_transformers(kind: str, layers: list[int], target: Path, tmp_path: Path) -> None:
    """Prompts of many lengths are answered together, so sequences of different age share a batch."""
    path = tmp_path / kind
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SHAPE))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3) if "norm" in name else parameter.mul_(4)
    model.save_pretrained(path)
    for file in target.glob("tokenizer*"):
        shutil.copy(file, path)
    reference = Reference(load_target(path), layers)
    prompts = [[(7 * place + 13 * index) % 500 + 5 for place in range(3 + index)] for index in range(24)]
    free = [reference.answer(prompt, 20, [], GREEDY) for prompt in prompts]
    stop = free[0][5], 511
    settings = EngineSettings(dtype="float32", max_model_len=64, max_num_seqs=16, enforce_eager=True, kv_cache_gib=0.125, threads=1)
    with extracting(path, layers, settings, tmp_path / "server.log") as extractor:
        extractor.wait_until_ready(300)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda prompt: extractor.answer(prompt, 20, stop, GREEDY), prompts))
            states = list(pool.map(lambda pair: extractor.states(pair[0] + pair[1]), zip(prompts, answers, strict=True)))
        for prompt, answer, whole, found in zip(prompts, answers, free, states, strict=True):
            ends = [place + 1 for place, token in enumerate(whole) if token in stop]
            assert answer == whole[: ends[0] if ends else None]
            expected = reference.states(prompt + answer)
            assert ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 1e-5
        assert extractor.next_tokens(prompts[3] + answers[3]) == reference.next_tokens(prompts[3] + answers[3])
        sampled = [extractor.answer(prompts[5], 20, (), {"temperature": 1.5, "seed": seed}) for seed in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2], "seeds decide"
        with pytest.raises(EngineError, match="vLLM refused /v1/completions"):
            extractor.states(range(5, 100))
        assert extractor.context()["dtype"] == "torch.float32"
