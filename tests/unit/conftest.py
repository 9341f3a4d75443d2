"""What several unit tests stand on."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


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
    facts = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 512, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **facts}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"lm_head.weight": np.zeros((512, 64), np.float32)}, folder / "model.safetensors")
    return folder
