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


def test_prompts_that_the_driver_cannot_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"prompts=\S+prompts\.json is not named \.jsonl"):
        identity(Workload(tmp_path / "prompts.json", output_tokens=4, concurrency=2))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match=r"^prompts=\S+prompts\.jsonl line 2"):
        identity(Workload(tmp_path / "prompts.jsonl", output_tokens=4, concurrency=2))
