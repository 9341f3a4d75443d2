"""The speed of light comes from the table, and is reported only when decoding is memory-bandwidth-bound."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.serving.ceilings import CEILINGS, hardware_token, load_ceiling, sol_percent
from lib.target.load import TargetFacts
from lib.target.weights import check_weights, weight_bytes

from tests.workflow.clones import ROOT

ENGINE: dict[str, Any] = {"dtype": "torch.bfloat16", "quantization": None, "tensor_parallel": 2}


def target(folder: Path, tensors: dict[str, tuple[int, ...]], dtype: str = "F32", width: int = 4) -> Path:
    """Write a safetensors file of zeros."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = width
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
    return folder


DENSE = {"model.embed_tokens.weight": (100, 8), "model.layers.0.mlp.weight": (8, 8), "lm_head.weight": (100, 8)}


def test_the_shipped_ceilings_are_whole_and_say_where_they_come_from() -> None:
    for key in ("GB300", "H100-SXM", "H200-SXM"):
        ceiling = load_ceiling(key, ROOT / CEILINGS)
        assert (ceiling.key, ceiling.hardware) == (key, key.removesuffix("-SXM"))
        assert ceiling.memory_bandwidth_bytes_per_s > 1e12 and ceiling.source


def test_a_share_is_the_least_time_over_the_measured_one(tmp_path: Path) -> None:
    """864 weights are read in 2 bytes each by two devices of 8 TB/s; three tokens come of it, in 1 ns each."""
    ceiling = load_ceiling("GB300", ROOT / CEILINGS)
    dense = target(tmp_path / "t", DENSE)
    assert weight_bytes(dense, ENGINE) == (64 + 800) * 2
    share = sol_percent(ceiling, "GB300", dense, ENGINE, acceptance_length=3.0, tpot_ms=1e-6)
    assert share == pytest.approx(100 * ((64 + 800) * 2 / 16e12 / 3) / 1e-9)
    with pytest.raises(UserError, match="'GB300' is the ceiling of GB300, but H100 served; name its own"):
        sol_percent(ceiling, "H100", dense, ENGINE, 3.0, 1.0)


def test_a_tied_embedding_is_read_and_quantized_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    tied = target(tmp_path / "tied", {name: shape for name, shape in DENSE.items() if name != "lm_head.weight"})
    assert weight_bytes(tied, ENGINE) == (800 + 64) * 2
    stored = target(tmp_path / "fp8", DENSE, "F8_E4M3", 1)
    assert weight_bytes(stored, ENGINE | {"quantization": "fp8"}) == 864


def test_a_target_with_experts_is_not_dense(tmp_path: Path) -> None:
    facts = TargetFacts("LlamaForCausalLM", "llama", hidden_size=8, num_layers=1, vocab_size=100, max_positions=8)
    assert check_weights(target(tmp_path / "dense", DENSE), facts)
    assert not check_weights(target(tmp_path / "moe", DENSE | {"model.layers.0.mlp.experts.0.weight": (8, 8)}), facts)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("GB300: {hardware: GB300, source: s}", "GB300: memory_bandwidth_bytes_per_s is missing; add it"),
        ("GB300: {hardware: GB300, memory_bandwidth_bytes_per_s: .nan, source: s}", "memory_bandwidth_bytes_per_s"),
        ("H100: {}", "serving.sol_ceiling = 'GB300' is not in .* .known: H100.; add it with its source, or leave it empty"),
        ("[1]", "holds no keys"),
        ("a: [", "not YAML"),
    ],
)
def test_a_ceilings_file_without_the_key_or_spoiled_is_refused_in_one_line(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=line):
        load_ceiling("GB300", tmp_path / "c.yaml")


def test_tokens_of_devices() -> None:
    assert hardware_token("cpu", "AMD EPYC") == "cpu"
    assert [hardware_token("cuda", name) for name in ("NVIDIA GB300", "NVIDIA H100 80GB HBM3")] == ["GB300", "H100"]
