"""The trial mapping, and names that depend on content."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.arm import Arm, InfeasibleError, Layout, lay_out, make_arm, reachable
from lib.config import Point

POINT = Point(global_batch=32, lr=3e-4, warmup=0.05)


@pytest.mark.parametrize(
    ("global_batch", "ranks", "limit", "accumulation", "expected"),
    [
        (32, 4, 4, None, Layout(4, 4, 2)),
        (32, 1, 4, None, Layout(1, 4, 8)),
        (6, 1, 4, None, Layout(1, 3, 2)),
        (7, 1, 4, None, Layout(1, 1, 7)),
        (2, 2, 4, None, Layout(2, 1, 1)),
        (32, 4, 4, 4, Layout(4, 2, 4)),
        (32, 4, 4, 8, Layout(4, 1, 8)),
    ],
)
def test_global_batch_is_laid_out_with_the_largest_micro_batch(global_batch, ranks, limit, accumulation, expected) -> None:
    assert lay_out(global_batch, ranks=ranks, micro_batch_limit=limit, accumulation=accumulation) == expected


@pytest.mark.parametrize(
    ("global_batch", "ranks", "limit", "accumulation", "reason"),
    [
        (6, 4, 4, None, "global batch 6 is not a multiple of 4 ranks"),
        (32, 4, 4, 3, "global batch 32 over 4 ranks is not a multiple of accumulation 3"),
        (2, 1, 4, 4, "global batch 2 over 1 ranks is not a multiple of accumulation 4"),
        (32, 4, 4, 1, "global batch 32 over 4 ranks with accumulation 1 needs a micro-batch of 8, above the limit of 4"),
    ],
)
def test_impossible_layouts_say_why(global_batch, ranks, limit, accumulation, reason) -> None:
    with pytest.raises(InfeasibleError, match=reason):
        lay_out(global_batch, ranks=ranks, micro_batch_limit=limit, accumulation=accumulation)


@given(st.integers(1, 512), st.integers(1, 8), st.integers(1, 16))
def test_every_layout_multiplies_out_within_the_limit(global_batch, ranks, limit) -> None:
    try:
        layout = lay_out(global_batch, ranks=ranks, micro_batch_limit=limit)
    except InfeasibleError:
        assert global_batch % ranks
    else:
        assert layout.ranks * layout.micro_batch * layout.accumulation == global_batch
        assert layout.micro_batch <= limit


def arm(point: Point = POINT, *, seed: int = 0, recipe: dict | None = None) -> Arm:
    return make_arm(point, seed=seed, ranks=1, micro_batch_limit=4, recipe=recipe or {"target": "t"})


def test_id_is_readable_and_follows_content() -> None:
    assert arm().id.startswith("gb32-lr3e-4-wu0.05-s0-")
    assert arm().id == arm().id
    changed = [arm(seed=1), arm(recipe={"target": "u"}), arm(Point(global_batch=32, lr=3.001e-4, warmup=0.05))]
    changed.append(dataclasses.replace(arm(), layout=Layout(1, 2, 16)))
    assert len({one.id for one in [arm(), *changed]}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("point", "ranks", "expected"),
    [
        (Point(global_batch=32, lr=3e-4, warmup=0.05), 1, "gb32-lr3e-4-wu0.05-s1000-dc3e953a"),
        (Point(global_batch=2048, lr=1.0, warmup=0.0), 8, "gb2048-lr1-wu0-s1000-40c3e084"),
        (Point(global_batch=4, lr=4.8e-3, warmup=0.1, accum=2), 1, "gb4-lr4.8e-3-wu0.1-s1000-881ec99a"),
        (Point(global_batch=8, lr=1.234e-5, warmup=0.333), 2, "gb8-lr1.234e-5-wu0.333-s1000-bf8c1aa4"),
    ],
)
def test_ids_stay_as_they_are(point: Point, ranks: int, expected: str) -> None:
    """Results are filed by them: when one changes, what was trained is not found again."""
    assert make_arm(point, seed=1000, ranks=ranks, micro_batch_limit=4, recipe={"target": "t"}).id == expected


def test_record_round_trips_through_json_and_refuses_edits() -> None:
    record = json.loads(json.dumps(arm().record()))
    assert Arm.from_record(record) == arm()
    with pytest.raises(ValueError, match="edited"):
        Arm.from_record(record | {"lr": 1e-3})


@pytest.mark.parametrize(("cap", "global_batch", "samples"), [(64, 8, 64), (100, 16, 96), (10, 16, 0)])
def test_a_rung_is_the_most_whole_batches_within_its_cap(cap, global_batch, samples) -> None:
    assert reachable(cap, global_batch) == samples
