"""Extraction: answers that end, answers that are given, resumption, and refusals."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lib.errors import UserError
from lib.features import extract as module
from lib.features.extract import part_of
from lib.features.prompts import Prompt
from lib.features.samples import FeatureSet
from lib.storage import open_storage
from safetensors.torch import load_file, save_file

from tests.stub_engine.engine import Reference, load_target
from tests.unit.extraction import extract, prompts_of

AUX = (0, 1)
TEXTS = ["import os\n", "def f(x):\n    return", "class A:\n", "x = 1\n", "for line in lines:\n"]


class Counting:
    """Counts the samples that an extractor is asked for, and fails after some."""

    def __init__(self, extractor: Reference, fail_after: int | None = None) -> None:
        self.extractor, self.left, self.asked = extractor, fail_after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extractor, name)

    def states(self, tokens: Sequence[int]) -> torch.Tensor:
        """Yield states until it fails."""
        if self.left is not None and self.asked >= self.left:
            raise UserError("the engine died")
        self.asked += 1
        return self.extractor.states(tokens)


@pytest.fixture(scope="module")
def prompts(target: Path) -> list[Prompt]:
    return prompts_of(target, TEXTS)


def test_an_answer_ends_at_an_end_token_which_is_trained_on(target: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    free = Reference(load_target(target), []).answer(prompts[0].token_ids, 12, [], {})
    end = free[4]
    (folder,) = extract(target, {"train": prompts[:1]}, tmp_path, most=12, aux_layers=AUX, stop=(511, end)).values()
    sample = FeatureSet(folder).sample(0)
    first = len(prompts[0].token_ids)
    ended = free[: free.index(end) + 1]
    assert sample["input_ids"][first:].tolist() == ended
    assert sample["loss_mask"].tolist() == [0] * first + [1] * len(ended)
    last = sample["verifier_last_hidden_states"]
    assert last.isfinite().all() and len(last) == first + len(ended)


def test_given_answers_stay_and_each_turn_is_trained_on(target: Path, tmp_path: Path) -> None:
    tokens = tuple(range(5, 25))
    prompt = Prompt("made up", tokens, ((4, 7), (15, 20)))
    other = Prompt("made up too", tokens[::-1], ((10, 12),))
    (folder,) = extract(target, {"train": [prompt, other]}, tmp_path, most=12, aux_layers=AUX).values()
    features = FeatureSet(folder)
    assert features.sample(0)["input_ids"].tolist() == list(tokens)
    assert features.sample(0)["loss_mask"].nonzero()[:, 0].tolist() == [4, 5, 6, 15, 16, 17, 18, 19]
    assert (features.answer(0), features.answer(1)) == ([*tokens[4:7], *tokens[15:]], [14, 13])


def test_an_interrupted_extraction_goes_on_with_the_samples_that_are_left(
    target: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_AGREEMENT", 0)  # five short answers
    splits = {"heldout": prompts[:2], "train": prompts[2:]}
    whole = extract(target, splits, tmp_path / "whole", most=10, aux_layers=AUX)
    with pytest.raises(UserError, match="the engine died"):
        extract(target, splits, tmp_path / "cut", most=10, aux_layers=AUX, extractor=lambda one: Counting(one, 3))
    work = tmp_path / "cut/work"
    assert not (tmp_path / "cut/train").exists() and len(list(work.rglob("*.safetensors"))) == 3
    damaged = work / "heldout/0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    seen: list[Counting] = []
    resumed = extract(
        target, splits, tmp_path / "cut", most=10, aux_layers=AUX, extractor=lambda one: seen.append(Counting(one)) or seen[0]
    )
    assert seen[0].asked == 3, "two that are left, and the damaged one"
    assert not work.exists()
    for split in splits:
        assert FeatureSet(resumed[split]).sha256 == FeatureSet(whole[split]).sha256
        found, expected = (json.loads((one[split] / "manifest.json").read_text())["extracted"] for one in (resumed, whole))
        assert found["agreement"] == expected["agreement"], "of all samples, not of those of the last attempt"


def test_a_refusal_stands_when_all_samples_are_done(
    target: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_AGREEMENT", 2)
    for _ in range(2):
        with pytest.raises(UserError, match="heads would learn"):
            extract(target, {"train": prompts}, tmp_path, most=10, aux_layers=AUX)
    assert len(list((tmp_path / "work").rglob("*.safetensors"))) == len(prompts)


METADATA = {module.COMPARED: "1 of 1"}


def _without_states(file: Path) -> None:
    save_file({"token_ids": load_file(file)["token_ids"]}, file, METADATA)


def _with_fewer_states(file: Path) -> None:
    tensors = load_file(file)
    save_file(tensors | {"hidden_states": tensors["hidden_states"][1:].clone()}, file, METADATA)


def _with_one_token(file: Path) -> None:
    save_file(load_file(file) | {"token_ids": torch.tensor(7)}, file, METADATA)


def _a_folder(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


def _a_link_to(folder: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.unlink()
        file.symlink_to(folder)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff" * 99),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: save_file(load_file(file), file),
        lambda file: save_file(load_file(file), file, {module.COMPARED: "many"}),
        _without_states,
        _with_fewer_states,
        _with_one_token,
        _a_folder,
        _a_link_to("absent"),
        _a_link_to("/etc"),
    ],
)
def test_a_damaged_sample_is_extracted_again(damage: Callable[[Path], object], target: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the engine died"):
        extract(target, {"train": prompts[:2]}, tmp_path, most=10, aux_layers=AUX, extractor=lambda one: Counting(one, 1))
    damage(tmp_path / "work/train/0.safetensors")
    (folder,) = extract(target, {"train": prompts[:2]}, tmp_path, most=10, aux_layers=AUX).values()
    assert len(FeatureSet(folder)) == 2 and FeatureSet(folder).sample(0)["hidden_states"].isfinite().all()
    assert Path("/etc/hosts").exists()


@pytest.mark.parametrize("place", ["one", "other"], ids=["with a file cut off", "on another machine"])
def test_a_machine_that_dies_loses_no_sample_that_was_copied(target: Path, prompts: list[Prompt], tmp_path: Path, place: str) -> None:
    store = open_storage(str(tmp_path / "store"), "streaming.url")
    with pytest.raises(UserError, match="the engine died"):
        extract(target, {"train": prompts}, tmp_path / "one", most=10, aux_layers=AUX, store=store, extractor=lambda one: Counting(one, 2))
    assert len(store.names("work")) == 2
    cut_off = next((tmp_path / "one/work").rglob("*.safetensors"))
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    seen: list[Counting] = []
    other = extract(
        target,
        {"train": prompts},
        tmp_path / place,
        most=10,
        aux_layers=AUX,
        store=store,
        extractor=lambda one: seen.append(Counting(one)) or seen[0],
    )
    assert seen[0].asked == len(prompts) - 2
    assert not store.names("work"), "copies of finished work are removed"
    assert len(FeatureSet(other["train"])) == len(prompts)


def test_a_store_that_fails_costs_the_copies_and_one_that_cannot_be_read_is_refused(
    target: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_storage(str(tmp_path / "store"), "streaming.url")
    monkeypatch.setattr(store, "put", lambda *_: os.fstat(-1))
    (folder,) = extract(target, {"train": prompts}, tmp_path / "one", most=10, aux_layers=AUX, store=store).values()
    assert len(FeatureSet(folder)) == len(prompts)
    assert "could not copy a sample to streaming.url (OSError: " in caplog.text
    monkeypatch.setattr(store, "names", lambda *_: os.fstat(-1))
    with pytest.raises(UserError, match=r"^streaming\.url: the samples there cannot be listed \(OSError: .*\); try again, or change it$"):
        extract(target, {"train": prompts}, tmp_path / "two", most=10, aux_layers=AUX, store=store)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_are_the_whole_in_order(target: Path, prompts: list[Prompt], tmp_path: Path, parts: int) -> None:
    assert [prompt for part in range(1, parts + 1) for prompt in part_of(prompts, part, parts)] == prompts
    if parts != 2:
        return
    whole = FeatureSet(extract(target, {"train": prompts}, tmp_path / "whole", most=10, aux_layers=AUX)["train"])
    each = [extract(target, {"train": part_of(prompts, part, 2)}, tmp_path / str(part), most=10, aux_layers=AUX) for part in (1, 2)]
    both = FeatureSet(*(one["train"] for one in each))
    assert both.lengths == whole.lengths and len(both) == len(whole)
    for index in range(len(whole)):
        for name, value in whole.sample(index).items():
            assert torch.equal(both.sample(index)[name], value)


def test_states_may_be_stored_in_half_the_bytes(target: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        (folder,) = extract(target, {"train": prompts}, tmp_path / str(dtype), most=10, aux_layers=AUX, dtype=dtype).values()
        assert FeatureSet(folder).sample(0)["hidden_states"].dtype == dtype
        sizes[dtype] = (folder / "hidden_states/hs_0.safetensors").stat().st_size
    assert sizes[torch.bfloat16] < 0.6 * sizes[torch.float32]


def test_sampled_answers_are_checked_against_the_target_itself(target: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    class Wrong(Counting):
        def next_tokens(self, tokens: Sequence[int]) -> list[int]:
            return [(token + 1) % 512 for token in self.extractor.next_tokens(tokens)]

    sampled = {"temperature": 0.7, "seed": 0}
    extract(target, {"train": prompts}, tmp_path / "right", most=10, aux_layers=AUX, sampling=sampled)
    with pytest.raises(UserError, match=r"heads would learn .* tokens other than the target answers"):
        extract(target, {"train": prompts}, tmp_path / "wrong", most=10, aux_layers=AUX, sampling=sampled, extractor=Wrong)
