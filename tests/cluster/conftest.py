"""The genuine executor, an API server, an S3 server, and a small search to run through them."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.controller import Controller
from tests.cluster.emulator import Cluster, Server
from tests.s3 import S3Server, s3_server  # noqa: F401 - a fixture

HERE = Path(__file__).parent


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
def controller(server: Server, s3_server: S3Server, tmp_path: Path) -> Iterator[Controller]:  # noqa: F811
    """Return a controller that is ready to run the small search."""
    work = tmp_path / "work"
    shutil.copytree(HERE / "workflow", work)
    controller = Controller(server, work, s3_server, server.write_kubeconfig(tmp_path / "kubeconfig"))
    yield controller
    controller.kill()
