"""A target that is trained in seconds: the real thing, only smaller."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lib.target.tiny import train_tiny_target


@pytest.fixture(scope="session")
def train() -> Callable[[Path], float]:
    """Train a target of two layers for three steps into the given folder."""

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
