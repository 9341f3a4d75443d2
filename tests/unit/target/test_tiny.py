"""The tiny target: deterministic, complete, loadable."""

import math
from collections.abc import Callable
from pathlib import Path

from lib.target.load import check_target, load_tokenizer, target_fingerprint
from lib.target.tiny import train_tiny_target

from tests.stub_engine.engine import load_target


def test_training_twice_gives_the_same_bytes(train: Callable[[Path], float], target: Path, tmp_path: Path) -> None:
    train(tmp_path / "again")
    for file in sorted(target.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert target_fingerprint(tmp_path / "again") == target_fingerprint(target)


def test_training_takes_the_loss_well_below_chance(tmp_path: Path) -> None:
    shape = {"hidden": 64, "intermediate": 96, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 512, "context": 64}
    loss = train_tiny_target(tmp_path / "model", **shape, steps=60, batch=4, lr=1e-2, seed=0, threads=1)
    assert loss < math.log(512) - 1


def test_the_folder_loads_and_says_what_it_is(target: Path) -> None:
    facts = check_target(target)
    assert (facts.architecture, facts.hidden_size, facts.num_layers, facts.vocab_size, facts.max_positions) == (
        "LlamaForCausalLM",
        64,
        2,
        512,
        64,
    )
    model, tokenizer = load_target(target), load_tokenizer(target)
    assert model.config.head_dim == 32
    text = "def naïve(x):\n\treturn x  # ünïcode\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 0
