"""Glue: the checked configuration, and input functions named for what they return."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lib.arm import Arm
from lib.controller import hold_results, refresh_view, refuse
from lib.errors import UserError
from lib.experiment import load_experiment
from lib.files import digest, read_json, read_whole_json
from lib.report.outcome import last_words
from lib.report.plan import format_plan, make_plan
from lib.script import CONTROLLER, ENVIRONMENT
from lib.search.filed import Decisions, decision_path
from lib.serving.engine import require_vllm
from lib.verdict.contest import make_contest
from lib.verdict.filed import verdict_files

with refuse():
    experiment = load_experiment(config)
    if workflow.is_main_process:
        plan = make_plan(experiment, Path())
        if workflow.output_settings.dryrun:
            print(format_plan(plan), file=sys.stderr)

os.environ |= ENVIRONMENT

settings = experiment.config
search = experiment.search
decisions = Decisions(search, Path())
filed = verdict_files(experiment)
bench = {"asked": experiment.asked, "method": experiment.space.draft.method}
plan_file = f"results/search/plan-{digest([filed.verdict, settings.model_dump(include={'budget', 'cost'})])}.json"

if settings.ack_publish not in (None, filed.id):
    with refuse():
        raise UserError(
            f"ack_publish = {settings.ack_publish!r} is not the id of this configuration's verdict, {filed.id}"
            "; the end of its run names it"
        )

if workflow.is_main_process and not workflow.output_settings.dryrun:
    refresh_view(Path(filed.champion), Path("results/champion.json"))
    refresh_view(Path(filed.verdict), Path("results/verdict.json"))
    refresh_view(Path(filed.handoff), Path("results/HANDOFF.md"))
    refresh_view(Path(plan_file), Path("results/plan.json"))


wildcard_constraints:
    arm=r"gb[^/]+",
    bracket=r"[^/]+",
    rung=r"\d+",
    split="train|heldout",


def until(done, **inputs):
    """Return an input function that asks for `inputs` until the job is done, and then for nothing.

    `done` lists the files of a finished job, or is a function of its wildcards. In a run that forces jobs a finished one names its
    inputs all the same, of whatever age, so that it can be done again.

    Names carry content, so what is there is never out of date. A finished job that has no inputs is never run again because of a
    file's age, as `ancient` would have it too. But with `ancient`, Snakemake 9.27 drops whatever waits for a job that it sees between its
    last file and its end when a checkpoint is taken, and the run ends early without a word.
    """

    def needed(wildcards):
        finished = (
            done(wildcards)
            if callable(done)
            else all(exists(path.format(**wildcards)) for path in done)
        )
        dag = workflow.dag_settings
        forcing = dag.forceall or dag.forcetargets or dag.forcerun
        if finished and not forcing:
            return {}
        asked_for = {
            name: source(wildcards) if callable(source) else source.format(**wildcards)
            for name, source in inputs.items()
        }
        return (
            {name: ancient(files) for name, files in asked_for.items()}
            if finished
            else asked_for
        )

    return needed


def measured(wildcards):
    """Return whether an arm has been measured with the settings that are asked for now."""
    try:
        record = read_json(Path(f"results/{wildcards.arm}/serving.json"))
    except (FileNotFoundError, ValueError):  # not there or not whole
        return False
    return record.get("asked") == experiment.asked


def prompts(wildcards):
    """Return the files of the workload, one per subset."""
    return list(experiment.subsets.values())


def cohort(folder, rung):
    """Return the decision that says which arms train to a rung, once it has been taken."""
    checkpoints.decide_cohort.get(bracket=folder, rung=rung)
    with refuse():
        return decisions[folder, int(rung)]


def decisions_below(wildcards):
    """Return the decisions that a decision waits for. Naming them all at once lets every bracket run beside the others."""
    return [
        decision_path(place)
        for place in search.below(wildcards.bracket, int(wildcards.rung))
    ]


def evidence(wildcards):
    """Return the records of the arms in the cohorts a decision rests on."""
    return [
        f"results/{arm}/rung{rung}.acc"
        for folder, rung in search.below(wildcards.bracket, int(wildcards.rung))
        for arm in cohort(folder, rung)["arms"]
    ]


def finalists(wildcards):
    """Return the measurements of the arms that the search put forward."""
    return [
        f"results/{arm}/serving.json"
        for arm in cohort(search.finalists_folder, search.top_rung)["arms"]
    ]


def finalist_records(wildcards):
    """Return what the finalists stand for, as plain data."""
    arms = cohort(search.finalists_folder, search.top_rung)["arms"]
    with refuse():
        return [decisions.entry(arm)[0].record() for arm in arms]


def filed_contest():
    """Return the fresh arms of the standing configuration and of the champion that is filed."""
    chosen = read_whole_json(
        Path(filed.champion), "delete it, the next run chooses it again"
    )
    champion = Arm.from_record(chosen["configuration"])
    return make_contest(champion, search.standing, settings.verdict.seeds)


def contest():
    """Return the fresh arms of both sides, once the champion has been chosen."""
    checkpoints.choose_champion.get()
    with refuse():
        return filed_contest()


def contested(wildcards):
    """Return whether the verdict's measurements are there, of the champion there is now."""
    try:
        measurements = read_json(Path(filed.measurements))
        chosen = read_json(Path(filed.champion))
    except (FileNotFoundError, ValueError):  # not there or not whole
        return False
    return measurements.get("champion") == chosen["arm"]


def contest_heads(wildcards):
    """Return the heads of the verdict's arms in the order in which they are measured."""
    return [f"results/{arm.id}/head" for _, arm in contest().order()]


def contest_proxies(wildcards):
    """Return the training records of the verdict's arms in the order in which they are measured."""
    return [
        f"results/{arm.id}/rung{search.top_rung}.acc" for _, arm in contest().order()
    ]


def contest_records(wildcards):
    """Return what the verdict's arms stand for, as plain data."""
    return [arm.record() for arm in contest().arms.values()]


def entry(arm):
    """Return an arm by its id and the rung at which it enters the ladder; the verdict's arms climb it in one go."""
    with refuse():
        try:
            return decisions.entry(arm)
        except UserError:
            fresh = filed_contest().arms if exists(filed.champion) else {}
            if arm not in fresh:
                raise
            return fresh[arm], search.top_rung


def arm_record(wildcards):
    """Return what an arm stands for, as plain data."""
    arm, _ = entry(wildcards.arm)
    return arm.record()


def state_below(wildcards):
    """Return the arm's own state to resume from: of the rung below, or when the arm enters here, of any lower rung on disk."""
    arm, rung = wildcards.arm, int(wildcards.rung)
    _, first = entry(arm)
    if rung > first:
        return f"results/{arm}/rung{rung - 1}.state"
    for lower in reversed(range(rung)):
        if exists(f"results/{arm}/rung{lower}.state/manifest.json"):
            return f"results/{arm}/rung{lower}.state"
    return []
