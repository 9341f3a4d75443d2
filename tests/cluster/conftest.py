"""Fixtures: the real executor, an API server, an S3 server, and a small search that uses them."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import ConfigException

from tests.cluster import real
from tests.cluster.controller import HERE_AS_WELL, Controller
from tests.cluster.emulator import Emulator
from tests.cluster.front import Cluster, Refusal, Server
from tests.s3 import Store, s3_server  # noqa: F401 - a fixture

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a real cluster that is given by halves."""
    if not real.given():
        return
    if absent := real.missing():
        raise pytest.UsageError(f"{real.GIVEN} is set and {', '.join(absent)} is not: CONTRIBUTING.md says what a real cluster needs")
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("on a real cluster one test runs at a time: add -n 0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip on a real cluster what only an emulated one can serve."""
    for item in items:
        if real.given() and (mark := item.get_closest_marker("emulated")):
            item.add_marker(pytest.mark.skip(reason=f"not on a real cluster: {mark.args[0]}"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return the real cluster that is given, else one whose images are this Python."""
    if real.given():
        try:
            cluster: Cluster = real.Real()
        except (real.Taken, Refusal, ConfigException) as error:
            pytest.exit(f"the cluster of {real.GIVEN}: {error}", returncode=1)
    else:
        cluster = emulator = Emulator()
        emulator.security = "restricted"
        emulator.environment = HERE_AS_WELL | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    yield cluster
    cluster.close()


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Server]:
    """Return the cluster's API server."""
    server = Server(cluster)
    yield server
    server.close()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Return a folder of the real bucket that is given, emptied afterwards, else the bucket of a server of our own."""
    if not real.given():
        yield request.getfixturevalue("s3_server").store
        return
    store = real.given_store()
    yield store
    store.clear()


@pytest.fixture
def controller(server: Server, store: Store, tmp_path: Path) -> Iterator[Controller]:
    """Return a controller that is ready to run the small search."""
    work = tmp_path / "work"
    shutil.copytree(HERE / "workflow", work)
    controller = Controller(server, work, store, server.write_kubeconfig(tmp_path / "kubeconfig"))
    yield controller
    controller.kill()
