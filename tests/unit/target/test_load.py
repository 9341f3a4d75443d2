"""A target is refused in one line when its folder is not whole, and told apart by its fingerprint."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.target.load import check_target, target_fingerprint


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _half_downloaded(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _no_hidden_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _index_that_names(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}})) and None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "not a directory"),
        (_without("config.json"), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (_no_hidden_size, "hidden_size"),
        (_without("model.safetensors"), "lacks weights"),
        (_half_downloaded, "model-00002-of-00002.safetensors"),
        (_without("tokenizer.json"), "no tokenizer"),
        (_pickled, r"has pickled weights \(pytorch_model.bin\), and they are never loaded; convert it to .safetensors"),
        (_index_that_names("pytorch_model.bin"), "has pickled weights"),
        (_index_that_names("../copy/model.safetensors"), "lacks weights"),
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


def test_the_fingerprint_follows_content_not_place(target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(target, tmp_path / "copy"))
    assert target_fingerprint(copy) == target_fingerprint(target)
    size = (copy / "model.safetensors").stat().st_size
    fingerprints = {target_fingerprint(target)}
    for position in (0, size // 2, size - 1):
        _flip_bit(copy / "model.safetensors", position)
        fingerprints.add(target_fingerprint(copy))
    assert len(fingerprints) == 4


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
