"""A file of prompts or conversations is read completely, or refused by key, file and line. Unusable lines are counted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.features.conversations import read_source

USER = {"role": "user", "content": "Hello"}
HUMAN = {"from": "human", "value": "Hello"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"prompt": "a"}\n{"prompt": \n', "line 2"),
        (b'{"prompt": "a"}\n\n{"text": "b"}\n', "line 3"),
        (b'["a"]\n', "line 1"),
        (b'{"prompt": 7}\n', "line 1"),
        (b'{"prompt": "  "}\n', "line 1"),
        (b'{"prompt": "\xff"}\n', "not UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "b \\ud800"}\n', "line 2"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b'{"prompt": ' + b"9" * 10_000 + b"}\n", "line 1"),
        (b'{"messages": "Hello"}\n', 'line 1 is not {"messages": [{"role": "user", "content": "some text"}, ...]}; correct'),
        (b'{"messages": [{"content": "Hello"}]}\n', "line 1 is not"),
        (b'{"messages": [{"role": "user", "content": 7}]}\n', "line 1 is not"),
        (b'{"messages": [["user", "Hello"]]}\n', "line 1 is not"),
        (b'{"messages": [{"role": "user", "content": "a", "tool_calls": [7]}]}\n', "line 1 is not"),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": 7}\n', "line 1 is not"),
        (b'{"conversations": [{"from": 7}]}\n', 'line 1 is not {"conversations": [{"from": "human", "value": "some text"}, ...]}'),
        (b'{"prompt": "a"}\n{"messages": []}\n', "line 2 has the shape 'messages', the lines before it 'prompt'; put them into"),
    ],
)
@pytest.mark.parametrize("key", ["features.prompts", "prompts"])
def test_a_bad_file_of_prompts_is_refused_in_one_line(tmp_path: Path, key: str, content: bytes | None, says: str) -> None:
    source = tmp_path / "own.jsonl"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_source(source, key)
    line = str(refusal.value)
    assert line.startswith(f"{key}={source}") and says in line and ";" in line and "\n" not in line


def test_a_byte_order_mark_blank_lines_and_unicode_line_separators_are_no_obstacle(tmp_path: Path) -> None:
    source = tmp_path / "own.jsonl"
    source.write_bytes('\ufeff{"prompt": "a\u2028b"}\n \r\n\n{"prompt": "c"}\r\n'.encode())
    read = read_source(source)
    assert read.plain and list(read.texts()) == ["a\u2028b", "c"]
    assert [one.line for one in read.conversations] == [1, 4]


def test_both_shapes_of_conversations_are_the_same_conversation(tmp_path: Path) -> None:
    openai = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "content": "3", "tool_call_id": "x"},
        {"role": "assistant", "content": "3"},
    ]
    sharegpt = [
        {"from": "human", "value": "Hello\nyou"},
        {"from": "gpt", "value": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"from": "tool", "value": "3", "tool_call_id": "x"},
        {"from": "gpt", "value": "3"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    one = read_source(write(tmp_path / "one.jsonl", {"messages": openai, "tools": tools, "id": 7}))
    other = read_source(write(tmp_path / "other.jsonl", {"conversations": sharegpt, "system": "Be brief.", "tools": json.dumps(tools)}))
    assert one.conversations == other.conversations and one.identity == other.identity and not one.plain
    made = one.conversations[0]
    assert made.messages[2] == {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    assert made.asked == made.messages[:2] and made.tools == tools


def test_lines_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    lines = [
        {"messages": [USER]},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hello"}]},
        {"messages": [USER, {"role": "bot", "content": "Hello"}]},
        {"messages": [USER, USER | {"content": " "}]},
        {"messages": [USER | {"content": [{"type": "image_url", "image_url": "x"}]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]},
        {"messages": [{"role": "assistant", "content": "Hello"}]},
    ]
    read = read_source(write(tmp_path / "own.jsonl", *lines))
    assert len(read.conversations) == 1 and read.total == 8 and read.dropped.count == 7
    assert str(read.dropped).startswith("2 without a user turn (first: line 3), 1 without turns (first: line 2), 1 with a role other than ")
    assert str(read.dropped).endswith(", 2 for other reasons")
    read.require_few_dropped(7 / 8)
    with pytest.raises(
        UserError, match=r"own.jsonl: 7 of 8 lines cannot be used, more than features.max_dropped = 0.1 allows: 2 without"
    ) as no:
        read.require_few_dropped(0.1)
    assert str(no.value).endswith("; correct these lines, or raise features.max_dropped")


def test_the_identity_is_that_of_the_distinct_lines(tmp_path: Path) -> None:
    one = read_source(write(tmp_path / "one.jsonl", {"conversations": [HUMAN]}, {"conversations": [HUMAN, HUMAN]}))
    other = read_source(write(tmp_path / "other.jsonl", *[{"conversations": [HUMAN, HUMAN]}] * 2, {"conversations": [HUMAN], "id": 3}))
    assert one.identity == other.identity and len(one.identity) == 2


def test_reading_prompts_loads_neither_torch_nor_vllm() -> None:
    program = "import sys, lib.experiment, lib.serving.workload; print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
