"""Fixtures of several unit tests."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models


@pytest.fixture
def at_the_root() -> Iterator[None]:
    """Run a test in the repository's folder, as the workflow's scripts run."""
    with contextlib.chdir(Path(__file__).parents[2]):
        yield


@pytest.fixture
def hollow_target(tmp_path: Path) -> Path:
    """Return the folder of a target that is whole, if only to look at."""
    folder = tmp_path / "target"
    folder.mkdir()
    facts = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **facts}))
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    save_file({"lm_head.weight": np.zeros((512, 64), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def train() -> Callable[[Path], float]:
    """Train a target of two layers for three steps into the given folder: the real thing, only smaller."""
    from lib.target.tiny import train_tiny_target  # imports torch, which few tests need

    def train_small(out: Path) -> float:
        shape = {"hidden": 64, "intermediate": 96, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 512, "context": 64}
        return train_tiny_target(out, **shape, steps=3, batch=2, lr=3e-3, seed=0, threads=1)

    return train_small


@pytest.fixture(scope="session")
def target(train: Callable[[Path], float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trained small target."""
    out = tmp_path_factory.mktemp("target") / "model"
    train(out)
    return out
