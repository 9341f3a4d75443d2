"""The results tree has one writer at a time, from the first write on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lib.controller import refresh_view
from lib.files import read_json, write_json
from lib.process import pid_here

HOLD = "import sys, pathlib, lib.controller as c; c.hold_results(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    """Return a filed champion whose view another configuration has written over."""
    write_json(tmp_path / "results/champion.json", {"arm": "another's"})
    write_json(tmp_path / "results/search/champion.json", {"arm": "ours"})
    return tmp_path / "results/search/champion.json"


def test_the_view_is_left_alone_while_another_process_runs_there(filed: Path) -> None:
    results = filed.parents[1]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    command = [sys.executable, "-c", HOLD, str(results)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        refresh_view(filed, results / "champion.json")
        assert read_json(results / "champion.json") == {"arm": "another's"}
        assert pid_here((results / "spec-decode-tune.lock").read_text()) == other.pid
        other.communicate("")
    refresh_view(filed, results / "champion.json")
    assert read_json(results / "champion.json") == {"arm": "ours"}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)  # the lock was given back


def test_nothing_is_made_where_there_is_nothing_to_refresh(tmp_path: Path) -> None:
    refresh_view(tmp_path / "results/search/champion.json", tmp_path / "results/champion.json")
    assert not (tmp_path / "results").exists()


def test_a_view_of_another_configuration_goes_where_ours_has_filed_nothing_yet(filed: Path) -> None:
    filed.unlink()
    refresh_view(filed, filed.parents[1] / "champion.json")
    assert not (filed.parents[1] / "champion.json").exists()
