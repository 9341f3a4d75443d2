"""A rung from files to files: the record, the state the next rung starts from, failures, several ranks."""

from pathlib import Path

import pytest
from lib.arm import Arm, Layout
from lib.config import Draft, Streaming, Training
from lib.draft.data import FeatureSet
from lib.draft.manifest import read_manifest
from lib.draft.rung import FAILURE, Places, run_rung
from lib.files import read_json
from lib.verdict.record import ProxyRecord, read_record


def make_arm(layout: Layout, lr: float = 2e-3) -> Arm:
    recipe = {
        "features": "f",
        "target": "t",
        "draft": Draft(method="eagle3", aux_layers=(1, 2, 3)).model_dump(mode="json"),
        "training": Training().model_dump(mode="json", exclude={"ranks", "micro_batch_limit"}),
        "rungs": [10, 24],
    }
    return Arm(layout.ranks * layout.micro_batch * layout.accumulation, lr, 0.0, 0, layout, recipe)


@pytest.fixture
def places(target: Path, features: FeatureSet, heldout: FeatureSet, tmp_path: Path):
    def at(name: str, state: Path | None = None) -> Places:
        return Places(
            target, features.path, heldout.path, state, tmp_path / f"{name}.acc", tmp_path / f"{name}.state", tmp_path / f"{name}.log"
        )

    return at


def run(arm: Arm, rung: int, places: Places) -> ProxyRecord:
    run_rung(arm, rung, places, Streaming())
    return read_record(places.acc_out, ProxyRecord)


def test_climbing_two_rungs_equals_training_in_one_go(places) -> None:
    arm = make_arm(Layout(1, 2, 2))
    low = run(arm, 0, places("low"))
    high = run(arm, 1, places("high", places("low").state_out))
    straight = run(arm, 1, places("straight"))
    assert (low.samples, low.cap_samples, high.samples, high.resumed_from_samples) == (8, 10, 24, 8)
    assert high.head_sha256 == straight.head_sha256 != low.head_sha256
    assert (high.acc0, high.accuracies) == (straight.acc0, straight.accuracies)
    assert high.rigor == "DRAFT" and read_manifest(places("high").state_out)["samples"] == 24


def test_a_diverged_arm_leaves_a_record_and_no_state(places) -> None:
    record = run(make_arm(Layout(1, 2, 2), lr=1e8), 1, places("lost"))
    assert record.status == "diverged" and record.reason and record.acc0 is None
    assert read_json(places("lost").state_out / FAILURE)["status"] == "diverged"


@pytest.mark.slow
def test_two_ranks_equal_one_to_rounding_and_resume_exactly(places) -> None:
    one = run(make_arm(Layout(1, 2, 2)), 1, places("one"))
    two = run(make_arm(Layout(2, 2, 1)), 1, places("two"))
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
    assert two.accuracies == pytest.approx(one.accuracies, abs=0.02)
    assert two.device_seconds == pytest.approx(2 * two.wall_seconds)
    run(make_arm(Layout(2, 2, 1)), 0, places("low"))
    resumed = run(make_arm(Layout(2, 2, 1)), 1, places("resumed", places("low").state_out))
    assert resumed.head_sha256 == two.head_sha256
