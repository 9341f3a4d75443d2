"""A job's log has its own messages, warnings and errors, without the chatter of libraries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lib.script import fault, latest

SCRIPTS = Path(__file__).parents[2] / "scripts"
JOB = """
import logging, resource, subprocess, sys
from lib.errors import UserError
from lib.script import logger, running

with running(sys.argv[1]):
    logger.info("1 of 2: a")
    for typed in (sys.stdin.readline(), subprocess.run(["cat"], capture_output=True, text=True).stdout):
        logger.info("typed: %r", typed)
    logging.getLogger("vllm.triton_utils").info("Triton not installed")
    logging.getLogger("vllm.engine").warning("out of blocks")
    logger.info("no answer from https://me:hush@host/")
    if sys.argv[2:] == ["fail"]:
        raise UserError("the state is cut off; delete it")
    if sys.argv[2:]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))  # as a disk that is full
        exec(sys.argv[2])
"""


def run(log: Path, *more: str) -> None:
    subprocess.run(
        [sys.executable, "-c", JOB, str(log), *more], cwd=SCRIPTS, input="yes\n" * 9, text=True, capture_output=True, check=False
    )


def _messages(log: Path) -> list[str]:
    return [line.split(": ", 1)[1] for line in log.read_text().splitlines()]


def test_chatter_of_libraries_is_left_out_and_their_warnings_are_not(tmp_path: Path) -> None:
    run(log := tmp_path / "a.log")
    messages = [message for message in _messages(log) if not message.startswith("typed: ")]
    assert messages[0].startswith("start, ") and messages[1:3] == ["1 of 2: a", "out of blocks"] and messages[4].startswith("done, ")
    assert messages[3] == "no answer from https://***@host/", "what is secret in a URL is left out as well"
    assert latest(log) == messages[4] and fault(log) is None


def test_no_job_and_no_child_of_it_reads_what_is_typed(tmp_path: Path) -> None:
    run(log := tmp_path / "a.log")
    assert [message for message in _messages(log) if message.startswith("typed: ")] == ["typed: ''", "typed: ''"]


def test_the_last_message_and_the_fault_of_a_log(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent.log") is None and fault(tmp_path / "absent.log") is None
    run(log := tmp_path / "a.log", "fail")
    assert latest(log) == "error: the state is cut off; delete it" and fault(log) == "the state is cut off; delete it"
    (tmp_path / "empty.log").write_text("Traceback")
    assert latest(tmp_path / "empty.log") is None


WRITERS = {
    "a file": "from pathlib import Path; Path(sys.argv[1] + '.big').write_bytes(bytes(10_000))",
    "safetensors": "import torch; from safetensors.torch import save_file; save_file({'a': torch.ones(9999)}, sys.argv[1] + '.big')",
    "a record": "from pathlib import Path; from lib.files import write_json; write_json(Path(sys.argv[1] + '.big'), ['x' * 10_000])",
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line(writer: str, tmp_path: Path) -> None:
    run(log := tmp_path / "a.log", writer)
    said = fault(log)
    assert said and re.fullmatch(r"no room to write a file \(.*File too large.*\); free some and run again, finished work is kept", said)
