"""States: resuming equals uninterrupted training, and a damaged or foreign state is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lib.draft.heads import head_hash, tensor_hash
from lib.draft.state import load_state, optimizer_tensors, read_state, save_state
from lib.draft.trainer import Training, start_training, train_rung
from lib.errors import UserError
from lib.features.samples import FeatureSet, seal_features
from lib.manifest import CorruptState
from lib.methods import heads
from safetensors.torch import load_file, save_file

from tests.unit.draft.rungs import make_head

Start = Callable[..., Training]

GO_ON = """
import sys
from pathlib import Path
from lib.arm import Arm
from lib.features.samples import FeatureSet
from lib.draft.state import load_state, read_state, save_state
from lib.draft.trainer import start_training, train_rung

target, features = map(Path, sys.argv[1:3])
for folder in map(Path, sys.argv[3:]):
    arm = Arm.from_record(read_state(folder / "part").identity["arm"])
    training = start_training(arm, target, FeatureSet(features))
    load_state(folder / "part", training)
    train_rung(training, 112)
    save_state(folder / "resumed", training)
"""


@pytest.fixture
def saved(start: Start, tmp_path: Path) -> Path:
    training = start()
    train_rung(training, 8)
    save_state(tmp_path / "state", training)
    return tmp_path / "state"


def test_a_fresh_process_goes_on_bit_for_bit(start_head: Start, target: Path, features: FeatureSet, tmp_path: Path) -> None:
    folders = [tmp_path / method for method in heads()]
    for folder in folders:
        training = start_head(make_head(folder.name))
        train_rung(training, 40)
        save_state(folder / "part", training)
        train_rung(training, 112)
        save_state(folder / "whole", training)
    arguments = [str(path) for path in (target, features.path, *folders)]
    scripts = str(Path(__file__).parents[3] / "scripts")
    subprocess.run([sys.executable, "-c", GO_ON, *arguments], check=True, env=os.environ | {"PYTHONPATH": scripts})
    for folder in folders:
        for name in ("head/model.safetensors", "optimizer.safetensors", "manifest.json"):
            assert (folder / "whole" / name).read_bytes() == (folder / "resumed" / name).read_bytes()


def test_loading_brings_back_what_was_saved(start: Start, saved: Path) -> None:
    original, loaded = start(), start()
    train_rung(original, 8)
    load_state(saved, loaded)
    assert loaded.samples == 8
    assert head_hash(loaded.model) == head_hash(original.model)
    assert tensor_hash(optimizer_tensors(loaded)) == tensor_hash(optimizer_tensors(original))
    assert all(tensor.dtype == torch.float32 for tensor in read_state(saved).head.values())


def test_the_state_before_the_first_step_is_a_state(start: Start, tmp_path: Path) -> None:
    save_state(tmp_path / "state", start())
    training = start()
    load_state(tmp_path / "state", training)
    assert train_rung(training, 8).head == train_rung(start(), 8).head


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("head/model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("optimizer.safetensors", lambda content: content[: len(content) // 2]),
        ("optimizer.safetensors", None),
        ("manifest.json", lambda content: content[: len(content) // 2]),
        ("manifest.json", None),
    ],
)
def test_a_damaged_state_is_refused(name: str, damage: Callable[[bytes], bytes] | None, start: Start, saved: Path) -> None:
    file = saved / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    training = start()
    weights = head_hash(training.model)
    with pytest.raises(CorruptState) as refusal:
        load_state(saved, training)
    assert str(file) in str(refusal.value)
    assert "delete the folder" in str(refusal.value)
    assert (training.samples, head_hash(training.model)) == (0, weights)


def test_another_arm_s_state_is_refused_by_what_differs(start: Start, saved: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load_state(saved, start(lr=1e-3, horizon=480, micro_batch=1, accumulation=4))
    message = str(refusal.value)
    for difference in (
        "arm.recipe.rungs=[960] (asked for [480])",
        "arm.lr=0.002 (asked for 0.001)",
        "arm.layout.micro_batch=2 (asked for 1)",
    ):
        assert difference in message
    assert "seed" not in message


def test_a_state_trained_on_other_data_is_refused(start: Start, saved: Path, target: Path, features: FeatureSet, tmp_path: Path) -> None:
    """Equal data in another place is the same data; one changed token makes it other data, whatever its size."""
    copied = Path(shutil.copytree(features.path, tmp_path / "copied"))
    arm = start().arm
    load_state(saved, start_training(arm, target, FeatureSet(copied)))
    file = copied / "hidden_states/hs_5.safetensors"
    stored = load_file(file)
    stored["token_ids"][-1] ^= 1
    save_file(stored, file)
    seal_features(copied, target=features.target, aux_layers=features.aux_layers, hidden_size=features.hidden_size)
    with pytest.raises(UserError, match=r"another training: features\.sha256=\S+ \(asked for \S+\); resume") as refusal:
        load_state(saved, start_training(arm, target, FeatureSet(copied)))
    assert features.sha256 in str(refusal.value)


def test_an_interrupted_save_leaves_the_state_before(start: Start, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start()
    monkeypatch.setattr("lib.draft.state.write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_state(saved, training)
    assert read_state(saved).samples == 8
    assert [entry.name for entry in saved.parent.iterdir()] == ["state"]
