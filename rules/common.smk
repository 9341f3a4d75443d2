"""The session of this process, and input functions named for what they return."""

import sys
from functools import cache, partial
from pathlib import Path

if not Path(workflow.basedir, "scripts/lib").is_dir():
    raise WorkflowError("this workflow cannot be a module; start it in its clone")

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lib.controller import refuse
from lib.experiment import describe_bench, describe_extraction, feature_folders
from lib.features.description import fingerprints
from lib.records import layout
from lib.session import open_session

with refuse():
    session = open_session(workflow, config)

experiment, filed, views = session.experiment, session.filed, session.views
settings, search = experiment.config, experiment.search
takes, made_target = session.takes, session.made_target
sent_prompts = list(experiment.subsets.values())


wildcard_constraints:
    arm=r"gb[^/]+",
    bracket=r"[^/]+",
    engine=r"\d+",
    rung=r"\d+",
    part=r"\d+",
    parts=r"\d+",
    view="|".join(Path(view).name for view in views),


def target_folder(wildcards):
    """Return the folder of the target, whether a rule makes it or the configuration names it."""
    return experiment.target


@cache
def cohort(folder, rung):
    """Return the decision that says which arms train to a rung, after it and the decisions that it depends on have been taken."""
    for below in search.below(folder, int(rung)):
        cohort(*below)
    checkpoints.decide_cohort.get(bracket=folder, rung=rung)
    with refuse():
        return session.decisions[folder, int(rung)]


def decisions_below(wildcards):
    """Return the decisions that a decision waits for. All are named at once, so that brackets run in parallel."""
    return [
        layout.decision(*place)
        for place in search.below(wildcards.bracket, int(wildcards.rung))
    ]


def trained(cohorts):
    """Return the training records of the arms in cohorts."""
    return [
        layout.acc(arm, rung)
        for folder, rung in cohorts
        for arm in cohort(folder, rung)["arms"]
    ]


def evidence(wildcards):
    """Return the records of the arms in the cohorts that a decision depends on."""
    return trained(search.below(wildcards.bracket, int(wildcards.rung)))


def finalist_arms():
    """Return the finalists, once they are known."""
    return cohort(search.finalists_folder, search.top_rung)["arms"]


def finalists(wildcards):
    """Return the measurements of the finalists."""
    return [layout.serving(arm) for arm in finalist_arms()]


def served(file):
    """Return an input function for this file of every arm that an engine is to measure."""

    def files(wildcards):
        finalist_arms()
        with refuse():
            return [file(arm) for arm in session.to_measure(int(wildcards.engine))]

    return files


def measured_servings(wildcards):
    """Return the folder of the records of the engine that measures an arm."""
    finalist_arms()
    with refuse():
        return filed.servings.format(engine=session.engine_of(wildcards.arm))


def all_records(wildcards):
    """Return the records of every training and measurement of the search and of its contest."""
    measured = [*finalists(wildcards), layout.serving(search.standing.id)]
    return trained(search.cohorts) + contest_proxies(wildcards) + measured


def finalist_records(wildcards):
    """Return the records of the finalists, as plain data."""
    return [record(arm) for arm in finalist_arms()]


def contest():
    """Return the fresh arms of both sides, once the champion has been chosen."""
    checkpoints.choose_champion.get()
    with refuse():
        return session.standing.contest()


def contest_heads(wildcards):
    """Return the heads of the verdict's arms in the order in which they are measured."""
    return [layout.head(arm.id) for _, arm in contest().order()]


def contest_proxies(wildcards):
    """Return the training records of the verdict's arms in the order in which they are measured."""
    return [layout.acc(arm.id, search.top_rung) for _, arm in contest().order()]


def contest_records(wildcards):
    """Return the records of the verdict's arms, as plain data."""
    return [arm.record() for arm in contest().arms.values()]


def record(arm):
    """Return the record of an arm by its id, as plain data."""
    with refuse():
        return session.entry(arm)[0].record()


def arm_record(wildcards):
    """Return the record of the arm that is trained, as plain data."""
    return record(wildcards.arm)


def state_below(wildcards):
    """Return the arm's state to resume from, nothing without one."""
    with refuse():
        return session.state_below(wildcards.arm, int(wildcards.rung))
