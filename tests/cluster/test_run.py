"""The small search through the genuine executor, from end to end: undisturbed, and through the death of its controller."""

from tests.cluster.controller import Controller
from tests.cluster.front import Cluster


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
