"""`make report` writes one self-contained file of a search at any stage, without network access in the browser."""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.unit.report.test_figures import LOADED, text
from tests.workflow.clones import ROOT, Clone, clone

pytestmark = pytest.mark.slow


def make_report(one: Clone) -> str:
    """Do what `make report` does, which a clone without an environment of its own cannot, and return the report."""
    subprocess.run([sys.executable, "scripts/report.py"], cwd=one.root, check=True)
    assert "Missing metadata" not in one.snakemake("draw_report", "--report", "report.html").stdout
    return (one.root / "report.html").read_text()


def listed(report: str, variable: str) -> dict[str, Any]:
    """Return a variable of the report's own script."""
    return json.JSONDecoder().raw_decode("{" + report.split(f"var {variable} = {{", 1)[1])[0]


def files(report: str) -> dict[str, str]:
    """Return the files that the report holds, by name."""
    return {Path(name).name: b64decode(one["data_uri"].split("base64,")[1]).decode() for name, one in listed(report, "results").items()}


def opening(report: str) -> str:
    """Return what the page says with which the report opens."""
    return text(json.JSONDecoder().raw_decode(report.split("var workflow_desc = ", 1)[1])[0])


def test_the_report_of_a_finished_search_is_one_small_file_that_gives_the_verdict(finished: Clone, tmp_path: Path) -> None:
    finished.snakemake("--report", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text()
    held = files(report)
    assert set(held) == {path.name for path in (finished.root / "results/report").iterdir()}
    verdict = json.loads((finished.root / "results/verdict.json").read_text())
    assert verdict["outcome"].capitalize() in text(held["verdict.html"]) and verdict["summary"] in text(held["verdict.html"])
    assert opening(report).startswith(f"VERDICT {verdict['id']} of search {verdict['search']} {verdict['outcome'].capitalize()} ")
    assert verdict["summary"] in opening(report) and "Measured on: tiny-llama" in opening(report)
    assert not any(LOADED.search(page) for page in held.values())
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?https?:", report)
    assert len(report) < 6_000_000
    assert min(listed(report, "categories")) == "1 Verdict", "Snakemake sorts them by name"
    assert {name: rule["n_jobs"] for name, rule in listed(report, "rules").items()} == Counter(finished.ran().values())


def test_a_half_finished_search_is_reported_as_a_draft(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished, results=True)
    results = one.root / "results"
    filed = json.loads((results / "plan.json").read_text())["files"]
    shutil.rmtree(results / "report")
    for name in ("verdict", "measurements", "handoff", "next_levers"):
        (one.root / filed[name]).unlink()
    for name in ("verdict.json", "HANDOFF.md"):
        (results / name).unlink()
    shutil.rmtree(next(path for path in results.glob("gb*-s0-*") if not (path / "serving.json").exists()))
    report = make_report(one)
    held = files(report)
    card = text(held["verdict.html"])
    assert "DRAFT" in card and "champion so far" in card and "VERDICT" not in card
    assert opening(report).startswith("DRAFT No verdict yet: champion so far gb") and "not running; run the same command" in opening(report)
    assert "There is no hand-off yet" in held["levers.html"]


def test_a_search_that_has_only_been_planned_is_reported(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished)
    (one.root / "results").mkdir(exist_ok=True)
    shutil.copy(finished.root / "results/plan.json", one.root / "results/plan.json")
    report = make_report(one)
    assert "No champion yet" in text(files(report)["verdict.html"]) and opening(report).startswith("DRAFT No champion yet ")
    assert one.snakemake("--dry-run").returncode == 0, "and the search goes on from there"


def test_make_report_draws_and_then_reports() -> None:
    recipe = "\nreport: installed\n\t@$(BIN)/python scripts/report.py\n\t$(BIN)/snakemake draw_report --report report.html $(ARGS)\n"
    assert recipe in (ROOT / "Makefile").read_text(), "as make_report above does"


def test_without_the_drawn_files_snakemake_refuses_and_names_one(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished, results=True)
    (one.root / "results/report/curves.svg").unlink()
    refused = one.snakemake("--report", "report.html", check=False)
    assert refused.returncode and "results/report/curves.svg" in refused.stdout
