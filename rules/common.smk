"""Glue: the checked configuration, and input functions named for what they return."""

import atexit
import os
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lib.controller import hold_results, refresh_view, refuse, withdraw
from lib.devices import gpus
from lib.errors import UserError, without_credentials
from lib.experiment import load_experiment
from lib.files import digest, read_json
from lib.remote import (
    bring_records,
    carried_files,
    claimed_home,
    find_other_home,
    stream_there,
)
from lib.report.plan import format_plan, make_plan
from lib.report.progress import Progress
from lib.report.terminal import narrate
from lib.script import CONTROLLER, ENVIRONMENT
from lib.records import layout
from lib.process import identity
from lib.search.decisions import Decisions
from lib.search.work import Pace
from lib.serving.vllm.engine import require_installed
from lib.target.load import TRUST
from lib.spending import require_jobs_acknowledged, tell_job
from lib.verdict.champion import Champion
from lib.verdict.contest import make_contest
from lib.verdict.package import handed_over
from lib.publish.publication import require_acknowledged
from lib.experiment import verdict_files
from lib.records.measurement import read_record
from snakemake.logging import logger

# None: results/ lies on this disk alone.
store = workflow.storage_registry.default_storage_provider
prefix = workflow.storage_settings.default_storage_prefix
dry = workflow.output_settings.dryrun

with refuse():
    home = Path("results"), (
        without_credentials(prefix, "default-storage-prefix") if store else None
    )
    with claimed_home(*home) if workflow.is_main_process and not dry else nullcontext():
        if store:
            bring_records(store, prefix, offline=dry, follow=workflow.is_main_process)
    if store and not dry:
        stream_there(config, prefix)
    experiment = load_experiment(config, provisional=dry)
    if workflow.is_main_process:
        plan = make_plan(experiment, Path())
        if dry:
            other = find_other_home(*home)
            # At the end, where it is read: hundreds of lines of Snakemake's come before.
            atexit.register(
                print,
                "",
                *([f"A run would be refused: {other}"] if other else []),
                *experiment.provisional,
                format_plan(plan),
                sep="\n",
                file=sys.stderr,
            )
        if store:
            workflow.configfiles += carried_files(experiment)


# Jobs run on other machines, or this process is one of theirs.
elsewhere = bool(workflow.resource_settings.nodes) or workflow.remote_exec
if workflow.resource_settings.nodes:
    # The cores of this machine bound none of them.
    workflow.register_resource("_cores", sys.maxsize)
local_gpus = [] if elsewhere else gpus()
if local_gpus and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(local_gpus))

settings = experiment.config
os.environ |= ENVIRONMENT | {TRUST: str(int(settings.target.trust_remote_code))}
if workflow.remote_exec:
    tell_job(settings)
search = experiment.search
decisions = Decisions(search, Path())
filed = verdict_files(experiment)
plan_file = f"results/search/plan-{digest([filed.verdict, settings.model_dump(include={'budget', 'cost'})])}.json"

pace = Pace(**plan["pace"]) if workflow.is_main_process and plan["pace"] else None
progress = Progress(experiment, filed, Path())

if settings.ack_publish:
    with refuse():
        require_acknowledged(Path(filed.verdict), settings.ack_publish)

output = workflow.output_settings
if workflow.is_main_process and not (dry or output.verbose or output.quiet):
    narrate(workflow.logger_manager.get_log_handlers(), progress)


# How often a job is done again that its node has taken down; an arm that fails is a result.
attempts_more = 3 if elsewhere else 1


wildcard_constraints:
    arm=r"gb[^/]+",
    bracket=r"[^/]+",
    rung=r"\d+",
    split="train|heldout",


# What the configuration names is no rule's input: its content is part of every name, and it may lie on a volume that only the jobs mount.
made_target = {} if settings.target.path else {"target": experiment.target}


def takes(spends, count, seconds=None):
    """Return the resources of a job: what it spends, which a cluster must be told to allow, and on a machine with GPUs how many it takes.

    `seconds` returns for the pace known so far and a job's wildcards how many device-seconds it spends, for the question before. On a
    cluster the profile says what a node gives to which rule.
    """

    def device_hours(wildcards):
        return f"{seconds(pace, wildcards) / 3600:.4g}" if pace else None

    resources = {"spends": spends} | ({"gpu": count} if local_gpus else {})
    return resources | ({"device_hours": device_hours} if seconds else {})


