"""Files of heads: damage is one line before anything is started, and only heads that are alike take each other's place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lib.draft.heads import tensor_hash
from lib.errors import UserError
from lib.serving.exported import FROZEN, HeadDiffers, require_alike, require_whole
from safetensors.torch import load_file, save_file

OWN = {"fc.weight": torch.ones(2, 6), "d2t": torch.arange(3), "norm.weight": torch.zeros(2, dtype=torch.bfloat16)}


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """Return a folder with the files of a head."""
    folder = tmp_path / "head"
    folder.mkdir()
    save_file(OWN | dict.fromkeys(FROZEN[:1], torch.ones(4, 2)), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"norm": True, "layers": {"size": 2}}))
    return folder


def test_a_whole_head_has_the_hash_of_the_trainer(head: Path) -> None:
    require_whole(head, tensor_hash(OWN))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def _header(change: dict[str, object]) -> Callable[[Path], object]:
    def damage(file: Path) -> None:
        told = {"fc.weight": {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]} | change}
        text = json.dumps(told).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(48))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, "is truncated or longer than its header says"),
        (lambda file: file.write_bytes(file.read_bytes() + b"0"), "is truncated or longer than its header says"),
        (lambda file: file.write_bytes(b""), "is truncated or no safetensors file"),
        (lambda file: file.write_bytes(file.read_bytes()[:30]), "is truncated or no safetensors file"),
        (lambda file: file.write_bytes(b"\xff" * 99), "is truncated or no safetensors file"),
        (lambda file: file.write_bytes(b"\x02" + bytes(7) + b"[]"), "is truncated or no safetensors file"),
        (_header({"data_offsets": [0.5, 24]}), "is truncated or no safetensors file"),
        (_header({"data_offsets": [-(10**30), 24]}), "is truncated or no safetensors file"),
        (_header({"data_offsets": [24]}), "is truncated or no safetensors file"),
        (_header({"data_offsets": [48, 0]}), "is truncated or longer than its header says"),
        (_header({"shape": "2 x 6"}), "is truncated or no safetensors file"),
        (_header({"shape": [10**400]}), "is truncated or no safetensors file"),
        (_header({"dtype": None}), "is truncated or no safetensors file"),
        (lambda file: file.write_bytes((2**63 - 9).to_bytes(8, "little") + b"{}"), "is truncated or no safetensors file"),
        (lambda file: file.write_bytes((9_000).to_bytes(8, "little") + b"[" * 9_000), "is truncated or no safetensors file"),
        (_flip, "does not hold the head that was trained, its weights have another hash"),
        (lambda file: save_file(OWN | {"d2t": torch.arange(3) + 1}, file), "does not hold the head that was trained"),
        (Path.unlink, "holds no .safetensors file"),
    ],
)
def test_a_damaged_head_is_one_line_with_its_cure(head: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(head / "model.safetensors")
    with pytest.raises(UserError, match=rf"^{head}\S* {said}[^\n]*; delete the folder, and the next run exports the head again$"):
        require_whole(head, tensor_hash(OWN))


def test_heads_are_alike_in_configuration_names_types_and_shapes(head: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(head, tmp_path / "other"))
    tensors = load_file(head / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors")
    require_alike(head, other)
    for name, tensor in {"fc.weight": torch.ones(6, 2), "norm.weight": torch.zeros(2), "more.weight": torch.ones(1)}.items():
        save_file(tensors | {name: tensor}, other / "model.safetensors")
        with pytest.raises(HeadDiffers, match=rf"^{other} differs from {head} in tensors\.{name}$"):
            require_alike(head, other)
    shutil.copy(head / "model.safetensors", other)
    (other / "config.json").write_text(json.dumps({"norm": False, "layers": {"size": 3}}))
    with pytest.raises(HeadDiffers, match=r"in layers\.size and 1 more$"):
        require_alike(head, other)
