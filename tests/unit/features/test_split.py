"""Prompt splits have exact or bounded lengths, are disjoint in text and document, and do not depend on the order of the file."""

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from lib.config import Features
from lib.errors import UserError
from lib.features.prompts import Prompt, read_prompts
from lib.features.split import SPLITS, write_prompts
from lib.target.corpus import split_documents, stdlib_documents
from lib.target.load import leading_text, load_tokenizer
from tokenizers import Tokenizer, processors

from tests.unit.features.templates import CHATML

COUNTS = {"train": 40, "heldout": 10, "serving": 10}


def _features(**changes: Any) -> Features:
    counts = {f"{split}_prompts": count for split, count in COUNTS.items()}
    return Features.model_validate({**counts, "prompt_tokens": 16, **changes})


def _write(path: Path, prompts: list[str]) -> str:
    return _write_lines(path, *({"prompt": prompt} for prompt in prompts))


def _write_lines(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def _read(folder: Path) -> dict[str, list[Prompt]]:
    return {split: read_prompts(folder / f"{split}.jsonl") for split in SPLITS}


def _splits(folder: Path) -> dict[str, list[str]]:
    return {split: [prompt.prompt for prompt in prompts] for split, prompts in _read(folder).items()}


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
    write_prompts(tmp_path / "prompts", target, _features())
    splits = _splits(tmp_path / "prompts")
    assert {split: len(prompts) for split, prompts in splits.items()} == COUNTS
    _assert_disjoint(splits)
    tokenizer = load_tokenizer(target)
    parts = split_documents(stdlib_documents())
    for split, prompts in _read(tmp_path / "prompts").items():
        assert len(set(splits[split])) == len(prompts)
        for prompt in prompts:
            assert tuple(tokenizer.encode(prompt.prompt)) == prompt.token_ids and len(prompt.token_ids) == 16
            assert any(document.startswith(prompt.prompt) or "\n" + prompt.prompt in document for document in parts[split])


def test_more_training_prompts_leave_the_measured_ones_alone(target: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "few", target, _features())
    write_prompts(tmp_path / "many", target, _features(train_prompts=80))
    few, many = _splits(tmp_path / "few"), _splits(tmp_path / "many")
    assert (few["serving"], few["heldout"], few["train"]) == (many["serving"], many["heldout"], many["train"][:40])
    write_prompts(tmp_path / "other", target, _features(seed=1))
    assert _splits(tmp_path / "other")["serving"] != few["serving"]


def test_a_users_prompts_are_distinct_and_split_by_content(target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    own = [f"Question {number}: what is {number} naïve?" for number in range(70)]
    write_prompts(tmp_path / "one", target, _features(prompts=_write(tmp_path / "one.jsonl", own), prompt_tokens=32))
    shuffled = own * 2
    random.Random(0).shuffle(shuffled)
    write_prompts(tmp_path / "two", target, _features(prompts=_write(tmp_path / "two.jsonl", shuffled), prompt_tokens=32))
    splits = _splits(tmp_path / "one")
    assert splits == _splits(tmp_path / "two")
    assert {split: len(set(prompts)) for split, prompts in splits.items()} == COUNTS
    _assert_disjoint(splits)
    tokenizer = load_tokenizer(target)
    lengths = sorted(len(tokenizer.encode(prompt)) for prompt in own)
    assert set(itertools.chain(*splits.values())) <= set(own)
    assert f"70 prompts, 70 duplicates left out, of {lengths[0]} to {lengths[-1]} tokens (median" in caplog.text


def test_prompts_that_are_too_long_are_dropped_and_counted_never_cut(
    target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"print({number})" for number in range(60)]
    source = _write(tmp_path / "own.jsonl", ["import os\n" * 30, *texts, "import sys\n" * 30])
    write_prompts(tmp_path / "prompts", target, _features(prompts=source))
    assert sorted(itertools.chain(*_splits(tmp_path / "prompts").values())) == sorted(texts)
    assert "2 of 62 lines are dropped: 2 longer than features.prompt_tokens = 16 (first: line 1)" in caplog.text
    with pytest.raises(UserError, match=r"2 of 62 lines cannot be used, more than features.max_dropped = 0.01 allows: 2 longer than .*; "):
        write_prompts(tmp_path / "few", target, _features(prompts=source, max_dropped=0.01))
    with pytest.raises(UserError, match=r"holds 60 distinct prompts, after 2 that are dropped, of 61 wanted"):
        write_prompts(tmp_path / "few", target, _features(prompts=source, train_prompts=41))
    assert not (tmp_path / "few").exists()


def test_too_few_stdlib_prompts_are_refused_by_name(target: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.serving_prompts=9999999"):
        write_prompts(tmp_path / "out", target, _features(serving_prompts=9_999_999))


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
    write_prompts(tmp_path / "plain", target, _features(prompts=_write(tmp_path / "plain.jsonl", texts)))
    templated = _write(tmp_path / "templated.jsonl", [f"<|endoftext|>{text}" for text in texts])
    write_prompts(tmp_path / "templated", target, _features(prompts=templated))
    splits = _read(tmp_path / "templated")
    assert _read(tmp_path / "plain") == splits
    assert leading_text(load_tokenizer(target)) == "<|endoftext|>"
    assert all(prompt.prompt.startswith("<|endoftext|>print") for prompt in splits["train"])
    assert all(prompt.token_ids.count(0) == 1 for prompt in splits["train"])


def test_a_tokenizer_without_a_bos_leads_with_nothing(target: Path) -> None:
    assert leading_text(load_tokenizer(target)) == ""


def _conversations(path: Path, count: int, answer: str = "Two") -> str:
    return _write_lines(
        path,
        *(
            {"messages": [{"role": "user", "content": f"Why {number}?"}, {"role": "assistant", "content": f"{answer} {number}"}]}
            for number in range(count)
        ),
    )


def test_answers_of_the_data_are_kept_for_training_and_left_out_for_serving(target: Path, tmp_path: Path) -> None:
    (tmp_path / "chatml.jinja").write_text(CHATML)
    changes = {"chat_template": str(tmp_path / "chatml.jinja"), "prompt_tokens": 64, "response_tokens": 64}
    one, other = _conversations(tmp_path / "one.jsonl", 60), _conversations(tmp_path / "other.jsonl", 60, "Three")
    write_prompts(tmp_path / "kept", target, _features(prompts=one, answers="given", **changes))
    write_prompts(tmp_path / "fresh", target, _features(prompts=other, **changes))
    kept, fresh = _read(tmp_path / "kept"), _read(tmp_path / "fresh")
    assert kept["serving"] == fresh["serving"]
    tokenizer = load_tokenizer(target)
    for split in ("heldout", "train"):
        assert len(kept[split]) == COUNTS[split]
        for one, asked in zip(kept[split], fresh[split], strict=True):
            ((first, end),) = one.answers
            assert one.token_ids[:first] == asked.token_ids and end == len(one.token_ids) and not asked.answers
            assert tokenizer.decode(one.token_ids[first:end]).startswith("Two ") and one.prompt.startswith(asked.prompt)


def test_conversations_without_answers_or_with_long_ones_are_dropped(target: Path, tmp_path: Path) -> None:
    (tmp_path / "chatml.jinja").write_text(CHATML)
    changes = {"chat_template": str(tmp_path / "chatml.jinja"), "prompt_tokens": 64, "response_tokens": 64, "answers": "given"}
    empty = _write_lines(tmp_path / "own.jsonl", *({"messages": [{"role": "user", "content": f"{number}"}]} for number in range(60)))
    with pytest.raises(
        UserError, match=r"60 of 60 lines cannot be used.*60 without an answer \(first: line 1\); .*features.answers to regen"
    ):
        write_prompts(tmp_path / "out", target, _features(prompts=empty, **changes))
    long = _conversations(tmp_path / "long.jsonl", 60, "word " * 80)
    with pytest.raises(UserError, match=r"60 longer with their answers than features.prompt_tokens \+ response_tokens = 128 \(first"):
        write_prompts(tmp_path / "out", target, _features(prompts=long, **changes))