def training_seconds(pace, wildcards):
    """Return the device-seconds of a rung, on top of the rung below."""
    arm, first = entry(wildcards.arm)
    rung, caps = int(wildcards.rung), search.space.rungs.samples
    before = caps[rung - 1] if rung > first else 0
    return pace.per_job + pace.per_sample * (caps[rung] - before)


def contest_seconds(pace, wildcards):
    """Return the device-seconds of the verdict's measurements."""
    return 2 * settings.verdict.seeds * (pace.per_contest or pace.per_serving)


def there(path):
    """Return whether a file or a whole directory is there: in the bucket, if results/ lies in one, otherwise on this disk."""
    return store.knows(path) if store else Path(path).exists()


@cache
def refresh_views():
    """Bring copies of what is filed, under names that configurations share, up to date where another configuration has left its own.

    What this one has not filed yet goes, so that its rule runs again.
    """
    refresh_view(Path(filed.champion), Path("results/champion.json"))
    refresh_view(Path(filed.verdict), Path("results/verdict.json"))
    if there(filed.handoff):  # until then the last one says what to try next
        refresh_view(Path(filed.handoff), Path("results/HANDOFF.md"))
    refresh_view(Path(plan_file), Path("results/plan.json"))
    folder = "results/champion"
    if there(folder) and not handed_over(Path(folder), Path(filed.verdict), there):
        withdraw(Path(folder))
        # On a cluster nothing is touched before it is acknowledged; the executor has not looked yet.
        if store and getattr(workflow.executor_settings, "ack_serve", True):
            store.object(f"{prefix}/{folder}").remove()


def views(wildcards):
    """Return those copies. Snakemake asks before it looks what is missing; unless it is to run jobs, they are left as they are."""
    if workflow.is_main_process and workflow.execution_settings and not dry:
        refresh_views()
    return [
        f"results/{name}"
        for name in (
            "plan.json",
            "champion.json",
            "verdict.json",
            "champion",
            "HANDOFF.md",
        )
    ]


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
            else all(there(path.format(**wildcards)) for path in done)
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
    """Return whether an arm's head has been measured with the settings that are asked for now."""
    path = f"results/{wildcards.arm}/serving.json"
    try:
        record = read_json(Path(path))
        measured = record["asked"], record["head_sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # not there or not whole
        return False
    return there(path) and measured == (experiment.asked, trained_head(wildcards.arm))


def prompts(wildcards):
    """Return the files of the workload that rules make; those that the configuration names are no rule's."""
    return [] if settings.serving.workload.path else list(experiment.subsets.values())


def cohort(folder, rung):
    """Return the decision that says which arms train to a rung, once it has been taken."""
    checkpoints.decide_cohort.get(bracket=folder, rung=rung)
    with refuse():
        return decisions[folder, int(rung)]


def decisions_below(wildcards):
    """Return the decisions that a decision waits for. Naming them all at once lets every bracket run beside the others."""
    return [
        layout.decision(*place)
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
    champion = read_record(Path(filed.champion), Champion).as_arm()
    return make_contest(champion, search.standing, settings.verdict.seeds, search.id)


def contest():
    """Return the fresh arms of both sides, once the champion has been chosen."""
    checkpoints.choose_champion.get()
    with refuse():
        return filed_contest()


def contested(wildcards):
    """Return whether the verdict's measurements are there, of the heads of the champion there is now."""
    held = contest()
    try:
        servings = read_json(Path(filed.measurements))["servings"]
        measured = [(serving["arm"], serving["head_sha256"]) for serving in servings]
    except (OSError, ValueError, KeyError, TypeError):  # not there or not whole
        return False
    heads = [(arm.id, trained_head(arm.id)) for _, arm in held.order()]
    return there(filed.measurements) and measured == heads


def trained_head(arm, rung=search.top_rung):
    """Return the hash of the head that an arm has trained by a rung, None when it failed or has not trained so far."""
    try:
        return read_json(Path(f"results/{arm}/rung{rung}.acc"))["head_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
            fresh = filed_contest().arms if there(filed.champion) else {}
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
        state = f"results/{arm}/rung{lower}.state"
        if trained_head(arm, lower) and there(state):
            return state
    return []
