"""The small search through the genuine executor, undisturbed."""

from tests.cluster.controller import Controller
from tests.cluster.emulator import Cluster


def test_a_search_runs_to_its_champion_and_leaves_nothing(cluster: Cluster, controller: Controller) -> None:
    code = controller.run("--retries", "1", "--config", "arms=a,b,flaky")
    assert code == 0, controller.output
    assert controller.result("champion.txt") == "a 1\n"
    assert cluster.left() == []
