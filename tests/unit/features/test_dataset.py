"""An external data set is used unchanged, or refused in one line that names it."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lib.errors import UserError
from lib.features import dataset as module
from lib.features.dataset import adopt_dataset, check_dataset, dataset_fingerprint, read_dataset
from lib.features.samples import FeatureSet
from lib.target.load import check_target
from safetensors.torch import load_file, save_file

LAYERS = [1, 2, 3]
ROWS = [[index, index + 1, 7, 9] for index in range(8)] + [[0, 1, 7, 9], [50, 51, 52, 53]]
"""The last but one repeats the first; the last has no answer."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of bfloat16 states for the small target."""
    folder = tmp_path / "data"
    masks = [[0, 0, 1, 1]] * 9 + [[0, 0, 0, 0]]
    rows = {"input_ids": ROWS, "loss_mask": masks, "seq_len": [4] * 10, "source": ["web"] * 10}
    Dataset.from_dict(rows).with_format("torch").save_to_disk(folder)
    (folder / "hidden_states").mkdir()
    for index, row in enumerate(ROWS):
        states = torch.full((4, 4, 64), float(index), dtype=torch.bfloat16)
        save_file({"hidden_states": states, "token_ids": torch.tensor(row)}, folder / f"hidden_states/hs_{index}.safetensors")
    return folder


