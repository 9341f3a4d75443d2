"""Feature folders: content, other readers, and refusals."""

from pathlib import Path

import pytest
import torch
from lib.errors import UserError
from lib.features.extract import extract_features, hidden_states
from lib.features.prompts import Prompt, write_lines
from lib.features.responses import greedy_responses
from lib.features.samples import CorruptFeatures, FeatureSet
from lib.target.load import load_target, load_tokenizer, target_fingerprint
from lib.target.tiny import train_tiny_target

AUX_LAYERS = [0, 1, 2]
PROMPTS = ["import os\n", "def f(x):\n    return", "class A:\n", "x = 1\n", "for line in lines:\n"]
RESPONSE_TOKENS = 10


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained target of three layers, small enough to train in seconds."""
    out = tmp_path_factory.mktemp("target") / "model"
    shape = {"hidden": 64, "intermediate": 96, "layers": 3, "heads": 2, "kv_heads": 1, "vocab_size": 512, "context": 64}
    train_tiny_target(out, **shape, steps=3, batch=2, lr=3e-3, seed=0, threads=1)
    return out


@pytest.fixture(scope="module")
def prompts(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of prompts of different lengths."""
    path = tmp_path_factory.mktemp("prompts") / "train.jsonl"
    tokenizer = load_tokenizer(target)
    write_lines(path, [Prompt(text, tuple(tokenizer.encode(text))) for text in PROMPTS])
    return path


@pytest.fixture
def folder(target: Path, prompts: Path, tmp_path: Path) -> Path:
    """Return freshly extracted features."""
    out = tmp_path / "features"
    extract_features(target, prompts, out, response_tokens=RESPONSE_TOKENS, aux_layers=AUX_LAYERS, batch=2, threads=1)
    return out


def test_samples_are_the_targets_own_answers_with_its_states(target: Path, folder: Path) -> None:
    model, tokenizer = load_target(target)
    features = FeatureSet(folder)
    assert (features.aux_layers, features.hidden_size, features.target) == (AUX_LAYERS, 64, target_fingerprint(target))
    assert len(features) == len(PROMPTS)
    for index, text in enumerate(PROMPTS):
        prompt = tokenizer.encode(text)
        sample = features.sample(index)
        tokens = sample["input_ids"]
        assert tokens.tolist() == prompt + greedy_responses(model, [prompt], RESPONSE_TOKENS, 1)[0]
        assert sample["loss_mask"].tolist() == [0] * len(prompt) + [1] * RESPONSE_TOKENS
        assert sample["lengths"].tolist() == [len(tokens)] == [features.lengths[index]]
        assert sample["position_ids"].tolist() == list(range(len(tokens)))

        reference = model(tokens[None], output_hidden_states=True)
        states = sample["hidden_states"].unflatten(1, (len(AUX_LAYERS), 64))
        for slot, layer in enumerate(AUX_LAYERS):
            torch.testing.assert_close(states[:, slot], reference.hidden_states[layer][0], rtol=1e-5, atol=1e-5)
        # The last entry is taken before the final norm: with norm and head on top it is the target's own verdict, and it chose the answer.
        last = sample["verifier_last_hidden_states"]
        assert not torch.allclose(last, reference.hidden_states[-1][0], atol=1e-2)
        logits = model.lm_head(model.model.norm(last))
        torch.testing.assert_close(logits, reference.logits[0], rtol=1e-5, atol=1e-5)
        assert logits.argmax(-1)[len(prompt) - 1 : -1].tolist() == tokens[len(prompt) :].tolist()


def test_hidden_states_leave_no_hook_behind(target: Path) -> None:
    model, _ = load_target(target)
    tokens = torch.arange(6)[None]
    first = hidden_states(model, tokens, [1])
    assert first.shape == (1, 6, 2, 64)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(hidden_states(model, tokens, [1]), first)


def test_speculators_own_dataset_reads_the_folder(folder: Path) -> None:
    from speculators.train.data import ArrowDataset

    theirs = ArrowDataset(max_len=64, datapath=folder, on_missing="raise", hidden_states_dtype=torch.float32)
    ours = FeatureSet(folder)
    assert len(theirs) == len(ours)
    assert theirs.approx_lengths == ours.lengths
    for index in range(len(ours)):
        their_sample, our_sample = theirs[index], ours.sample(index)
        assert their_sample.keys() == our_sample.keys()
        for key, value in our_sample.items():
            assert their_sample[key].dtype == value.dtype, key
            assert torch.equal(their_sample[key], value), key


def test_extracting_twice_gives_the_same_samples(target: Path, prompts: Path, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    extract_features(target, prompts, again, response_tokens=RESPONSE_TOKENS, aux_layers=AUX_LAYERS, batch=2, threads=1)
    for file in (folder / "hidden_states").iterdir():
        assert (again / "hidden_states" / file.name).read_bytes() == file.read_bytes()
    assert FeatureSet(again).sha256 == FeatureSet(folder).sha256


@pytest.mark.parametrize("name", ["hidden_states/hs_3.safetensors", "data-00000-of-00001.arrow"])
def test_a_truncated_or_missing_file_is_refused_on_opening(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(CorruptFeatures, match=rf"{name} has \d+ bytes instead of \d+; delete the folder"):
        FeatureSet(folder)
    (folder / name).unlink()
    with pytest.raises(CorruptFeatures, match=f"{name} is missing; delete the folder"):
        FeatureSet(folder)


def test_a_flipped_bit_is_refused_when_the_sample_is_read(folder: Path) -> None:
    file = folder / "hidden_states" / "hs_3.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    features = FeatureSet(folder)
    features.sample(2)
    with pytest.raises(CorruptFeatures, match=r"hs_3.safetensors differs from the digest"):
        features.sample(3)


def test_a_flipped_bit_in_the_rows_is_refused_on_opening(folder: Path) -> None:
    file = folder / "data-00000-of-00001.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFeatures, match="arrow differs from the digest"):
        FeatureSet(folder)


@pytest.mark.parametrize("content", [None, "", '{"aux_layers": ['])
def test_a_folder_without_a_whole_manifest_is_refused(folder: Path, content: str | None) -> None:
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_text(content)
    with pytest.raises(CorruptFeatures, match=r"manifest.json .*; delete the folder"):
        FeatureSet(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"aux_layers": [1, 3]}, r"draft.aux_layers=\[1, 3\].*layers 0 to 2"),
        ({"aux_layers": []}, r"draft.aux_layers=\[\]"),
        ({"response_tokens": 60}, "features.response_tokens=60 .* the target holds 64"),
    ],
)
def test_what_the_target_cannot_do_is_refused(target: Path, prompts: Path, tmp_path: Path, change: dict[str, object], says: str) -> None:
    wanted = {"response_tokens": RESPONSE_TOKENS, "aux_layers": AUX_LAYERS, "batch": 2, "threads": 1, **change}
    with pytest.raises(UserError, match=says):
        extract_features(target, prompts, tmp_path / "out", **wanted)
    assert not (tmp_path / "out").exists()
