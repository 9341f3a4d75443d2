"""Glue: the session of this process, and input functions named for what they return."""

import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lib.controller import refuse
from lib.experiment import describe_bench
from lib.features.description import fingerprints
from lib.records import layout
from lib.search.decisions import places
from lib.session import open_session

with refuse():
    session = open_session(workflow, config)

experiment, filed, views = session.experiment, session.filed, session.views
settings, search = experiment.config, experiment.search
decisions, takes = session.decisions, session.takes

# How often a job is done again that its node has taken down; an arm that fails is a result.
attempts_more = 3 if session.elsewhere else 1

# What the configuration names is no rule's input: its content is part of every name, and it may lie on a volume that only the jobs mount.
made_target = [] if settings.target.path else [experiment.target]
made_prompts = (
    [] if settings.serving.workload.path else list(experiment.subsets.values())
)


wildcard_constraints:
    arm=r"gb[^/]+",
    bracket=r"[^/]+",
    rung=r"\d+",
    split="train|heldout",
    view="|".join(Path(view).name for view in views),


def target_folder(wildcards):
    """Return the folder of the target, made by a rule or named by the configuration."""
    return experiment.target


@cache
def cohort(folder, rung):
    """Return the decision that says which arms train to a rung, once it and those that it rests on have been taken."""
    for below in search.below(folder, int(rung)):
        cohort(*below)
    checkpoints.decide_cohort.get(bracket=folder, rung=rung)
    with refuse():
        return decisions[folder, int(rung)]


def decisions_below(wildcards):
    """Return the decisions that a decision waits for. Naming them all at once lets every bracket run beside the others."""
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
    """Return the records of the arms in the cohorts a decision rests on."""
    return trained(search.below(wildcards.bracket, int(wildcards.rung)))


def finalists(wildcards):
    """Return the measurements of the arms that the search put forward."""
    arms = cohort(search.finalists_folder, search.top_rung)["arms"]
    return [layout.serving(arm) for arm in arms]


def all_records(wildcards):
    """Return the records of every training and measurement of the search and of its contest."""
    cohorts = [place for place in places(search) if place[0] != search.finalists_folder]
    measured = [*finalists(wildcards), layout.serving(search.standing.id)]
    return trained(cohorts) + contest_proxies(wildcards) + measured


def finalist_records(wildcards):
    """Return what the finalists stand for, as plain data."""
    arms = cohort(search.finalists_folder, search.top_rung)["arms"]
    return [entry(arm)[0].record() for arm in arms]


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
    """Return what the verdict's arms stand for, as plain data."""
    return [arm.record() for arm in contest().arms.values()]


def entry(arm):
    """Return an arm by its id and the rung at which it enters the ladder."""
    with refuse():
        return session.entry(arm)


def arm_record(wildcards):
    """Return what an arm stands for, as plain data."""
    arm, _ = entry(wildcards.arm)
    return arm.record()


def state_below(wildcards):
    """Return the arm's own state to resume from: of the rung below, or when the arm enters here, of any lower rung on disk."""
    arm, rung = wildcards.arm, int(wildcards.rung)
    _, first = entry(arm)
    if rung > first:
        return layout.state(arm, rung - 1)
    for lower in reversed(range(rung)):
        state = layout.state(arm, lower)
        if session.standing.trained_head(arm, lower) and session.standing.there(state):
            return state
    return []
