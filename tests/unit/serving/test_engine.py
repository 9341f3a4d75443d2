"""Starting and stopping the server: what it needs, the port it gets, and that nothing of it stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from lib.serving.engine import Draft, EngineSettings, ServerError, reserved_port, running

SCRIPTS = Path(__file__).parents[3] / "scripts"
REFUSED = "from lib.errors import UserError\nfrom lib.serving.engine import require_vllm\ntry: require_vllm()\nexcept UserError as error: print(error)"


def test_missing_vllm_is_a_line_that_says_what_to_install() -> None:
    assert "vLLM is not installed here: install" in _without_site_packages(REFUSED, SCRIPTS)


def test_vllm_without_the_plugin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    assert "pip install --no-deps --no-build-isolation ./vllm-plugin" in _without_site_packages(REFUSED, SCRIPTS, tmp_path)


def test_a_reserved_port_is_for_the_server_alone() -> None:
    with reserved_port() as port, reserved_port() as another, socket.socket() as server, socket.socket() as stranger:
        assert port != another
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does
        server.bind(("127.0.0.1", port))
        server.listen()
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_grandchild_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """As the engine core, a spawned child in the API server's process group, does."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, time\n"
        "from spec_decode_tune_vllm.lifetime import die_with_parent\n"
        "def child(ready):\n    die_with_parent()\n    ready.set()\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n    ready = context.Event()\n"
        "    process = context.Process(target=child, args=(ready,))\n    process.start()\n    ready.wait()\n"
        "    print(process.pid, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert _gone([child], within_s=5)


@pytest.mark.slow
def test_a_server_that_cannot_start_shows_the_end_of_its_log(target: Path, settings: EngineSettings, tmp_path: Path) -> None:
    draft = Draft("eagle3", tmp_path / "no-such-head", 3)
    with (
        running(target, draft, settings, tmp_path / "log") as server,
        pytest.raises(ServerError, match=r"(?s)while starting.*no-such-head"),
    ):
        server.wait_until_ready(120)


@pytest.mark.slow
def test_nothing_survives_a_killed_measuring_process(target: Path, settings: EngineSettings, tmp_path: Path) -> None:
    arguments = {
        "dtype": settings.dtype,
        "max_model_len": 128,
        "max_num_seqs": 4,
        "enforce_eager": True,
        "kv_cache_gib": 0.02,
        "threads": 1,
    }
    code = (
        "import json, sys, time\nfrom pathlib import Path\nfrom lib.serving.engine import EngineSettings, running\n"
        f"with running(Path({str(target)!r}), None, EngineSettings(**json.loads({json.dumps(arguments)!r})), Path(sys.argv[1])) as server:\n"
        "    server.wait_until_ready(120)\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    measuring = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log"], env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, stdout=subprocess.PIPE, text=True
    )
    assert measuring.stdout is not None
    assert measuring.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
    family = [process.pid for process in psutil.Process(measuring.pid).children(recursive=True)]
    assert len(family) >= 2, "an API server and an engine core at least"
    measuring.send_signal(signal.SIGKILL)
    measuring.wait()
    assert _gone(family, within_s=5)


def _gone(pids: list[int], within_s: float) -> bool:
    """Whether all of `pids` have ended in time; a zombie has."""
    alive: Callable[[int], bool] = lambda pid: psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # noqa: E731
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _without_site_packages(code: str, *paths: Path) -> str:
    environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
