"""The small search through the real executor from end to end, undisturbed and with a killed controller."""

import pytest

from tests.cluster.controller import Controller
from tests.cluster.front import Cluster
from tests.workflow.clones import ROOT


def test_a_search_with_a_failing_arm_runs_to_its_champion_and_leaves_nothing(cluster: Cluster, controller: Controller) -> None:
    code = controller.run("--retries", "1", "--config", "arms=a,flaky")
    controller.assert_champion(code)
    assert "failed: exit code 1" in controller.output
    assert not [each for each in cluster.requests if "previous" in each.query]
    for request in cluster.requests:
        if request.verb == "create":
            name, body = request.name, request.body or {}
            assert name.startswith("sdt-r1")
            assert {"experiment": "r1", "workstream": "tests"}.items() <= body["metadata"]["labels"].items()
            if request.kind == "jobs":
                pod = body["spec"]["template"]["metadata"]["labels"]
                assert body["metadata"]["labels"] == pod
                assert {"rule", "arm"} <= pod.keys()


def test_a_killed_controller_is_followed_by_one_that_takes_over_what_runs(cluster: Cluster, controller: Controller) -> None:
    search = ("--config", "arms=a,b", "seconds=12")
    controller.start(*search)
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    code = controller.run(*search)
    controller.assert_champion(code)
    assert controller.output.count("re-attached to Job") == 2
    assert len(cluster.started) == len({name.rsplit("-", 1)[0] for name in cluster.started}) == 6


MENDS = f"import sys\nsys.path.insert(0, {str(ROOT / 'scripts')!r})\nfrom lib.dag import keep_copies\nkeep_copies()\n"


@pytest.mark.parametrize(("mends", "fault"), [("", "ProtectedOutputException"), (MENDS, None)])
def test_what_lies_here_of_a_job_that_is_still_to_come_is_in_no_ones_way(mends: str, fault: str | None, controller: Controller) -> None:
    """As after `make report` beside a search that goes on; Snakemake by itself deletes it, and fails."""
    for path in ("a/rung0.acc", "b/rung0.acc", "promoted.txt"):
        controller.store.write(f"run/results/{path}", b"a\nb\n")
    drawn = controller.work / "results/c/rung0.acc"
    drawn.parent.mkdir(parents=True)
    drawn.write_text("drawn by hand")
    snakefile = controller.work / "Snakefile"
    snakefile.write_text(mends + snakefile.read_text())
    code = controller.run("--dry-run", "results/champion.txt", "results/c/rung0.acc", "--config", "arms=a,b")
    assert (code != 0) == bool(fault) and (fault or "measure_serving") in controller.output, controller.output
    assert drawn.exists() == (not fault), "where Snakemake does so no more, look whether keep_copies is still needed"
