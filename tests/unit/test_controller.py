"""The results tree has one writer at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lib.controller import hold_results, holder
from lib.errors import UserError
from lib.process import pid_here

HOLD = "import sys, pathlib, lib.controller as c; c.hold_results(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def test_a_tree_is_held_by_one_process_and_given_back_by_its_end(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        found = holder(tmp_path)
        assert found and found.pid == other.pid == pid_here((tmp_path / "spec-decode-tune.lock").read_text())
        with pytest.raises(UserError, match=f"process {other.pid} on .* is already running in this folder; wait for it or stop it"):
            hold_results(tmp_path)
        other.communicate("")
    assert holder(tmp_path) is None
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
