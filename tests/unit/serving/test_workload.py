"""What a workload may be, and what makes two the same."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.serving.workload import Workload, identity


def test_identity_follows_the_prompts_content(tmp_path: Path) -> None:
    here, there, other = (tmp_path / name for name in ("here.jsonl", "there.jsonl", "other.jsonl"))
    here.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    there.write_bytes(here.read_bytes())
    other.write_text('{"prompt": "a"}\n{"prompt": "c"}\n')
    first = identity(Workload(here, output_tokens=4, concurrency=2))
    assert first["num_prompts"] == 2
    assert first["prompts_sha256"] == hashlib.sha256(here.read_bytes()).hexdigest()
    assert first == identity(Workload(there, output_tokens=4, concurrency=2))
    assert first != identity(Workload(other, output_tokens=4, concurrency=2))
    assert first != identity(replace(Workload(here, output_tokens=4, concurrency=2), temperature=0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"prompt": "a"}\n{"text": "b"}\n', r"line 2: expected \{\"prompt\": text\}"),
        ('{"prompt": 3}\n', "line 1"),
        ("plain text\n", "line 1: .*'plain text'"),
    ],
)
def test_prompts_that_are_none_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        identity(Workload(path, output_tokens=4, concurrency=2))


def test_missing_prompts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give an existing \.jsonl file"):
        identity(Workload(tmp_path / "none.jsonl", output_tokens=4, concurrency=2))
