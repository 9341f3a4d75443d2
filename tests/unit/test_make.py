"""Arguments of make reach programs unchanged, and no part of them is executed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with what `make teardown` reads, its profile filled in."""
    for name in ("Makefile", "scripts", "envs", "vllm-plugin", "executor"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "gb300").mkdir()
    (tmp_path / "gb300/config.yaml").write_text("kubernetes-experiment-workstream: tests\n")
    return tmp_path


def make(folder: Path, *words: str) -> str:
    done = subprocess.run(["make", *words], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode != 0 and not (folder / "planted").exists()
    return done.stdout


PLANTS = ['a"; touch planted; echo "', "a'; touch planted; '", "$(touch planted)", "$(shell touch planted)", "`touch planted`", "--dry-run"]


@pytest.mark.parametrize("given", PLANTS)
def test_a_run_id_is_checked_and_never_run(folder: Path, given: str) -> None:
    (folder / ".venv/installed").touch()
    assert f"error: run id {given!r} cannot name Kubernetes objects" in make(folder, "teardown", f"RUN_ID={given}")


@pytest.mark.parametrize("given", PLANTS)
def test_an_interpreter_is_one_word(folder: Path, given: str) -> None:
    assert f"error: PYTHON = {given} is not Python 3.11" in make(folder, "install", f"PYTHON={given}")
