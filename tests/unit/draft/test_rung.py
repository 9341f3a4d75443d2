"""A rung from files to files: the record, the state that the next rung starts from, failures, several ranks."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from lib.arm import Arm
from lib.config import Streaming, read_recipe
from lib.draft.rung import FAILURE, Places
from lib.files import read_json
from lib.manifest import read_manifest

from tests.unit.draft.rungs import ALONE, TWO_RANKS, make_arm, run, start, wait_until
from tests.unit.search.searches import SPACE, make_search

At = Callable[..., Places]


def ranks_of(launcher: int) -> list[psutil.Process]:
    process = psutil.Process(launcher)
    return [child for child in process.children() if child.cmdline() == process.cmdline()]


def test_climbing_two_rungs_equals_training_in_one_go(places: At) -> None:
    arm = make_arm(ALONE)
    low = run(arm, 0, places("low"))
    high = run(arm, 1, places("high", places("low").state_out))
    straight = run(arm, 1, places("straight"))
    assert (low.samples, low.cap_samples, high.samples, high.resumed_from_samples) == (8, 10, 24, 8)
    assert high.head_sha256 == straight.head_sha256 != low.head_sha256
    assert (high.acc0, high.accuracies) == (straight.acc0, straight.accuracies)
    assert high.counted and len(high.counted) == len(high.accuracies or []) and min(high.counted) >= 0
    assert high.rigor == "DRAFT" and read_manifest(places("high").state_out)["samples"] == 24


@pytest.mark.parametrize("domain", [[0.0, 0.1], {"low": 1e-3, "high": 1e-1, "scale": "log"}, {"low": 0, "high": 0.1, "scale": "linear"}])
def test_a_searched_weight_decay_makes_arms_that_train_by_it(domain: object) -> None:
    shared = make_arm(ALONE).recipe
    one = make_search(parameters=SPACE["parameters"] | {"weight_decay": domain}, recipe=shared)
    arms = [one.arm(point) for proposal in one.foreseen.values() for point in proposal.values()]
    trained = {arm.id: read_recipe(arm.recipe["training"], arm.point).weight_decay for arm in arms}
    assert len(set(trained.values())) > 1
    for arm in arms:
        assert "-wd" in arm.id and trained[arm.id] == arm.point.weight_decay
        assert Arm.from_record(arm.record()) == arm
    point = arms[0].point
    assert len({one.arm(point.model_copy(update={"weight_decay": decay})).id for decay in (None, 0.0, 0.01)}) == 3
    standing = read_recipe(one.standing.recipe["training"], one.standing.point)
    assert standing.weight_decay == shared["training"]["weight_decay"] and "weight_decay" not in one.standing.record()


def test_a_diverged_arm_leaves_a_record_and_no_state(places: At) -> None:
    record = run(make_arm(ALONE, lr=1e8), 1, places("lost"))
    assert record.status == "diverged" and record.reason and record.acc0 is None
    assert read_json(places("lost").state_out / FAILURE, "")["status"] == "diverged"


@pytest.mark.slow
def test_two_ranks_equal_one_to_rounding_and_resume_exactly(places: At) -> None:
    alone, arm = make_arm(ALONE), make_arm(TWO_RANKS)
    one, two = run(alone, 1, places("one")), run(arm, 1, places("two"))
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
    assert two.accuracies == pytest.approx(one.accuracies, abs=0.02)
    assert two.device_seconds == pytest.approx(2 * two.wall_seconds)
    run(arm, 0, places("low"))
    assert run(arm, 1, places("resumed", places("low").state_out)).head_sha256 == two.head_sha256


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_retry_goes_on_bit_for_bit(places: At) -> None:
    """The rank that writes is killed, between two states or within one."""
    arm = make_arm(TWO_RANKS, rungs=(4, 640))
    torn = places("torn")
    process = start(arm, 1, torn, Streaming(every_s=0.2))
    wait_until(lambda: any(torn.stream(1).glob("[0-9]*")), process)
    ranks = sorted(ranks_of(process.pid), key=lambda child: child.pid)
    ranks[0].kill()
    assert process.wait(timeout=120) == 1
    said = torn.log.with_suffix(".out").read_text()
    assert "error: rank 0 of 2 was ended by SIGKILL, so all ranks were ended; see its messages above\n" in said
    assert not any(child.is_running() for child in ranks)
    assert not torn.acc_out.exists() and not torn.state_out.exists()
    again, straight = run(arm, 1, torn), run(arm, 1, places("straight"))
    assert "resuming an earlier attempt" in torn.log.read_text()
    assert (again.head_sha256, again.train_loss, again.acc0) == (straight.head_sha256, straight.train_loss, straight.acc0)
    assert [path.name for path in torn.acc_out.parent.iterdir() if "stream" in path.name] == []


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(places: At) -> None:
    torn = places("torn")
    process = start(make_arm(TWO_RANKS, rungs=(4, 64000)), 1, torn, Streaming())
    wait_until(lambda: torn.log.exists() and "samples 4" in torn.log.read_text(), process)
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


@pytest.mark.slow
def test_what_a_rank_refuses_is_said_in_one_line(places: At, tmp_path: Path) -> None:
    wrong = places("wrong", tmp_path / "nowhere.state")
    process = start(make_arm(TWO_RANKS), 1, wrong, Streaming(), "spawn")
    assert process.wait(timeout=300) == 1
    said = wrong.log.with_suffix(".out").read_text()
    assert "error: state: " in wrong.log.read_text() and "Traceback" not in wrong.log.read_text()
    assert " of 2 failed, so all ranks were ended" in said
