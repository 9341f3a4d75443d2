"""Exports: speculators loads them with the trained weights, and they contain everything that vLLM must not guess."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lib.draft.export import export_head
from lib.draft.heads import head_hash
from lib.draft.state import save_state
from lib.draft.trainer import Training, train_rung
from lib.errors import UserError
from lib.manifest import CorruptState
from lib.methods import Draft
from safetensors import safe_open
from speculators import SpeculatorModel


@pytest.mark.parametrize("draft_vocab_size", [None, 100])
def test_speculators_loads_the_trained_head(
    draft_vocab_size: int | None, draft: Draft, start_head: Callable[..., Training], target: Path, tmp_path: Path
) -> None:
    training = start_head(draft.model_copy(update={"draft_vocab_size": draft_vocab_size}))
    outcome = train_rung(training, 16)
    save_state(tmp_path / "state", training)
    export_head(tmp_path / "state", target, tmp_path / "head")

    model = SpeculatorModel.from_pretrained(tmp_path / "head")
    model._load_verifier_weights(overwrite_embed_tokens=True)  # speculators 0.9 leaves the embedding of EAGLE3 as it was initialised
    assert head_hash(model) == outcome.head
    loaded, trained = model.state_dict(), training.model.state_dict()
    assert loaded.keys() == trained.keys()
    assert not [name for name in trained if not torch.equal(loaded[name], trained[name])]

    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert "auto_map" not in config and not [*tmp_path.rglob("*.py")], "a head holds no code"
    assert config["speculators_model_type"] == draft.served_as
    assert config["draft_vocab_size"] == (draft_vocab_size or 256)
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 3
    if draft.served_as == "eagle3":
        assert config["norm_before_residual"] is True
        assert config["eagle_aux_hidden_state_layer_ids"] == [1, 2, 3]
    else:
        assert config["aux_hidden_state_layer_ids"] == [1, 2, 3]
        assert (config["block_size"], config["mask_token_id"]) == (4, 2)
    with safe_open(tmp_path / "head" / "model.safetensors", "pt") as tensors:
        assert "embed_tokens.weight" not in tensors.keys(), "the embedding is the target's"  # noqa: SIM118
        assert ({"d2t", "t2d"} <= set(tensors.keys())) is (draft_vocab_size is not None)


def test_a_damaged_state_is_not_exported(start: Callable[..., Training], target: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "state", start())
    (tmp_path / "state" / "head" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CorruptState):
        export_head(tmp_path / "state", target, tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_a_head_is_not_exported_for_another_target(start: Callable[..., Training], target: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "state", start())
    other = tmp_path / "other"
    other.mkdir()
    for file in target.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    with pytest.raises(UserError, match="was trained for"):
        export_head(tmp_path / "state", other, tmp_path / "head")
