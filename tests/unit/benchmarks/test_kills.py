"""The comparison of two runs sees every change but those of the clock."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kills.run import compare, fingerprint

ACC = "results/gb4-a/rung0.acc"
STATE = "results/gb4-a/rung0.state/optimizer.safetensors"
VERDICT = "results/verdict.json"


def tree(root: Path) -> Path:
    run = {"started_at": "1970-01-01", "accepted": 7, "subsets": {"all": {"mean_ttft_ms": 3.0, "drafts": 9}}}
    records = {
        ACC: {"head_sha256": "aa", "wall_seconds": 1.5, "resumed_from_samples": 0},
        "results/gb4-a/serving.json": {"repeats": [run]},
        VERDICT: {"outcome": "improvement", "id": "v1"},
        "results/levers/more/lever.json": {"device_hours": 2.0},
    }
    for name, record in records.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(record))
    (root / STATE).parent.mkdir()
    (root / STATE).write_bytes(b"weights")
    return root


def edited(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (edited(ACC, "1.5", "2.5"), []),
        (edited(ACC, '"resumed_from_samples": 0', '"resumed_from_samples": 8'), []),
        (edited("results/gb4-a/serving.json", "1970", "1971"), []),
        (edited("results/gb4-a/serving.json", "3.0", "4.0"), []),
        (edited(VERDICT, "v1", "v2"), []),
        (edited("results/levers/more/lever.json", "2.0", "3.0"), []),
        (edited(ACC, "aa", "ab"), [f"different: {ACC}"]),
        (edited("results/gb4-a/serving.json", '"drafts": 9', '"drafts": 8'), ["different: results/gb4-a/serving.json"]),
        (edited(VERDICT, "improvement", "regression"), [f"different: {VERDICT}"]),
        (edited(STATE, "weights", "weightz"), [f"different: {STATE}"]),
        (lambda root: (root / STATE).unlink(), [f"missing: {STATE}"]),
        (lambda root: (root / "results/.left.tmp").touch(), ["left over: results/.left.tmp"]),
    ],
)
def test_what_is_compared(change: Callable[[Path], object], difference: list[str], tmp_path: Path) -> None:
    right = fingerprint(tree(tmp_path))
    change(tmp_path)
    assert compare(right, fingerprint(tmp_path)) == difference
