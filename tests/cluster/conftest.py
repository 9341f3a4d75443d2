"""The genuine executor, an API server, an S3 server, and a small search to run through them."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.controller import Controller
from tests.cluster.emulator import Cluster, Server
from tests.s3 import serving

HERE = Path(__file__).parent
KEY = "tester", "open-sesame-s3"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address of an S3 server and the folder that it serves."""
    folder = tmp_path_factory.mktemp("s3")
    with serving(folder, *KEY) as (port, _):
        yield f"http://127.0.0.1:{port}", folder


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
