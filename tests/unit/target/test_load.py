"""An incomplete target is refused in one line, and a partial hash identifies a target."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lib.errors import UserError
from lib.target.load import check_target, has_chat_template, load_tokenizer, target_fingerprint
from lib.target.output import require_weights
from lib.target.weights import check_weights
from safetensors.numpy import load_file, save_file


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _half_downloaded(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        changed = change(config)
        (folder / "config.json").write_text(json.dumps(config if changed is None else changed))

    return damage


def _index(content: Any) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / "model.safetensors.index.json").write_text(content if isinstance(content, str) else json.dumps(content)) and None
    )


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "not a directory"),
        (_without("config.json"), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (_config(lambda config: config.update(hidden_size=None)), "'hidden_size'"),
        (_config(lambda config: config.update(hidden_size="64")), "does not say 'hidden_size'"),
        (_config(lambda config: config.update(architectures=None)), "does not say 'architectures'"),
        (_config(lambda config: config.update(architectures=[])), "does not say 'architectures'"),
        (_config(lambda config: config.update(text_config=None)), "text_config = None is no section"),
        (_config(lambda config: [config]), "config.json: holds no keys"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"), "not UTF-8"),
        (_index({"weight_map": {}}), "model.safetensors.index.json has no weight_map"),
        (_index([]), "model.safetensors.index.json has no weight_map"),
        (_index({"metadata": {}}), "model.safetensors.index.json has no weight_map"),
        (_index({"weight_map": {"a": None}}), "model.safetensors.index.json has no weight_map"),
        (_index('{"weight_map": {"a": "mod'), "model.safetensors.index.json is not JSON"),
        (_without("model.safetensors"), "lacks weights"),
        (_half_downloaded, "model-00002-of-00002.safetensors"),
        (_without("tokenizer.json"), "no tokenizer"),
        (_pickled, r"has pickled weights \(pytorch_model.bin\), which are never loaded; convert them to .safetensors"),
        (_index({"weight_map": {"a": "pytorch_model.bin"}}), "has pickled weights"),
        (_index({"weight_map": {"a": "../copy/model.safetensors"}}), "lacks weights"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(target: Path, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    damage(copy)
    with pytest.raises(UserError, match=says) as refusal:
        check_target(copy)
    assert str(refusal.value).startswith(f"target.path={copy}")
    assert "\n" not in str(refusal.value)


def test_a_nested_text_config_is_read(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    nested = {"architectures": ["VisionLlama"], "model_type": "vision_llama", "text_config": config}
    (copy / "config.json").write_text(json.dumps(nested))
    facts = check_target(copy)
    assert (facts.architecture, facts.model_type, facts.hidden_size, facts.num_layers) == ("VisionLlama", "llama", 64, 2)


def test_what_a_nested_section_leaves_out_is_the_default_of_its_class(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    nested = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2}
    (copy / "config.json").write_text(
        json.dumps({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": nested})
    )
    facts = check_target(copy)
    assert (facts.model_type, facts.hidden_size, facts.num_layers) == ("gemma3_text", 64, 2)
    assert (facts.vocab_size, facts.max_positions) == (262_208, 131_072)


def _shortened(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def _rewritten(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def _without_layer(tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_shortened, r"model.safetensors cannot be read \(it has \d+ of \d+ bytes\); finish the download"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\2" + b"\0" * 7 + b"[]"), "model.safetensors cannot be read"),
        (_rewritten(_without_layer), "lacks layer 1 and 0 more weights"),
        (_index({"weight_map": {"b": "model.safetensors", "a": "model.safetensors"}}), "lacks a and 1 more weights"),
        (
            _config(lambda config: config.update(vocab_size=600)),
            r"says vocab_size = 600 and hidden_size = 64, but model.embed_tokens.weight is \[512, 64\]",
        ),
    ],
)
def test_weights_that_are_not_whole_are_refused_before_they_are_loaded(
    target: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    assert check_weights(copy, check_target(copy))
    damage(copy)
    with pytest.raises(UserError, match=says) as refusal:
        check_weights(copy, check_target(copy))
    assert str(refusal.value).startswith(f"target.path={copy}") and "\n" not in str(refusal.value)


def test_weights_that_would_be_filled_at_random_are_refused_when_loaded(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    _rewritten(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))(copy)
    with pytest.raises(UserError, match=r"lacks model.layers.1.mlp.up_proj.weight and 0 more weights; finish the download"):
        require_weights(copy)


def test_the_fingerprint_follows_content_not_place(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    assert target_fingerprint(copy) == target_fingerprint(target)
    size = (copy / "model.safetensors").stat().st_size
    fingerprints = {target_fingerprint(target)}
    for position in (0, size // 2, size - 1):
        _flip_bit(copy / "model.safetensors", position)
        fingerprints.add(target_fingerprint(copy))
    assert len(fingerprints) == 4


def test_a_chat_template_is_found_wherever_a_tokenizer_keeps_it_and_belongs_to_the_fingerprint(target: Path, tmp_path: Path) -> None:
    template = "{{ messages }}"
    for name, content in {
        "tokenizer_config.json": json.dumps({"chat_template": template}),
        "chat_template.jinja": template,
        "additional_chat_templates/default.jinja": template,
    }.items():
        folder = Path(shutil.copytree(target, tmp_path / Path(name).stem))
        before = target_fingerprint(folder)
        assert not has_chat_template(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        assert has_chat_template(folder) and target_fingerprint(folder) != before
        assert load_tokenizer(folder).get_chat_template() == template


def test_a_large_file_is_known_by_blocks_from_its_first_byte_to_its_last(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    size = 2**30
    os.truncate(weights, size)  # sparse: takes no room
    fingerprints = {target_fingerprint(copy)}
    blocks = [(size - 2**16) * block // 63 for block in range(64)]
    for position in (0, *(start + 2**16 - 1 for start in blocks)):
        _flip_bit(weights, position)
        fingerprints.add(target_fingerprint(copy))
    assert len(fingerprints) == 66
    _flip_bit(weights, blocks[30] + 2**16)
    assert target_fingerprint(copy) in fingerprints, "between the blocks nothing is read"


def _flip_bit(file: Path, position: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(position)
        byte = handle.read(1)[0]
        handle.seek(position)
        handle.write(bytes([byte ^ 1]))
