"""A random tiny Llama and its greedy answers, from which a draft head can learn."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lib.arm import Layout
from lib.draft.rung import Places
from lib.draft.trainer import Training, start_training
from lib.features.extract import extract_features
from lib.features.prompts import Prompt, write_lines
from lib.features.samples import FeatureSet
from lib.methods import Draft, heads
from lib.target.load import load_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.unit.draft.rungs import make_arm, make_head

VOCAB_SIZE = 256
AUX_LAYERS = (1, 2, 3)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target")
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
        initializer_range=0.08,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def features(target: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return _features(target, tmp_path_factory.mktemp("features"), samples=96, seed=0)


@pytest.fixture(scope="session")
def heldout(target: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return _features(target, tmp_path_factory.mktemp("features"), samples=12, seed=1)


def _features(target: Path, folder: Path, samples: int, seed: int) -> FeatureSet:
    """Prompts of 9 to 12 random words, answers of 20 tokens: samples of different lengths."""
    draw = random.Random(seed)
    prompts = [" ".join(f"w{draw.randrange(VOCAB_SIZE)}" for _ in range(9 + index % 4)) for index in range(samples)]
    tokenizer = load_tokenizer(target)
    write_lines(folder / "prompts.jsonl", [Prompt(prompt, tuple(tokenizer.encode(prompt))) for prompt in prompts])
    extract_features(target, folder / "prompts.jsonl", folder / "out", response_tokens=20, aux_layers=list(AUX_LAYERS), batch=32, threads=1)
    return FeatureSet(folder / "out")


@pytest.fixture
def places(target: Path, features: FeatureSet, heldout: FeatureSet, tmp_path: Path) -> Callable[..., Places]:
    """Name a machine's files of rung 1, above a state if one is given."""

    def at(machine: str, state: Path | None = None) -> Places:
        folder = tmp_path / machine
        outputs = folder / "rung1.acc", folder / "rung1.state", folder / "rung1.log"
        return Places(target, features.path, heldout.path, state, *outputs)

    return at


@pytest.fixture(params=heads())
def draft(request: pytest.FixtureRequest) -> Draft:
    """Return a head of every method in turn."""
    return make_head(request.param)


@pytest.fixture
def start_head(target: Path, features: FeatureSet) -> Callable[..., Training]:
    """Start a training of any head, 2 x 2 samples to a global batch of 4 unless told otherwise."""

    def start(head: Draft, horizon: int = 960, **changes: Any) -> Training:
        layout = Layout(*(changes.pop(name, plain) for name, plain in (("ranks", 1), ("micro_batch", 2), ("accumulation", 2))))
        arm = make_arm(layout, draft=head, rungs=(horizon,), **{"warmup": 0.05} | changes)
        return start_training(arm, target, features)

    return start


@pytest.fixture
def start(draft: Draft, start_head: Callable[..., Training]) -> Callable[..., Training]:
    """Start a training of `draft`."""
    return partial(start_head, draft)
