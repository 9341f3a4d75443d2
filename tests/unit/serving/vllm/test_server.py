"""Starting and stopping the server: its requirements, its port, and that nothing of it remains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from lib.errors import UserError
from lib.serving.engine import EngineError, EngineSettings, Speculation
from lib.serving.vllm.engine import require_installed, reserved_port, running

SCRIPTS = Path(__file__).parents[4] / "scripts"
GROUP = """
import subprocess, time
from lib.serving.vllm.engine import mortal_group
with mortal_group() as group:
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], process_group=group)
    time.sleep(60)
"""

SERVE = """
import json, sys, time
from pathlib import Path
from lib.serving.engine import EngineSettings
from lib.serving.vllm.engine import running
target, log, settings = sys.argv[1:]
with running(Path(target), None, EngineSettings(**json.loads(settings)), Path(log)) as server:
    print("starting", flush=True)
    server.wait_until_ready(120)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_missing_vllm_is_a_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="vLLM is not installed here; install"):
        require_installed()


def test_vllm_without_the_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    with pytest.raises(UserError, match=r"pip install --no-deps --no-build-isolation \./vllm-plugin"):
        require_installed()


def test_a_reserved_port_is_for_the_server_alone() -> None:
    with reserved_port() as port, reserved_port() as another, socket.socket() as server, socket.socket() as stranger:
        assert port != another
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does
        server.bind(("127.0.0.1", port))
        server.listen()
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_group_dies_with_the_process_that_made_it(tmp_path: Path) -> None:
    """Children and grandchildren that never heard of it, as the engine core while it still imports."""
    script = tmp_path / "parent.py"
    script.write_text(GROUP)
    parent = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    family = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
    assert grandchild in family and len(family) >= 3
    parent.kill()
    parent.wait()
    assert _gone(family, within_s=4)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line(target: Path, settings: EngineSettings, tmp_path: Path) -> None:
    draft = Speculation("eagle3", tmp_path / "no-such-head", 3)
    with (
        running(target, draft, settings, tmp_path / "log") as server,
        pytest.raises(EngineError, match=r"^vLLM ended with status \d+ while starting, [^\n]*no-such-head[^\n]* \(log: \S+log\)$"),
    ):
        server.wait_until_ready(120)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_nothing_survives_a_killed_measuring_process(target: Path, settings: EngineSettings, tmp_path: Path, moment: str) -> None:
    """Neither when it serves nor while the engine core, a grandchild, has only begun to load."""
    measuring = subprocess.Popen(
        [sys.executable, "-c", SERVE, target, tmp_path / "log", json.dumps(asdict(settings))],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert measuring.stdout is not None
    assert measuring.stdout.readline() == "starting\n"
    if moment == "ready":
        assert measuring.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
    family: list[psutil.Process] = []
    while len(family) < 4:  # the group's leader and its `cat`, the API server, and what that has started
        assert measuring.poll() is None, (tmp_path / "log").read_text()
        family = psutil.Process(measuring.pid).children(recursive=True)
        time.sleep(0.1)
    measuring.send_signal(signal.SIGKILL)
    measuring.wait()
    assert _gone([child.pid for child in family], within_s=5)


def _gone(pids: list[int], within_s: float) -> bool:
    """Whether all of `pids` have ended in time; a zombie has."""

    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + within_s
    while any(lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
