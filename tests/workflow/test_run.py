"""The whole small run, and what a second one does."""

import re
from pathlib import Path

import pandas as pd
import pytest
from lib.report.tables import ledger

from tests.workflow.clones import Clone, clone, decisions, heads

pytestmark = pytest.mark.slow


def jobs(output: str) -> dict[str, int]:
    """Return Snakemake's job counts of a dry run."""
    table = re.search(r"^Job stats:\n.*?\n\n", output, re.MULTILINE | re.DOTALL)
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table.group(0), re.MULTILINE)} if table else {}


def test_a_run_leaves_champion_serving_files_heads_and_ledger(finished: Clone) -> None:
    champion = finished.records("champion.json")["champion.json"]
    servings = finished.records("*/serving.json")
    assert champion["acceptance_length"] == max(record["acceptance_length"] for record in servings.values())
    assert len(servings) == len(champion["measured"]) >= 2
    assert "measured in vLLM" in champion["summary"] and champion["rigor"] == "DRAFT"
    assert (finished.root / champion["head"] / "config.json").is_file()
    for path, record in finished.records("*/rung*.acc").items():
        assert record["rigor"] == "DRAFT" and record["context"]["workload"], path
    table = pd.read_parquet(finished.root / "results/ledger.parquet")
    assert len(table) == len(servings) + len(finished.records("*/rung*.acc"))


def test_the_engine_itself_says_what_it_ran(finished: Clone) -> None:
    for record in finished.records("*/serving.json").values():
        context = record["context"]
        assert context["configuration"]["num_speculative_tokens"] == 3
        assert context["configuration"]["max_num_seqs"] == 8
        assert context["stack"]["vllm"]
        assert record["accepted"] <= record["draft_tokens"] == 3 * record["drafts"]
        assert record["acceptance_length"] == pytest.approx(1 + record["accepted"] / record["drafts"])


def test_dropped_arms_are_never_trained_on(finished: Clone) -> None:
    for path, record in finished.records("search/s*/rung*.json").items():
        for arm in record.get("dropped", {}):
            assert not (finished.root / f"results/{arm}/rung{record['rung']}.acc").exists(), path


def test_a_second_run_has_nothing_to_do(finished: Clone) -> None:
    assert "Nothing to be done" in finished.snakemake().stdout


def test_a_fresh_clone_with_results_and_resources_copied_in_retrains_and_measures_nothing(finished: Clone, tmp_path: Path) -> None:
    """The champion and the ledger, views of the tree that cost a second, may be made again."""
    copied = clone(tmp_path, adopt=finished, results=True)
    assert set(jobs(copied.snakemake("--dry-run").stdout)) <= {"choose_champion", "build_ledger", "all", "total"}
    copied.snakemake()
    assert copied.records("champion.json") == finished.records("champion.json")
    assert "Nothing to be done" in copied.snakemake().stdout


def test_the_ledger_is_rebuilt_from_the_tree_alone(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    before = (copied.root / "results/ledger.csv").read_bytes()
    (copied.root / "results/ledger.csv").unlink()
    copied.snakemake("results/ledger.csv")
    assert (copied.root / "results/ledger.csv").read_bytes() == before
    assert len(ledger(copied.root / "results"))


def test_waiting_longer_for_the_engine_measures_nothing_anew(finished: Clone) -> None:
    assert "Nothing to be done" in finished.snakemake("--dry-run", "--config", "serving={start_timeout_s: 1000}").stdout


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        (["seed=1"], {"decide_cohort", "train_rung", "measure_serving", "choose_champion"}),
        (["features={train_prompts: 41}"], {"extract_features", "decide_cohort", "train_rung", "measure_serving", "choose_champion"}),
        (["training={beta1: 0.8}"], {"decide_cohort", "train_rung", "measure_serving", "choose_champion"}),
        (["serving={output_tokens: 8}"], {"measure_serving", "choose_champion"}),
        (["serving={top_k: 2}"], {"decide_cohort", "choose_champion", "build_ledger"}),
    ],
)
def test_a_changed_configuration_is_not_taken_for_the_finished_one(finished: Clone, changes: list[str], rules: set[str]) -> None:
    assert rules <= set(jobs(finished.snakemake("--dry-run", "--config", *changes).stdout))


def test_another_search_and_back_leaves_the_champion_of_the_search_asked_for(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    copied.snakemake("--config", "serving={top_k: 3}")
    assert len(copied.records("champion.json")["champion.json"]["measured"]) > 2
    copied.snakemake()
    assert copied.records("champion.json") == finished.records("champion.json")


def test_a_changed_learning_rate_trains_only_new_arms(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    copied.configure("tests/configs/small-space.yaml", parameters={"lr": [1e-3, 3e-3, 2e-2]})
    times = {path: (copied.root / "results" / path).stat().st_mtime_ns for path in heads(copied)}
    copied.snakemake()
    new = set(heads(copied)) - set(times)
    assert new and all("-lr0.02-" in path or path.endswith("rung1.acc") for path in new)
    assert all((copied.root / "results" / path).stat().st_mtime_ns == time for path, time in times.items())


def test_an_arm_that_moves_to_a_higher_rung_resumes_from_the_rung_it_has(finished: Clone, tmp_path: Path) -> None:
    """An arm that was dropped at rung 0 becomes the standing configuration, which trains to the top: the same head as without the past."""
    first = next(record for path, record in finished.records("search/s1*/rung0.json").items())
    last = next(record for path, record in finished.records("search/s1*/rung1.json").items())
    dropped = next(arm for arm in first["arms"] if arm in last["dropped"])
    records = {}
    for name, results in (("resumed", True), ("afresh", False)):
        copied = clone(tmp_path / name, adopt=finished, results=results)
        copied.configure("tests/configs/small-space.yaml", standing=first["points"][dropped])
        copied.snakemake(f"results/{dropped}/rung1.acc")
        records[name] = copied.records(f"{dropped}/rung1.acc")[f"{dropped}/rung1.acc"]
    assert records["resumed"]["resumed_from_samples"] == 8 and records["afresh"]["resumed_from_samples"] == 0
    assert records["resumed"]["head_sha256"] == records["afresh"]["head_sha256"]


def test_a_changed_recipe_trains_every_arm_anew_and_keeps_the_old_ones(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    copied.snakemake(copied.finalists(training={"weight_decay": 0.1}), "--config", "training={weight_decay: 0.1}")
    assert set(heads(finished)) < set(heads(copied))
    assert len(heads(copied)) >= 2 * len(heads(finished)) - 1
    assert set(decisions(finished)) < set(decisions(copied))


def test_a_dry_run_creates_nothing(tmp_path: Path) -> None:
    fresh = clone(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert "decide_cohort" in jobs(fresh.snakemake("--dry-run").stdout)
    assert {path.name for path in tmp_path.iterdir()} - before <= {".snakemake"}
