"""The whole small run, and a second run of it."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from lib.features.samples import FeatureSet
from lib.report.tables import ledger

from tests.stub_engine.engine import Reference, load_target
from tests.workflow.clones import HANDED_OVER, SMALL, Clone, clone, decisions, heads, jobs
from tests.workflow.conftest import SECRET

pytestmark = pytest.mark.slow

VIEWS = {"choose_champion", "give_verdict", "copy_view", "hand_over_champion", "write_handoff"} | {
    "build_ledger",
    "draw_report",
    "all",
    "total",
}
"""Jobs that take a second and may be done again in a copied tree."""


def test_a_run_leaves_champion_serving_files_heads_and_ledger(finished: Clone) -> None:
    champion = finished.records("champion.json")["champion.json"]
    servings = finished.records("*/serving.json")
    finalists = {arm for record in finished.records("search/finalists-*/rung*.json").values() for arm in record["arms"]}
    assert champion["acceptance_length"] == max(servings[f"{arm}/serving.json"]["acceptance_length"] for arm in finalists)
    assert len(servings) == len(champion["measured"]) >= 2
    assert "measured in vLLM" in champion["summary"] and champion["rigor"] == "DRAFT"
    assert (finished.root / champion["head"] / "config.json").is_file()
    for path, record in finished.records("*/rung*.acc").items():
        assert record["rigor"] == "DRAFT" and record["context"]["workload"], path
    table = pd.read_parquet(finished.root / "results/ledger.parquet")
    (contest,) = finished.records("search/*/contest-*.json").values()
    assert len(table) == len(servings) + len(contest["servings"]) + len(finished.records("*/rung*.acc"))
    assert set(table["rigor"]) == {"DRAFT"}


def test_features_of_the_engine_are_those_of_transformers(finished: Clone) -> None:
    (folder,) = finished.root.glob("resources/features/*/1of1")
    (target,) = finished.root.glob("resources/target/*")
    features = FeatureSet(folder / "heldout")
    reference = Reference(load_target(target), [*features.aux_layers, 4])
    assert len(features) == 8 and len(FeatureSet(folder / "train")) == 40
    for index in range(len(features)):
        sample = features.sample(index)
        tokens, first = sample["input_ids"].tolist(), int(sample["loss_mask"].nonzero()[0])
        assert tokens[first:] == reference.answer(tokens[:first], 32, [0], {})
        states = torch.cat([sample["hidden_states"], sample["verifier_last_hidden_states"]], dim=1)
        torch.testing.assert_close(states, reference.states(tokens).flatten(1), rtol=1e-4, atol=1e-4)
    assert not list(folder.parent.glob("*.work")), "work in progress is removed"


def test_a_planted_secret_stands_in_no_file_and_was_never_said(finished: Clone, said: str) -> None:
    """Every kind of file is among them: features, heads, measurements, and the logs of jobs and of vLLM."""
    assert SECRET not in said
    files = {str(path.relative_to(finished.root)): path for path in finished.root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert not [name for name, path in files.items() if SECRET.encode() in path.read_bytes() and not name.startswith("tests/")]
    for kind in (
        "resources/features/*/prompts/train.jsonl",
        "resources/features/*/1of1/train/hidden_states/hs_0.safetensors",
        "resources/features/*/1of1/train/manifest.json",
        "results/gb*/head/config.json",
        "results/gb*/rung*.state/manifest.json",
        "results/gb*/serving.json",
        "results/preflight/*/preflight.json",
        "results/logs/preflight.server.log",
        "results/logs/extract_features/1of1.server.log",
        "results/logs/measure_serving.0.server.log",
        "results/logs/measure_contest.server.log",
        "results/champion/README.md",
        ".snakemake/log/*",
    ):
        assert fnmatch.filter(files, kind), kind


def test_the_engine_itself_says_what_it_ran(finished: Clone) -> None:
    for record in finished.records("*/serving.json").values():
        context = record["context"]
        assert (context["identity"]["hardware"], context["parallelism"]["tensor"]) == ("cpu", 1)
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
    assert set(jobs(copied.snakemake("--dry-run").stdout)) <= VIEWS
    copied.snakemake()
    assert copied.records("champion.json") == finished.records("champion.json")
    assert "Nothing to be done" in copied.snakemake().stdout


def test_the_ledger_is_rebuilt_from_the_tree_alone(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    before = (copied.root / "results/ledger.csv").read_bytes()
    (copied.root / "results/ledger.csv").unlink()
    copied.snakemake("results/ledger.csv")
    assert (copied.root / "results/ledger.csv").read_bytes() == before
    assert len(ledger(copied.root))


def test_waiting_longer_for_the_engine_measures_nothing_anew(finished: Clone) -> None:
    assert "Nothing to be done" in finished.snakemake("--dry-run", "--config", "serving={start_timeout_s: 1000}").stdout


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        (["seed=1"], {"decide_cohort", "train_rung", "choose_champion"}),
        (["features={train_prompts: 41}"], {"extract_features", "decide_cohort", "train_rung", "choose_champion"}),
        (["training={beta1: 0.8}"], {"decide_cohort", "train_rung", "choose_champion"}),
        (["serving={workload: {output_tokens: 8}}"], {"measure_serving", "choose_champion"}),
        (["serving={environment: {VLLM_TEST: '1'}}"], {"measure_serving", "choose_champion"}),
        (["verdict={seeds: 3}"], {"train_rung", "export_head", "measure_contest", "give_verdict", "write_handoff"}),
        (["verdict={repeats: 2}"], {"measure_contest", "give_verdict"}),
        (["verdict={smallest_effect: 0.5}"], {"give_verdict", "write_handoff"}),
        (["serving={top_k: 2}"], {"decide_cohort", "choose_champion", "build_ledger"}),
    ],
)
def test_a_changed_configuration_is_not_taken_for_the_finished_one(finished: Clone, changes: list[str], rules: set[str]) -> None:
    assert rules <= set(jobs(finished.snakemake("--dry-run", "--config", *changes).stdout))


@pytest.mark.long
def test_another_search_and_back_leaves_the_champion_of_the_search_asked_for(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    wider = ("--config", "serving={top_k: 2}")
    copied.snakemake("results/champion.json", *wider)
    assert len(copied.records("champion.json")["champion.json"]["measured"]) > 2
    views = jobs(copied.snakemake("--dry-run", *wider).stdout)
    assert views["copy_view"] >= 2 and views["hand_over_champion"] == 1, "the head of the search before is not taken for this one's"
    copied.snakemake()
    for view in ("champion.json", "verdict.json", "champion/manifest.json", "plan.json"):
        assert copied.records(view) == finished.records(view)


def test_snakemake_knows_every_job_that_ran(finished: Clone) -> None:
    """What it lists of a finished tree is all that ran, and the graph of rules leads from the target to the verdict."""
    rows = [line.split("\t") for line in finished.snakemake("--summary").stdout.splitlines()]
    rows = rows[next(place for place, row in enumerate(rows) if row[0] == "output_file") + 1 :]
    assert {log for row in rows for log in row[3].split(",")} == set(finished.ran())
    made = {f"results/{path}" for pattern in ("*/rung*.acc", "*/serving.json", "search/*/*.json") for path in finished.records(pattern)}
    assert made <= {row[0] for row in rows}
    graph = finished.snakemake("--rulegraph").stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    assert set(names.values()) == {*finished.ran().values(), "all"}
    edges = {(names[one], names[other]) for one, other in re.findall(r"(\d+) -> (\d+)", graph)}
    assert edges >= {("train_target", "train_rung"), ("extract_features", "train_rung"), ("train_rung", "decide_cohort")}
    assert edges >= {("build_untrained_head", "preflight"), ("preflight", "train_rung")}
    assert edges >= {
        ("train_rung", "export_head"),
        ("export_head", "measure_serving"),
        ("measure_serving", "file_serving"),
        ("measure_contest", "give_verdict"),
    }


def test_an_archive_of_a_finished_tree_holds_the_sources_and_runs_elsewhere(finished: Clone, tmp_path: Path) -> None:
    """Without the environments, for which Snakemake needs conda (docs/upstream/archive-needs-conda.md)."""
    one, elsewhere = clone(tmp_path / "one", adopt=finished, results=True), Clone(tmp_path / "elsewhere")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=one.root, check=True)
    without_conda = "import snakemake.api, snakemake.cli; snakemake.jobs.Job.conda_env_spec = None; snakemake.cli.main()"
    command = [sys.executable, "-c", without_conda, "--archive", str(tmp_path / "run.tar"), *SMALL]
    subprocess.run(command, cwd=one.root, check=True, capture_output=True)
    with tarfile.open(tmp_path / "run.tar") as archive:
        tracked = subprocess.check_output(["git", "ls-files"], cwd=one.root, text=True).splitlines()
        assert set(archive.getnames()) - {name for name in archive.getnames() if "__pycache__" in name} == set(tracked)
        archive.extractall(elsewhere.root, filter="data")
    assert {"train_target", "train_rung", "measure_contest"} <= set(jobs(elsewhere.snakemake("--dry-run").stdout))


def test_a_record_that_is_gone_is_made_again_by_its_own_job_alone(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    (dropped, *_) = (arm for record in finished.records("search/s*/rung*.json").values() for arm in record.get("dropped", {}))
    (copied.root / f"results/{dropped}/rung0.acc").unlink()
    planned = jobs(copied.snakemake("--dry-run").stdout)
    assert planned["train_rung"] == 1 and set(planned) <= {"train_rung", *VIEWS}


def test_a_changed_learning_rate_trains_only_new_arms(finished: Clone, tmp_path: Path) -> None:
    copied = clone(tmp_path, adopt=finished, results=True)
    copied.configure("tests/configs/small-space.yaml", parameters={"lr": [1e-3, 3e-3, 2e-2]})
    times = {path: (copied.root / "results" / path).stat().st_mtime_ns for path in heads(copied)}
    copied.snakemake(copied.finalists())
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
    first = copied.finalists(training={"weight_decay": 0.1}).replace("finalists", "s1")  # to the top rung of the first bracket
    copied.snakemake(first, "--config", "training={weight_decay: 0.1}")
    proposed, promoted = (record for path, record in copied.records("search/s1*/rung*.json").items() if path not in decisions(finished))
    assert set(heads(copied)) - set(heads(finished)) == {f"{arm}/rung0.acc" for arm in proposed["arms"]}
    assert set(promoted["arms"]) < set(proposed["arms"]) and heads(finished).items() < heads(copied).items()
    assert decisions(finished).items() < decisions(copied).items()


def test_a_dry_run_creates_nothing(tmp_path: Path) -> None:
    fresh = clone(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert "decide_cohort" in jobs(fresh.snakemake("--dry-run").stdout)
    assert {path.name for path in tmp_path.iterdir()} - before <= {".snakemake"}


def test_a_copy_without_the_resources_trains_and_measures_nothing(finished: Clone, tmp_path: Path) -> None:
    """Finished work is not done again because what it was made from has been cleared away."""
    copied = clone(tmp_path)
    shutil.copytree(finished.root / "results", copied.root / "results")
    assert set(jobs(copied.snakemake("--dry-run").stdout)) <= VIEWS
    more = jobs(copied.snakemake("--dry-run", "--config", "verdict={seeds: 3}").stdout)
    assert (more["train_rung"], more["extract_features"], more.get("measure_serving", 0)) == (6, 1, 0), "only what is new"


def test_a_job_that_ends_slowly_while_a_checkpoint_is_taken_does_not_cut_the_run_short(finished: Clone, tmp_path: Path) -> None:
    """The standing configuration's job lingers after its files are in place until the last decision is taken.

    docs/upstream/ancient-drops-dependants.md shows how Snakemake can drop all that waits for it, and end in silence.
    """
    standing = finished.records("champion.json")["champion.json"]["standing"]["arm"]
    one = clone(tmp_path / "clone", adopt=finished)
    decision = one.root / one.finalists()
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/sitecustomize.py").write_text(
        "import os, pathlib, sys, time\n"
        "leave = os._exit\n"
        "def linger(status):\n"
        "    until = time.monotonic() + 90\n"
        f"    while time.monotonic() < until and not pathlib.Path({str(decision)!r}).exists():\n"
        "        time.sleep(0.1)\n"
        "    leave(status)\n"
        "script = sys.orig_argv[-1]\n"
        f"if script.endswith('.train_rung.py') and {standing!r} in open(script, errors='replace').read():\n"
        "    os._exit = linger\n" + HANDED_OVER
    )
    one.snakemake(one.finalists(), f"results/{standing}/head", variables={"PYTHONPATH": f"{tmp_path}/slow"})
    assert decisions(one) == decisions(finished)
    assert (one.root / f"results/{standing}/head/config.json").exists()


def test_a_finished_job_can_be_done_again_by_force(finished: Clone, tmp_path: Path) -> None:
    """By its file or by its rule, with the same result, and without touching what rests on it."""
    copied = clone(tmp_path, adopt=finished, results=True)
    record = f"results/{copied.records('champion.json')['champion.json']['arm']}/rung1.acc"
    before = (copied.root / record).stat().st_mtime_ns
    copied.snakemake("--force", record)
    assert (copied.root / record).stat().st_mtime_ns > before
    assert heads(copied) == heads(finished)
    forced = jobs(copied.snakemake("--dry-run", "-R", "train_rung").stdout)
    assert forced["train_rung"] >= 6 and "measure_serving" not in forced and "decide_cohort" not in forced


def test_a_strategy_that_learns_decides_round_by_round_and_is_resumed(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished)
    changes = {"strategy": "tpe", "search": {"arms": 3, "round": 1}}
    flags = ("--config", "strategy=tpe", "search={arms: 3, round: 1}")
    last = one.finalists(**changes)
    one.snakemake(last.replace("finalists", "round1"), *flags)
    assert len(one.records("search/round*/rung1.json")) == 2
    one.snakemake(last, *flags)
    rounds = one.records("search/round*/rung1.json")
    assert [record["rule"] for _, record in sorted(rounds.items())] == [
        f"proposed by tpe, 1 of 1 wanted, from {known} observations" for known in range(3)
    ]
    assert len({arm for record in rounds.values() for arm in record["arms"]}) == 3
    (final,) = one.records("search/finalists*/rung1.json").values()
    assert len(final["scores"]) == 3


def test_the_ledger_of_one_search_seeds_another(finished: Clone, tmp_path: Path) -> None:
    """Arms in full of the first search are finalists of a second one without a step of training; in an empty tree they train up."""
    flags = ("--config", "seed_from=prior.parquet", "strategy=random", "search={arms: 2}", "serving={top_k: 2}")
    changes = {"seed_from": "prior.parquet", "strategy": "random", "search": {"arms": 2}}
    best = finished.records("champion.json")["champion.json"]["arm"]
    for name, results in (("here", True), ("elsewhere", False)):
        one = clone(tmp_path / name, adopt=finished, results=results)
        shutil.copy(finished.root / "results/ledger.parquet", one.root / "prior.parquet")
        plan = one.snakemake("--dry-run", *flags).stdout
        assert "Prior arms (7):" in plan and "finalists, for rung 1" in plan
        final = one.finalists(**changes, serving={"top_k": 2})
        one.snakemake(final, *flags)
        (decision,) = one.records(str(Path(final).relative_to("results"))).values()
        assert best in decision["arms"] and decision["scores"][best]["prior"] == f"prior.parquet: {best}, rung 1"
        known = {record["arm"] for record in finished.records("*/rung1.acc").values()}
        assert not known & set(one.records("search/random*/rung1.json").popitem()[1]["points"])
        needed = jobs(one.snakemake("--dry-run", f"results/{best}/head", *flags).stdout)
        assert needed.get("train_rung", 0) == (0 if results else 1)


def test_a_search_under_way_is_held_to_its_samples_and_arms_but_not_to_estimated_hours(finished: Clone) -> None:
    refused = finished.snakemake("--dry-run", "--config", "budget={samples: 100}", check=False)
    assert refused.stdout.strip().splitlines()[-1].startswith("error: budget.samples = 100 is less than the 208 that this search may use")
    let_on = finished.snakemake("--dry-run", "--config", "budget={device_hours: 0.0001}").stdout
    assert set(jobs(let_on)) <= {"plan", "copy_view", "build_ledger", "draw_report", "all", "total"}, (
        "the plan, which names the budget, and its readers"
    )


def test_status_tells_a_finished_an_interrupted_and_no_search_apart(finished: Clone, tmp_path: Path) -> None:
    def status(one: Clone) -> str:
        done = subprocess.run([sys.executable, "scripts/status.py"], cwd=one.root, text=True, capture_output=True, check=False)
        return done.stdout + done.stderr

    whole = status(finished)
    assert "strategy hyperband: finished" in whole
    assert re.search(r"^s1 +0 +8 +3 +3 +0 +0 +0 +0$", whole, re.MULTILINE)
    assert "Acceptance length in vLLM (DRAFT): " in whole and "Spent: 208 of at most 208 samples" in whole
    copied = clone(tmp_path, adopt=finished, results=True)
    (last,) = (copied.root / "results/search").glob("s1*/rung1.json")
    arm = copied.records("search/s1*/rung1.json").popitem()[1]["arms"][0]
    (copied.root / f"results/{arm}/rung1.acc").unlink()
    (copied.root / copied.records("plan.json")["plan.json"]["files"]["verdict"]).unlink()
    partly = status(copied)
    assert "strategy hyperband: not running; run the same command again to resume" in partly
    assert re.search(r"^s1 +1 +24 +1 +0 +0 +0 +0 +1$", partly, re.MULTILINE)
    last.unlink()
    assert re.search(r"^s1 +1 +24 +up to 1 +undecided$", status(copied), re.MULTILINE)
    shutil.rmtree(copied.root / "results")
    assert status(copied).strip() == ("error: results/plan.json does not exist: no search has been started here; start one with make tune")
