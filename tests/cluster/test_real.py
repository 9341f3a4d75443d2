"""Tests of this folder on a given cluster and bucket. Here an emulator and rclone take their place."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import real
from tests.cluster.emulator import Emulator
from tests.cluster.front import Object, Refusal, Request, Server
from tests.s3 import BUCKET, S3Server

pytestmark = pytest.mark.emulated("here an emulator stands in for it")
HERE = Path(__file__).parent
SEARCH = "test_search.py::test_a_"
PASSED = (
    "test_run.py",
    "test_search.py::test_without_its_acknowledgement_nothing_is_created[not acknowledged]",
    f"{SEARCH}missing_permission_is_named_by_verb_and_resource[create-jobs]",
    f"{SEARCH}run_id_of_another_workstream_is_refused[sdt]",
    f"{SEARCH}controller_that_has_lost_its_experiment_stops_and_touches_nothing",
    f"{SEARCH}job_that_is_deleted_while_it_runs_is_done_again",
    f"{SEARCH}token_that_expires_is_read_again",
    f"{SEARCH}planted_secret_appears_nowhere",
    "test_search.py::test_teardown_removes_what_a_killed_controller_left_and_can_be_repeated",
    "test_whole_search.py::test_without_the_acknowledgement_of_this_run_nothing_is_created[given0]",
    "test_whole_search.py::test_teardown_takes_its_workstream_from_the_profile",
)
SKIPPED = ("test_search.py::test_every_way_a_pod_can_fail_is_told_apart_and_retried",)


@pytest.fixture
def lent(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:  # noqa: ARG001  its environment
    """Return what stands in for a real cluster, given to tests with a bucket as a user gives one."""
    cluster = Emulator("lent")
    cluster.token = "of-a-user"
    cluster.environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    server = Server(cluster)
    kubeconfig = server.write_kubeconfig(tmp_path / "of-a-user")
    for name, value in {real.GIVEN: str(kubeconfig), real.NAMESPACE: "lent", real.IMAGE: "lent:1", real.BUCKET: BUCKET}.items():
        monkeypatch.setenv(name, value)
    yield cluster
    server.close()


def run(tests: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run tests of this folder as a user would."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(folder / "tests")]
    return subprocess.run(
        [*command, *(str(HERE / test) for test in tests)], cwd=HERE.parents[1], text=True, capture_output=True, check=False
    )


def labelled(kind: str, name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}}


@pytest.mark.slow
def test_what_runs_on_the_emulator_runs_on_a_cluster_that_is_given(lent: Emulator, s3_server: S3Server, tmp_path: Path) -> None:
    lent.create("secrets", labelled("Secret", "not-ours", app="another"), strict=True)
    done = run((*PASSED, *SKIPPED), tmp_path)
    assert done.returncode == 0, done.stdout[-20000:]
    told = re.search(r"(\d+) passed, (\d+) skipped in", done.stdout)
    assert told and int(told[1]) > len(PASSED) and int(told[2]) == len(SKIPPED)  # test_run.py has several
    jobs = [request.body or {} for request in lent.requests if request.verb == "create" and request.kind == "jobs"]
    assert len(jobs) > 15
    for job in jobs:
        container = job["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "lent:1"
        assert container["resources"].get("limits", {}).get("nvidia.com/gpu", "0") == "0"
    assert lent.left() == ["secrets/not-ours"]
    assert s3_server.store.read() == {}


@pytest.mark.slow
@pytest.mark.parametrize("absent", [real.NAMESPACE, real.SECRET])
def test_a_cluster_given_by_halves_is_one_line(lent: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.delenv(absent)
    done = run(("test_run.py",), tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{real.GIVEN} is set and {absent} is not" in done.stderr
    assert lent.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("workstream", ["theirs", "tests"])
def test_a_namespace_where_a_run_id_of_the_tests_is_taken_is_left_alone(lent: Emulator, tmp_path: Path, workstream: str) -> None:
    lent.create("secrets", labelled("Secret", "s", experiment="r1", workstream=workstream), strict=True)
    done = run(("test_run.py",), tmp_path)
    assert done.returncode == 1
    assert "namespace lent holds secrets/s, of another run of these tests or not theirs, and nothing was touched" in done.stdout
    assert {request.verb for request in lent.requests} == {"list"}
    assert lent.left() == ["secrets/s"]


def test_an_executor_at_fault_cannot_write_what_is_not_of_these_tests(lent: Emulator) -> None:
    ours = {"experiment": "r1", "workstream": "tests"}
    cluster = real.Real()
    lent.create("secrets", labelled("Secret", "theirs", experiment="r9", workstream="tests"), strict=True)
    lent.create("secrets", labelled("Secret", "foreign", experiment="r1", workstream="foreign"), strict=True)

    def ask(verb: str, name: str, namespace: str = "lent", labels: dict[str, str] = ours, **query: str) -> int:
        path = f"/api/v1/namespaces/{namespace}/secrets" + (f"/{name}" if name and verb != "create" else "")
        return cluster.answer(Request(verb, "secrets", name, path, query, labelled("Secret", name, **labels), namespace))[0]

    assert ask("create", "mine") == 201
    for refused in (
        lambda: ask("create", "more", labels={"experiment": "r1"}),
        lambda: ask("create", "more", namespace="other"),
        lambda: ask("update", "theirs"),
        lambda: ask("update", "foreign"),
        lambda: ask("delete", "theirs"),
        lambda: ask("deletecollection", ""),
        lambda: ask("deletecollection", "", labelSelector="experiment=r1"),
        lambda: ask("deletecollection", "", labelSelector="experiment=r9,workstream=tests"),
    ):
        with pytest.raises(Refusal, match="of these tests"):
            refused()
    assert sorted(lent.left()) == ["secrets/foreign", "secrets/mine", "secrets/theirs"]
    assert ask("deletecollection", "", labelSelector="experiment=r1,workstream=tests") == 200
    assert ask("create", "mine") == 201
    assert ask("delete", "mine") == 200
    assert ask("create", "mine") == 201
    cluster.close()
    assert sorted(lent.left()) == ["secrets/foreign", "secrets/theirs"]
