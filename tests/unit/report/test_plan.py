"""Paces come only from records of work like the planned work."""

import json
from pathlib import Path

import pytest
from lib.arm import Arm
from lib.config import Cost, Point
from lib.experiment import load_experiment
from lib.records.measurement import EngineStart, write_record
from lib.report.plan import format_plan, make_plan, measured_pace, stated_pace
from lib.search.search import Search

from tests.unit.made_records import proxy
from tests.unit.made_records import serving as measured
from tests.unit.search.searches import RECIPE, make_search

DRAFT = {"method": "eagle3"}


def file(
    root: Path, search: Search, lr: float, seconds: dict[int, float], *, serving: float | None = None, start: float = 0, draft: dict = DRAFT
) -> Arm:
    """File an arm with device-seconds by rung, and its measurement on two devices with seconds in all and for the start of the engine."""
    point = Point(global_batch=8, lr=lr, warmup=0.0)
    arm = make_search(recipe=search.recipe | {"draft": draft}).arm(point)
    folder = root / "results" / arm.id
    before = 0
    for rung, spent in seconds.items():
        samples = search.space.rungs.samples[rung]
        changes = {"rung": rung, "samples": samples, "resumed_from_samples": before, "device_seconds": spent}
        write_record(folder / f"rung{rung}.acc", proxy(arm).model_copy(update=changes))
        before = samples
    if serving is not None:
        engine = EngineStart(started_at="2026-01-01T00:00:00+00:00", start_seconds=start, exchange=0 if start else 1, check="equal")
        write_record(folder / "serving.json", measured(arm.id, wall_seconds=serving, device_seconds=2 * serving, engine=engine))
    return arm


def test_the_pace_is_a_constant_and_a_slope_over_the_samples_that_jobs_trained(tmp_path: Path) -> None:
    """Jobs that take 5 s and 0.25 s a sample, whether they begin afresh or resume."""
    one = make_search(recipe=RECIPE | {"draft": DRAFT})
    file(tmp_path, one, 1e-3, {0: 5 + 64 * 0.25, 1: 5 + 128 * 0.25, 2: 5 + 384 * 0.25}, serving=15.0)
    file(tmp_path, one, 2e-3, {0: 5 + 64 * 0.25}, serving=45.0, start=20.0)
    pace = measured_pace(one, tmp_path)
    assert (pace.per_sample, pace.per_job, pace.per_serving) == (pytest.approx(0.25), pytest.approx(5), pytest.approx(40))
    assert pace.per_start == pytest.approx(40), "of the one engine that was started"
    assert pace.source == "measured on 4 rungs and 2 servings under results/"


def test_records_of_another_head_and_broken_files_do_not_count(tmp_path: Path) -> None:
    one = make_search(recipe=RECIPE | {"draft": DRAFT})
    file(tmp_path, one, 1e-3, {0: 21.0, 1: 37.0}, serving=15.0)
    file(tmp_path, one, 2e-3, {0: 900.0, 1: 900.0}, serving=900.0, draft={"method": "dflash"})
    spoiled = file(tmp_path, one, 3e-3, {0: 900.0, 1: 900.0}, serving=900.0)
    for path in (tmp_path / "results" / spoiled.id).glob("*.acc"):
        path.write_text(path.read_text()[:40])
    (tmp_path / "results" / spoiled.id / "serving.json").write_text(json.dumps({"device_seconds": 900.0}))
    pace = measured_pace(one, tmp_path)
    assert (pace.per_sample, pace.per_job, pace.per_serving) == (pytest.approx(0.25), pytest.approx(5), pytest.approx(30))


def test_without_enough_records_there_is_no_measured_pace(tmp_path: Path) -> None:
    one = make_search(recipe=RECIPE | {"draft": DRAFT})
    assert measured_pace(one, tmp_path) is None
    file(tmp_path, one, 1e-3, {0: 21.0, 1: 37.0})
    assert measured_pace(one, tmp_path) is None, "nothing served yet"


def test_a_stated_pace_needs_both_its_numbers() -> None:
    assert stated_pace(Cost(seconds_per_sample=0.5)) is None
    pace = stated_pace(Cost(seconds_per_sample=0.5, seconds_per_serving=60))
    assert (pace.per_sample, pace.per_serving, pace.per_start) == (0.5, 60, 0)
    assert stated_pace(Cost(seconds_per_sample=0.5, seconds_per_serving=60, seconds_per_start=600)).per_start == 600


def test_the_plan_says_what_is_sent(tmp_path: Path) -> None:
    lines = [{"turns": ["a", "b"], "category": "qa"}, {"turns": ["c"], "category": "qa"}, {"turns": ["d", "e"], "category": "math"}]
    path = tmp_path / "qualitative.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    workloads = {
        "3 prompts in 2 subset(s), at most 64 tokens per answer; only the first turn of 2 conversation(s) is sent": {"path": str(path)},
        "2 prompts in 2 subset(s), 8 tokens per answer; only": {
            **{"path": str(path), "prompts_per_subset": 1},
            **{"stop": "fixed", "output_tokens": 8},
        },
        "64 prompts in 1 subset(s), at most 64 tokens per answer": {},
    }
    for said, workload in workloads.items():
        plan = make_plan(load_experiment({"serving": {"workload": workload}}), tmp_path)
        assert f"\nWorkload: {said}" in format_plan(plan)
