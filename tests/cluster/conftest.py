"""The genuine executor, an API server, an S3 server, and a small search to run through them."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.controller import Controller
from tests.cluster.emulator import Cluster, Server

HERE = Path(__file__).parent
KEY = "tester", "open-sesame-s3"


def _rclone() -> str:
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone") or pytest.skip("rclone is not installed")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address of an S3 server and the folder that it serves."""
    folder = tmp_path_factory.mktemp("s3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [_rclone(), "serve", "s3", "--auth-key", ",".join(KEY), "--addr", address, "--vfs-cache-mode", "off", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) == 0:
                break
        time.sleep(0.1)
    yield f"http://{address}", folder
    process.terminate()
    process.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a cluster whose images are this Python."""
    cluster = Cluster()
    cluster.environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    yield cluster
    cluster.close()


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Server]:
    """Return the cluster's API server."""
    server = Server(cluster)
    yield server
    server.close()


@pytest.fixture
def controller(server: Server, s3: tuple[str, Path], tmp_path: Path) -> Iterator[Controller]:
    """Return a controller that is ready to run the small search."""
    address, folder = s3
    bucket = f"b{os.getpid()}-{time.monotonic_ns()}"
    (folder / bucket / "keep").mkdir(parents=True)
    (folder / bucket / "keep" / "sentinel").write_text("")
    work = tmp_path / "work"
    shutil.copytree(HERE / "workflow", work)
    controller = Controller(server, work, address, folder / bucket, KEY, server.write_kubeconfig(tmp_path / "kubeconfig"))
    yield controller
    controller.kill()
