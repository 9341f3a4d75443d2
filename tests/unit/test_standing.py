"""Which results of a tree are valid, and which belong to another configuration."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lib.files import write_json
from lib.records.layout import VerdictFiles
from lib.standing import Standing

FOLDER = "results/search/finalists-ab"
FILED = VerdictFiles(
    *(
        f"{FOLDER}/{name}"
        for name in ("champion-1.json", "contest-1.json", "verdict-1.json", "handoff.md", "next", "{}", "servings-1-{engine}")
    ),
    1,
)
ASKED = {"repeats": 1}


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    """The tree of an arm whose head has been measured, and of a verdict that has been handed over."""
    write_json(tmp_path / "results/gb4-a/rung1.acc", {"head_sha256": "h"})
    write_json(tmp_path / "results/gb4-a/serving.json", {"asked": ASKED, "head_sha256": "h"})
    for path in (FILED.verdict, "results/verdict.json"):
        write_json(tmp_path / path, {"id": "v1"})
    write_json(tmp_path / "results/champion/manifest.json", {"verdict": "v1", "files": {"README.md": "digest"}})
    (tmp_path / "results/champion/README.md").touch()
    experiment = SimpleNamespace(asked=ASKED, preflight="f", search=SimpleNamespace(top_rung=1))
    views = {"results/verdict.json": FILED.verdict, "results/champion.json": FILED.champion}
    return Standing(experiment, FILED, views, lambda path: (tmp_path / path).exists(), tmp_path)  # type: ignore[arg-type]


def test_evidence_stands_where_it_is_and_the_rest_is_left_to_snakemake(standing: Standing) -> None:
    for path in ("results/gb4-a/head", "results/gb4-a/rung1.state", "resources/features/1/train", "results/search/s0-ab/rung0.json"):
        assert standing(path) is None, "not there"
        (standing.root / path).mkdir(parents=True)
        assert standing(path)
    for path in ("results/ledger.csv", "results/report/map.svg", "results/logs/plan.log", f"{FOLDER}/verdict-2.json"):
        (standing.root / path).parent.mkdir(parents=True, exist_ok=True)
        (standing.root / path).touch()
        assert standing(path) is None


@pytest.mark.parametrize("record", [{"asked": {"repeats": 2}, "head_sha256": "h"}, {"asked": ASKED, "head_sha256": "other"}, {}, []])
def test_a_measurement_stands_only_with_the_settings_and_the_head_there_are_now(record: object, standing: Standing) -> None:
    assert standing("results/gb4-a/serving.json")
    write_json(standing.root / "results/gb4-a/serving.json", record)
    assert standing("results/gb4-a/serving.json") is False


@pytest.mark.parametrize(
    ("server", "stands"),
    [
        ({"stack": {"vllm": "1"}}, True),
        ({"stack": {"vllm": "2"}}, False),
        ({"image": "serve@sha256:1"}, True),
        ({"image": "serve@sha256:2"}, False),
        ({}, True),
    ],
)
def test_a_preflight_stands_for_the_versions_or_the_image_that_serve(standing: Standing, server: dict[str, str], stands: bool) -> None:
    assert standing("results/preflight/f/preflight.json") is None
    write_json(standing.root / "results/preflight/f/preflight.json", {"stack": {"vllm": "1"}, "image": "serve@sha256:1"})
    assert replace(standing, server=lambda: server)("results/preflight/f/preflight.json") is stands
    write_json(standing.root / FILED.measurements, {})
    assert replace(standing, server=lambda: server)("results/preflight/f/preflight.json"), "nothing is left to be served"


def test_a_contest_that_is_not_whole_is_measured_again(standing: Standing) -> None:
    write_json(standing.root / FILED.measurements, {})
    assert standing(FILED.measurements) is None, "no champion is filed"


def test_a_view_stands_while_it_is_what_is_filed(standing: Standing) -> None:
    assert standing("results/verdict.json") and standing("results/champion")
    write_json(standing.root / "results/champion.json", {"arm": "another's"})
    assert standing("results/champion.json") is False, "nothing is filed yet"
    write_json(standing.root / FILED.verdict, {"id": "v2"})
    assert standing("results/verdict.json") is False and standing("results/champion") is False


def test_a_handover_stands_only_whole(standing: Standing) -> None:
    (standing.root / "results/champion/README.md").unlink()
    assert standing("results/champion") is False
