"""Allowed workloads, and when two workloads are equal."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.serving.workload import Workload, find_subsets, identify, require_room


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory of two subsets, and of files that are none."""
    (tmp_path / "qa.jsonl").write_text('{"prompt": "a", "id": 1}\n\n{"prompt": "b"}\n')
    (tmp_path / "HumanEval.jsonl").write_text('{"prompt": "c"}\n{"prompt": "d"}\n{"prompt": "e"}\n')
    (tmp_path / "README.md").touch()
    (tmp_path / "._qa.jsonl").touch()
    return tmp_path


def test_a_directory_is_one_subset_per_file_and_a_file_one_subset(folder: Path) -> None:
    found = find_subsets(folder, "prompts")
    assert list(found.items()) == [("HumanEval", folder / "HumanEval.jsonl"), ("qa", folder / "qa.jsonl")]
    assert find_subsets(folder / "qa.jsonl", "prompts") == {"qa": folder / "qa.jsonl"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"does not exist; give"),
        ("empty", r"holds no \.jsonl file; put"),
    ],
)
def test_a_path_without_prompts_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=rf"^serving\.prompts=\S+{name} {message}"):
        find_subsets(folder / name, "serving.prompts")


def test_a_line_that_is_no_prompt_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match=r"^prompts=\S+prompts\.jsonl line 2"):
        identify(Workload(find_subsets(tmp_path, "prompts"), output_tokens=4, concurrency=2))


def test_identity_follows_the_prompts_content(folder: Path) -> None:
    workload = Workload(find_subsets(folder, "prompts"), output_tokens=4, concurrency=2)
    first = identify(workload)
    assert first["subsets"]["qa"] == {"prompts_sha256": hashlib.sha256((folder / "qa.jsonl").read_bytes()).hexdigest(), "num_prompts": 2}
    moved = (folder / "qa.jsonl").rename(folder / "elsewhere.jsonl")
    same = replace(workload, subsets={**workload.subsets, "qa": moved})
    assert identify(same) == first
    assert identify(replace(same, temperature=0.5)) != first
    moved.write_text('{"prompt": "a"}\n{"prompt": "c"}\n')
    assert identify(same) != first


def test_so_many_prompts_of_each_subset(folder: Path) -> None:
    workload = Workload(find_subsets(folder, "prompts"), output_tokens=4, concurrency=2, prompts_per_subset=2)
    assert (workload.prompts("qa"), workload.prompts("HumanEval")) == (["a", "b"], ["c", "d"])
    assert [subset["num_prompts"] for subset in identify(workload)["subsets"].values()] == [2, 2]
    for asked in (0, 3):
        with pytest.raises(UserError, match=rf"^prompts_per_subset={asked}, but prompts=\S+qa\.jsonl holds 2; give 1 to 2"):
            replace(workload, prompts_per_subset=asked).prompts("qa")


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(folder: Path) -> None:
    def words(text: str) -> int:
        return len(text.split())

    (folder / "qa.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a b c"}\n')
    workload = Workload(find_subsets(folder, "prompts"), output_tokens=4, concurrency=1)
    require_room(workload, words, 7)
    with pytest.raises(
        UserError, match=r"^serving\.max_model_len = 6 is too short for a prompt of 3 tokens in \S+qa\.jsonl and serving\.workload"
    ):
        require_room(workload, words, 6)
    require_room(replace(workload, prompts_per_subset=1), words, 6)


def test_what_the_tokenizer_puts_before_every_prompt_is_not_sent_twice(folder: Path) -> None:
    (folder / "qa.jsonl").write_text('{"prompt": "<s>[INST] a"}\n{"prompt": "a <s>"}\n')
    workload = Workload({"qa": folder / "qa.jsonl"}, output_tokens=4, concurrency=1)
    assert workload.prompts("qa") == ["<s>[INST] a", "a <s>"]
    assert replace(workload, leading="<s>").prompts("qa") == ["[INST] a", "a <s>"]
