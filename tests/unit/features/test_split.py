"""Prompt splits have exact token counts, are disjoint in text and document, and do not depend on the order of the file."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.features.prompts import read_prompts
from lib.features.split import SPLITS, write_prompts
from lib.target.corpus import split_documents, stdlib_documents
from lib.target.load import leading_text, load_tokenizer
from tokenizers import Tokenizer, processors

COUNTS = {"train": 40, "heldout": 10, "serving": 10}


def _write(path: Path, prompts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def _splits(folder: Path) -> dict[str, list[str]]:
    return {split: read_prompts(folder / f"{split}.jsonl") for split in SPLITS}


def _assert_disjoint(splits: dict[str, list[str]]) -> None:
    for one, other in itertools.combinations(splits.values(), 2):
        assert not set(one) & set(other)


def test_every_document_has_one_part() -> None:
    documents = stdlib_documents()
    assert len(documents) > 300
    assert not any("site-packages" in name or "/test" in name for name in documents)
    parts = split_documents(documents)
    assert sum(map(len, parts.values())) == len(documents)
    characters = {part: sum(map(len, texts)) for part, texts in parts.items()}
    assert characters["target"] > 0.5 * sum(characters.values())
    assert min(characters.values()) > 100_000


def test_a_document_keeps_its_part_when_others_come_and_go() -> None:
    documents = stdlib_documents()
    fewer = dict(itertools.islice(documents.items(), 0, None, 2))
    parts = split_documents(documents)
    for part, texts in split_documents(fewer).items():
        assert set(texts) <= set(parts[part])


def test_stdlib_prompts_are_exact_disjoint_and_from_their_own_documents(target: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts", target, COUNTS, 16, seed=0)
    splits = _splits(tmp_path / "prompts")
    assert {split: len(prompts) for split, prompts in splits.items()} == COUNTS
    _assert_disjoint(splits)
    tokenizer = load_tokenizer(target)
    parts = split_documents(stdlib_documents())
    for split, prompts in splits.items():
        assert len(set(prompts)) == len(prompts)
        for prompt in prompts:
            assert len(tokenizer.encode(prompt)) == 16
            assert any(document.startswith(prompt) or "\n" + prompt in document for document in parts[split])


def test_more_training_prompts_leave_the_measured_ones_alone(target: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "few", target, COUNTS, 16, seed=0)
    write_prompts(tmp_path / "many", target, {**COUNTS, "train": 80}, 16, seed=0)
    few, many = _splits(tmp_path / "few"), _splits(tmp_path / "many")
    assert (few["serving"], few["heldout"], few["train"]) == (many["serving"], many["heldout"], many["train"][:40])
    write_prompts(tmp_path / "other", target, COUNTS, 16, seed=1)
    assert _splits(tmp_path / "other")["serving"] != few["serving"]


def test_a_users_prompts_are_distinct_truncated_and_split_by_content(target: Path, tmp_path: Path) -> None:
    own = [f"Question {number}: what is {number} naïve + {number * number}?" * (1 + number % 3) for number in range(70)]
    write_prompts(tmp_path / "one", target, COUNTS, 24, 0, _write(tmp_path / "one.jsonl", own))
    shuffled = own * 2
    random.Random(0).shuffle(shuffled)
    write_prompts(tmp_path / "two", target, COUNTS, 24, 0, _write(tmp_path / "two.jsonl", shuffled))
    splits = _splits(tmp_path / "one")
    assert splits == _splits(tmp_path / "two")
    assert {split: len(set(prompts)) for split, prompts in splits.items()} == COUNTS
    _assert_disjoint(splits)
    tokenizer = load_tokenizer(target)
    for prompt in itertools.chain(*splits.values()):
        assert len(tokenizer.encode(prompt)) <= 24
        assert any(text.startswith(prompt) for text in own)


def test_prompts_that_agree_up_to_the_limit_count_once(target: Path, tmp_path: Path) -> None:
    source = _write(tmp_path / "own.jsonl", ["the same beginning of every single line, number " + str(number) for number in range(9)])
    with pytest.raises(UserError, match="holds 1 distinct prompts of 3 wanted"):
        write_prompts(tmp_path / "out", target, {"train": 1, "heldout": 1, "serving": 1}, 4, 0, source)
    assert not (tmp_path / "out").exists()


def test_too_few_stdlib_prompts_are_refused_by_name(target: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.serving_prompts=9999999"):
        write_prompts(tmp_path / "out", target, {**COUNTS, "serving": 9_999_999}, 16, seed=0)


def _with_bos(target: Path, folder: Path) -> Path:
    """Return a copy of the target whose tokenizer puts its BOS before every text."""
    copy = Path(shutil.copytree(target, folder / "with-bos"))
    file = copy / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.save(str(file))
    return copy


def test_a_prompt_that_begins_with_the_bos_of_its_template_gets_no_second_one(target: Path, tmp_path: Path) -> None:
    target = _with_bos(target, tmp_path)
    texts = [f"print({number})" for number in range(60)]
    write_prompts(tmp_path / "plain", target, COUNTS, 16, seed=0, source=_write(tmp_path / "plain.jsonl", texts))
    templated = _write(tmp_path / "templated.jsonl", [f"<|endoftext|>{text}" for text in texts])
    write_prompts(tmp_path / "templated", target, COUNTS, 16, seed=0, source=templated)
    assert _splits(tmp_path / "plain") == _splits(tmp_path / "templated")
    tokenizer = load_tokenizer(target)
    assert leading_text(tokenizer) == "<|endoftext|>"
    assert all(tokenizer.encode(prompt).count(0) == 1 for prompts in _splits(tmp_path / "templated").values() for prompt in prompts)


def test_a_tokenizer_without_a_bos_leads_with_nothing(target: Path) -> None:
    assert leading_text(load_tokenizer(target)) == ""


def test_prompts_that_are_blank_when_cut_are_dropped_and_counted(target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"print({number})" for number in range(60)]
    blank = ["\n" * 200 + "def main():", "\n \n" * 100 + "x"]
    write_prompts(tmp_path / "prompts", target, COUNTS, 16, seed=0, source=_write(tmp_path / "own.jsonl", [*blank, *texts]))
    assert sorted(itertools.chain(*_splits(tmp_path / "prompts").values())) == sorted(texts)
    assert "2 of 62 prompts are dropped" in caplog.text
    with pytest.raises(UserError, match=r"holds 59 distinct prompts, after 2 that begin with 16 blank tokens, of 60 wanted"):
        write_prompts(tmp_path / "few", target, COUNTS, 16, seed=0, source=_write(tmp_path / "few.jsonl", [*blank, *texts[1:]]))
