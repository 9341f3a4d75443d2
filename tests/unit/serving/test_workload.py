"""Allowed workloads, and when two workloads are equal."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lib.config import Features
from lib.errors import UserError
from lib.features.prompts import Prompt, write_lines
from lib.serving.workload import Workload, find_files, identify, longest_prompts, longest_texts, read_subsets, require_room, write_workload

from tests.unit.features.templates import CHATML


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory of two subsets, and of files that are none."""
    (tmp_path / "qa.jsonl").write_text('{"prompt": "a", "id": 1}\n\n{"prompt": "b"}\n')
    (tmp_path / "HumanEval.jsonl").write_text('{"turns": ["c", "d"], "category": "x"}\n{"turns": ["e"], "category": "y"}\n')
    (tmp_path / "README.md").touch()
    (tmp_path / "._qa.jsonl").touch()
    return tmp_path


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    """Return a workload of two and three prompts, of up to three tokens."""
    subsets = {"qa": tmp_path / "qa.jsonl", "math": tmp_path / "math.jsonl"}
    write_lines(subsets["qa"], [Prompt("a", (1,)), Prompt("b", (1, 2, 3))])
    write_lines(subsets["math"], [Prompt(text, (1,)) for text in "cde"])
    return Workload(subsets, output_tokens=4, concurrency=2, stop="eos")


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def prompts(path: Path) -> dict[str, list[str]]:
    return {name: [one.messages[0]["content"] for one in source.conversations] for name, source in read_subsets(path).items()}


def test_a_directory_is_one_subset_per_file_and_a_file_one_subset(folder: Path) -> None:
    assert find_files(folder) == [folder / "HumanEval.jsonl", folder / "qa.jsonl"]
    assert prompts(folder) == {"HumanEval-x": ["c"], "HumanEval-y": ["e"], "qa": ["a", "b"]}
    assert prompts(folder / "HumanEval.jsonl") == {"x": ["c"], "y": ["e"]}
    assert prompts(folder / "qa.jsonl") == {"qa": ["a", "b"]}


def test_the_categories_of_a_file_are_subsets(tmp_path: Path) -> None:
    lines = [{"category": name, "messages": user(text)} for name, text in (("qa", "a"), ("RAG / x", "b"), ("qa", "c"))]
    path = write(tmp_path / "qualitative.jsonl", *lines)
    assert prompts(path) == {"RAG_x": ["b"], "qa": ["a", "c"]}
    write(path, *lines, {"messages": user("d")})
    with pytest.raises(
        UserError, match=r"^serving.workload.path=\S+ line 4 has no category, but others have; give one to every line or to"
    ):
        read_subsets(path)
    write(path, *lines, {"category": "RAG?x", "messages": user("d")})
    with pytest.raises(UserError, match=r"^serving.workload.path=\S+ has two subsets named RAG_x; rename a file or a category$"):
        read_subsets(path)


@pytest.mark.parametrize(
    ("line", "sent", "cut"),
    [
        ({"turns": ["a", "b"]}, "a", True),
        ({"messages": user("context") + user("b")}, "b", False),
        ({"messages": [*user("a"), {"role": "assistant", "content": "x"}, *user("b")]}, "b", False),
        ({"turns": ["a"]}, "a", False),
    ],
)
def test_of_turns_the_first_is_sent_and_of_a_conversation_the_last(tmp_path: Path, line: dict[str, Any], sent: str, cut: bool) -> None:
    (source,) = read_subsets(write(tmp_path / "own.jsonl", line)).values()
    (one,) = source.conversations
    assert (one.asked[-1]["content"], one.cut) == (sent, cut)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"does not exist; give"),
        ("empty", r"holds no \.jsonl file; put"),
    ],
)
def test_a_path_without_prompts_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=rf"^serving\.workload\.path=\S+{name} {message}"):
        read_subsets(folder / name)


def test_a_line_that_cannot_be_sent_is_refused_and_not_dropped(tmp_path: Path, target: Path) -> None:
    path = write(tmp_path / "own.jsonl", {"messages": user("a")}, {"messages": []})
    with pytest.raises(UserError, match=r"^serving.workload.path=\S+ 1 of 2 lines cannot be used: 1 without turns .*; correct"):
        read_subsets(path)
    write(path, *[{"messages": [{"role": role, "content": "a"} for role in roles]} for roles in (["user"], ["system", "user"])])
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    (tmp_path / "own.jinja").write_text(refusing)
    with pytest.raises(UserError, match=r"1 that the chat template refuses \(no system\) \(first: line 2\)"):
        write_workload(path, target, Features(chat_template=str(tmp_path / "own.jinja")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_workload_is_written_as_the_target_receives_it(folder: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(CHATML)
    write_workload(folder, target, Features(chat_template=str(tmp_path / "own.jinja")), tmp_path / "out")
    written = Workload({name: tmp_path / f"out/{name}.jsonl" for name in ("HumanEval-x", "qa")}, output_tokens=4, concurrency=1, stop="eos")
    assert [one.prompt for one in written.prompts("qa")] == [f"<|im_start|>user\n{a}<|im_end|>\n<|im_start|>assistant\n" for a in "ab"]
    write_workload(folder, target, Features(), tmp_path / "out")
    assert [one.prompt for one in written.prompts("HumanEval-x")] == ["c"]


def test_identity_follows_the_prompts_content(workload: Workload, tmp_path: Path) -> None:
    first = identify(workload)
    file = workload.subsets["qa"]
    assert first["subsets"]["qa"] == {"prompts_sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "num_prompts": 2}
    moved = file.rename(tmp_path / "elsewhere.jsonl")
    same = replace(workload, subsets={**workload.subsets, "qa": moved})
    assert identify(same) == first
    assert identify(replace(same, temperature=0.5)) != first != identify(replace(same, stop="fixed"))
    write_lines(moved, [Prompt("a", (1,)), Prompt("c", (2,))])
    assert identify(same) != first


def test_so_many_prompts_of_each_subset(workload: Workload) -> None:
    few = replace(workload, prompts_per_subset=2)
    assert [[one.prompt for one in few.prompts(name)] for name in ("qa", "math")] == [["a", "b"], ["c", "d"]]
    assert [subset["num_prompts"] for subset in identify(few)["subsets"].values()] == [2, 2]
    for asked in (0, 3):
        with pytest.raises(UserError, match=rf"^prompts_per_subset={asked}, but \S+qa\.jsonl holds 2; give 1 to 2"):
            replace(workload, prompts_per_subset=asked).prompts("qa")


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(workload: Workload, tmp_path: Path) -> None:
    longest = longest_prompts(workload)
    assert longest == {"qa": 3, "math": 1} and longest_prompts(replace(workload, prompts_per_subset=1)) == {"qa": 1, "math": 1}
    require_room(longest, 4, 7)
    with pytest.raises(UserError, match=r"^serving\.max_model_len = 6 is too short for a prompt of 3 tokens in the subset qa and serving"):
        require_room(longest, 4, 6)
    subsets = read_subsets(write(tmp_path / "raw.jsonl", {"prompt": "a"}, {"prompt": "a b c"}))
    assert [longest_texts(subsets, count, lambda text: len(text.split())) for count in (None, 1)] == [{"raw": 3}, {"raw": 1}]
