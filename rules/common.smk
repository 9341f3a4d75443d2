"""Glue: the checked configuration, and input functions named for what they return."""

import os
import sys
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lib.controller import hold_results, refresh_view, refuse
from lib.experiment import load_experiment
from lib.files import digest, read_json
from lib.script import CONTROLLER, ENVIRONMENT
from lib.serving.engine import require_vllm

with refuse():
    experiment = load_experiment(config)

os.environ |= ENVIRONMENT

settings = experiment.config
search = experiment.search
serving = settings.serving.model_dump(exclude={"top_k", "start_timeout_s"})
draft_tokens = experiment.space.objective.draft_tokens
asked = {**serving, "draft_tokens": draft_tokens}
champion = f"results/search/{search.finalists_folder}/champion-{digest([search.standing.id, asked])}.json"

if workflow.is_main_process and not workflow.output_settings.dryrun:
    refresh_view(Path(champion), Path("results/champion.json"))


wildcard_constraints:
    arm=r"gb[^/]+",
    bracket=r"[^/]+",
    rung=r"\d+",
    split="train|heldout",


def cohort(folder, rung):
    """Return the decision that says which arms train to a rung, once it has been taken."""
    path = Path(
        checkpoints.decide_cohort.get(bracket=folder, rung=rung).output.decision
    )
    return read_decision(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=None)
def read_decision(path, mtime_ns):
    return read_json(path)


def cohorts_below(wildcards):
    """Return (folder, rung) of the cohorts a decision rests on: for the finalists the top rung of every bracket."""
    rung = int(wildcards.rung)
    if wildcards.bracket == search.finalists_folder:
        return [
            (search.folder(bracket), search.top_rung) for bracket in search.brackets
        ]
    if rung > search.bracket_of(wildcards.bracket).first_rung:
        return [(wildcards.bracket, rung - 1)]
    return []


def decisions_below(wildcards):
    """Return the decisions that a decision waits for. Naming them all at once lets every bracket run beside the others."""
    return [
        f"results/search/{folder}/rung{rung}.json"
        for folder, rung in cohorts_below(wildcards)
    ]


def evidence(wildcards):
    """Return the records of the arms in the cohorts a decision rests on."""
    return [
        f"results/{arm}/rung{rung}.acc"
        for folder, rung in cohorts_below(wildcards)
        for arm in cohort(folder, rung)["arms"]
    ]


def finalists(wildcards):
    """Return the measurements of the arms that the search put forward."""
    return [
        f"results/{arm}/serving.json"
        for arm in cohort(search.finalists_folder, search.top_rung)["arms"]
    ]


def arm_record(wildcards):
    """Return what an arm stands for, as plain data."""
    point, _ = search.entry(wildcards.arm)
    return search.arm(point).record()


def state_below(wildcards):
    """Return the arm's own state to resume from: of the rung below, or when the arm enters here, of any lower rung on disk."""
    arm, rung = wildcards.arm, int(wildcards.rung)
    if rung > search.entry(arm)[1]:
        return f"results/{arm}/rung{rung - 1}.state"
    for lower in reversed(range(rung)):
        if exists(f"results/{arm}/rung{lower}.state/manifest.json"):
            return f"results/{arm}/rung{lower}.state"
    return []
