"""A file of prompts is read completely or refused by key, file and line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.features.prompts import read_prompts


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
    ],
)
@pytest.mark.parametrize("key", ["features.prompts", "prompts"])
def test_a_bad_file_of_prompts_is_refused_in_one_line(tmp_path: Path, key: str, content: bytes | None, says: str) -> None:
    source = tmp_path / "own.jsonl"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UserError, match=says) as refusal:
        read_prompts(source, key)
    assert str(refusal.value).startswith(f"{key}={source}")
    assert "\n" not in str(refusal.value)


def test_a_byte_order_mark_blank_lines_and_unicode_line_separators_are_no_obstacle(tmp_path: Path) -> None:
    source = tmp_path / "own.jsonl"
    source.write_bytes('\ufeff{"prompt": "a\u2028b"}\n \r\n\n{"prompt": "c"}\r\n'.encode())
    assert read_prompts(source) == ["a\u2028b", "c"]


def test_reading_prompts_loads_neither_torch_nor_vllm() -> None:
    program = "import sys, lib.features.prompts, lib.experiment, lib.serving.workload; print({'torch', 'vllm'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