def always(token: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an output that predicts a token everywhere. 7 is half of every answer."""
    return lambda states: torch.eye(512)[token].expand(len(states), 512)


def adopt(dataset: Path, target: Path, **counts: int) -> dict[str, FeatureSet]:
    out = {split: dataset.parent / split for split in ("train", "heldout")}
    adopt_dataset(dataset, target, out, {"train": 5, "heldout": 3} | counts, LAYERS, 0, 1, always(7))
    return {split: FeatureSet(path) for split, path in out.items()}


@pytest.mark.parametrize(("ahead", "held"), [(1, True), (2, False), (7, False)])
def test_a_split_of_which_no_answer_can_be_drafted_is_refused(dataset: Path, target: Path, ahead: int, held: bool) -> None:
    out = {split: dataset.parent / split for split in ("train", "heldout")}
    refused = pytest.raises(UserError, match=rf"no answer of its heldout rows holds the {ahead + 1} tokens that drafting {ahead} tokens")
    with nullcontext() if held else refused:
        adopt_dataset(dataset, target, out, {"train": 5, "heldout": 3}, LAYERS, 0, ahead, always(7))
    assert out["heldout"].exists() == held


def test_a_data_set_whose_states_do_not_predict_its_answers_is_refused(dataset: Path, target: Path) -> None:
    out = {split: dataset.parent / split for split in ("train", "heldout")}
    with pytest.raises(UserError, match=rf"^features\.dataset={dataset}: its hidden states predict 0% of the tokens of its answers; "):
        adopt_dataset(dataset, target, out, {"train": 5, "heldout": 3}, LAYERS, 0, 1, always(3))
    assert not out["heldout"].exists()


def sequences(features: FeatureSet) -> list[tuple[int, ...]]:
    return [tuple(features.sample(index)["input_ids"].tolist()) for index in range(len(features))]


def test_rows_become_two_splits_that_share_nothing_with_their_own_states(dataset: Path, target: Path) -> None:
    adopted = adopt(dataset, target)
    train, heldout = map(sequences, adopted.values())
    assert (len(train), len(heldout)) == (5, 3) and len({*train, *heldout}) == 8 and (50, 51, 52, 53) not in train + heldout
    for features in adopted.values():
        for index, tokens in enumerate(sequences(features)):
            sample = features.sample(index)
            assert {*sample["hidden_states"].flatten().tolist()} <= {float(tokens[0]), 8.0}
            assert sample["hidden_states"].shape == (4, 3 * 64) and sample["loss_mask"].tolist() == [0, 0, 1, 1]
    fewer = adopt(dataset, target, train=2)
    assert sequences(fewer["heldout"]) == heldout and sequences(fewer["train"]) == train[:2]


def test_hidden_states_stay_where_they_are(dataset: Path, target: Path, tmp_path: Path) -> None:
    """A split is small, says where the data set lies, and is the same split wherever that is; its answers cost no hidden states."""
    adopted = adopt(dataset, target)
    here = {split: tmp_path / split for split in adopted}
    assert not [file for folder in here.values() for file in folder.rglob("*.safetensors")]
    manifest = json.loads((here["train"] / "manifest.json").read_text())
    assert manifest["dataset"]["path"] == str(dataset)
    rows = [sample["row"] for sample in manifest["dataset"]["samples"]]
    assert [tuple(ROWS[row]) for row in rows] == sequences(adopted["train"])
    moved = Path(shutil.copytree(dataset, tmp_path / "elsewhere/data"))
    assert adopt(moved, target)["train"].sha256 == adopted["train"].sha256
    shutil.rmtree(moved / "hidden_states")
    adopted = adopt(dataset, target)
    shutil.rmtree(dataset / "hidden_states")
    assert [adopted["train"].answer(index) for index in range(5)] == [[7, 9]] * 5
    with pytest.raises(UserError) as refusal:
        FeatureSet(here["train"])
    assert (
        str(refusal.value)
        == f"features.dataset={dataset} is not on this machine, but {here['train']} uses its rows; mount it where jobs run"
    )


def test_the_fingerprint_follows_content_not_place(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    assert dataset_fingerprint(copy) == dataset_fingerprint(dataset)
    rewrite(3, hidden_states=torch.zeros(4, 4, 64))(copy)
    changed = dataset_fingerprint(copy)
    (copy / "hidden_states/hs_9.safetensors").unlink()
    assert len({dataset_fingerprint(dataset), changed, dataset_fingerprint(copy)}) == 3


def test_the_fingerprint_of_many_large_files_reads_the_ends_of_64(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the states between those 64 it knows name and size, of the middle of a file nothing."""
    states = dataset / "hidden_states"
    for row in range(10, 200):
        (states / f"hs_{row}.safetensors").write_bytes(bytes([row]) * 300_000)
    read: list[str] = []
    ends = module._ends
    monkeypatch.setattr(module, "_ends", lambda file: read.append(file.name) or ends(file))
    fingerprints = [dataset_fingerprint(dataset)]
    names = sorted(file.name for file in states.iterdir())
    looked_at = [name for name in read if name in names]
    assert len(set(looked_at)) == 64 and {names[0], names[-1]} <= set(looked_at)

    def changed(name: str, place: int) -> bool:
        content = bytearray((states / name).read_bytes())
        content[place] ^= 1
        (states / name).write_bytes(content)
        fingerprints.append(dataset_fingerprint(dataset))
        return fingerprints[-1] != fingerprints[-2]

    large = [name for name in looked_at if (states / name).stat().st_size == 300_000]
    passed_over = next(name for name in names if name not in looked_at)
    assert changed(large[0], 0) and changed(large[0], -1) and changed(large[0], 2**16 - 1)
    assert not changed(large[0], 2**16) and not changed(passed_over, 0)
    (states / passed_over).write_bytes(b"shorter")
    assert dataset_fingerprint(dataset) != fingerprints[-1]


def rewrite(row: int | None = None, **tensors: torch.Tensor) -> Callable[..., None]:
    """Return a function that changes tensors of a row's file, or of the row it is called with."""

    def change(folder: Path, chosen: int | None = row) -> None:
        file = folder / f"hidden_states/hs_{chosen}.safetensors"
        save_file(load_file(file) | tensors, file)

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def no_column(folder: Path) -> None:
    states = folder / "hidden_states"
    states.rename(folder.parent / "kept")
    shutil.rmtree(folder)
    Dataset.from_dict({"input_ids": ROWS, "text": ["a"] * 10}).save_to_disk(folder)
    (folder.parent / "kept").rename(states)


def all_of(change: Callable[..., Callable[[Path], None]], **tensors: Any) -> Callable[[Path], None]:
    return lambda folder: [change(row, **tensors)(folder) for row in range(len(ROWS))] and None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "is not a directory"),
        (without("state.json"), "has no state.json that lists Arrow files"),
        (without("data-00000-of-00001.arrow"), "lacks data-00000-of-00001.arrow, which its state.json lists; copy it again"),
        (lambda folder: (folder / "data-00000-of-00001.arrow").write_text("x"), "data-00000-of-00001.arrow cannot be read"),
        (no_column, "has no column 'loss_mask', only input_ids, text; prepare it with speculators"),
        (lambda folder: shutil.rmtree(folder / "hidden_states"), "has no folder hidden_states"),
        (without("hidden_states/hs_4.safetensors"), "lacks hidden_states/hs_4.safetensors and 0 more of 10"),
        (
            rewrite(0, hidden_states=torch.zeros(4, 3, 64)),
            "holds 3 layers per token, but draft.aux_layers asks for [1, 2, 3] and the last one, 4",
        ),
        (rewrite(0, hidden_states=torch.zeros(4, 4, 32)), "is of hidden size 32, target.path of 64; name the target it was made with"),
        (lambda folder: (folder / "hidden_states/hs_0.safetensors").write_text("x"), "hs_0.safetensors holds no hidden_states"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(dataset: Path, target: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(dataset)
    with pytest.raises(UserError) as refusal:
        check_dataset(str(dataset), read_dataset(dataset), check_target(target), LAYERS, 8)
    line = str(refusal.value)
    assert line.startswith("features.dataset") and str(dataset) in line and says in line and "\n" not in line


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (all_of(rewrite, token_ids=torch.tensor([1, 1, 1, 1])), "has other tokens than its row"),
        (all_of(rewrite, hidden_states=torch.zeros(3, 4, 64)), "holds [3, 4, 64] values, not [4, 4, 64]"),
        (
            lambda folder: [(folder / f"hidden_states/hs_{row}.safetensors").write_text("x") for row in range(10)] and None,
            "cannot be read (",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_refused_when_it_is_taken(
    dataset: Path, target: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(dataset)
    with pytest.raises(UserError) as refusal:
        adopt(dataset, target)
    assert str(refusal.value).startswith("features.dataset") and says in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(dataset.parent.glob("heldout*"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda folder, row: (folder / f"hidden_states/hs_{row}.safetensors").unlink(),
            "cannot be read ([Errno 2] No such file or directory",
        ),
        (rewrite(token_ids=torch.tensor([1, 1, 1, 1])), "has other tokens than its row"),
        (rewrite(hidden_states=torch.zeros(4, 4, 64, dtype=torch.bfloat16)), "has changed since its row was adopted; restore it"),
        (rewrite(hidden_states=torch.zeros(4, 3, 64)), "holds [4, 3, 64] values, not [4, 4, 64]"),
    ],
)
def test_a_sample_that_has_changed_since_is_refused_when_it_is_read(
    dataset: Path, target: Path, damage: Callable[[Path, int], None], says: str
) -> None:
    train = adopt(dataset, target)["train"]
    sample = json.loads((train.path / "manifest.json").read_text())["dataset"]["samples"][1]
    damage(dataset, sample["row"])
    again = FeatureSet(train.path)
    again.sample(0)
    with pytest.raises(UserError) as refusal:
        again.sample(1)
    line = str(refusal.value)
    assert (
        line.startswith(f"features.dataset: {dataset}/hidden_states/hs_{sample['row']}.safetensors ") and says in line and "\n" not in line
    )


def test_infinite_states_are_refused_when_they_are_read(dataset: Path, target: Path) -> None:
    all_of(rewrite, hidden_states=torch.full((4, 4, 64), torch.inf))(dataset)
    with pytest.raises(UserError, match=r"holds \[4, 4, 64\] values, not \[4, 4, 64\] finite ones; let speculators generate it again"):
        adopt(dataset, target)["train"].sample(0)


def test_a_target_of_a_smaller_vocabulary_is_refused(dataset: Path, target: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(target, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 8}))
    with pytest.raises(UserError, match=r"holds token \d+, target.path has a vocabulary of 8; name the target it was made with"):
        adopt(dataset, other)


def test_too_few_rows_are_refused_with_and_without_repeats(dataset: Path, target: Path) -> None:
    with pytest.raises(UserError, match=r"holds 10 rows, but features.train_prompts \+ heldout_prompts = 11"):
        check_dataset(str(dataset), read_dataset(dataset), check_target(target), LAYERS, 11)
    with pytest.raises(UserError, match="holds 8 different rows with an answer"):
        adopt(dataset, target, train=6)
