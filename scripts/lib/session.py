"""The session of a Snakemake process: checked configuration, location and state of results/, and messages."""

import atexit
import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from snakemake.logging import logger

from lib.arm import Arm
from lib.config import Streaming, parse_config
from lib.controller import hold_results
from lib.dag import keep_copies, let_stand, require_made, retry_always
from lib.devices import gpus, require_devices
from lib.errors import UserError, without_credentials
from lib.experiment import Experiment, load_experiment, verdict_files, waits_for_records
from lib.files import digest
from lib.invocation import executor_settings, read_arguments, tell_local_jobs
from lib.process import identity
from lib.reading import parse_yaml, read_yaml, shown
from lib.records import layout
from lib.records.layout import VerdictFiles
from lib.remote import bring_records, carried_files, claim_home, find_other_home, one_line, require_folder, stream_there
from lib.report.plan import format_plan, make_plan
from lib.report.progress import Progress
from lib.report.terminal import narrate
from lib.script import CONTROLLER, ENVIRONMENT
from lib.search.decisions import Decisions
from lib.search.work import Pace
from lib.serving.engine import load_engine
from lib.serving.vllm.engine import require_installed
from lib.spending import require_jobs_acknowledged, tell_job
from lib.standing import Standing
from lib.target.load import TRUST


@dataclass(frozen=True)
class Session:
    """One Snakemake process with one configuration.

    `views` maps names that every configuration has to this one's files. `pace` is known after a first measurement. `elsewhere` is whether
    jobs run on other machines, or this process is a job on one. `forced` returns
    the rules and files that the user forces. Snakemake knows them once it has read the workflow.
    """

    experiment: Experiment
    filed: VerdictFiles
    plan: str
    views: dict[str, str]
    standing: Standing
    decisions: Decisions
    pace: Pace | None
    progress: Progress
    gpus: int
    elsewhere: bool
    streaming: Streaming
    store: Any
    prefix: str
    forced: Callable[[], set[str]] = set

    def start(self, workflow: Any) -> None:
        """Lock the results tree for this run.

        Raises:
            UserError: another run holds it, vLLM or devices are missing, or spending on other machines is not acknowledged.
        """
        require_jobs_acknowledged(workflow, self.experiment.config)
        if not self.elsewhere:
            require_devices("serving.tensor_parallel x data_parallel", self.experiment.config.serving.devices)
        if not self.store:
            require_installed()
        hold_results(Path(layout.RESULTS))
        os.environ[CONTROLLER] = identity()
        logger.info(self.progress.opening())

    @property
    def made_target(self) -> list[str]:
        """The target as an input, empty if the configuration names it.

        What the configuration names is no input. Its content is part of every name, and only jobs may have its volume mounted.
        """
        return [] if self.experiment.config.target.path else [self.experiment.target]

    def pull(self) -> None:
        """Download new files of the jobs if results/ is in a bucket."""
        if self.store:
            self.store.pull(self.prefix)

    def succeed(self, workflow: Any) -> None:
        """Log the outcome. Raises UserError when a requested file is missing."""
        from lib.report.outcome import last_words  # imports scipy and pyarrow, which this process otherwise does not need

        self.pull()
        require_made(workflow)
        for line in last_words(Path(), self.filed, self.experiment.config.publish):
            logger.info(line)

    def fail(self, logs: list[str]) -> None:
        """Log the path of Snakemake's log."""
        self.pull()
        logger.info(f"Snakemake's own log: {', '.join(logs)}")

    def entry(self, arm: str) -> tuple[Arm, int]:
        """Return an arm by its id and the rung at which it starts. The verdict's arms start at the top rung.

        Raises:
            UserError: the arm belongs neither to this search nor to the contest of its champion.
        """
        try:
            return self.decisions.entry(arm)
        except UserError:
            fresh = self.standing.contest().arms if self.standing.there(self.filed.champion) else {}
            if arm not in fresh:
                raise
            return fresh[arm], self.experiment.search.top_rung

    def state_below(self, arm: str, rung: int) -> str | list[str]:
        """Return the arm's state from which the training to a rung resumes, an empty list without one.

        It is of the rung below or, if the arm enters at this rung, of the highest lower rung on disk. Raises UserError as `entry` does.
        """
        _, first = self.entry(arm)
        if rung > first:
            return layout.state(arm, rung - 1)
        states = (layout.state(arm, lower) for lower in reversed(range(rung)) if self.standing.trained_head(arm, lower))
        return next(filter(self.standing.there, states), [])

    @property
    def retries(self) -> int:
        """How often a failed job is tried again, for example when its node went down. A failed arm is a result, not a failed job."""
        return 3 if self.elsewhere else 1

    def training_seconds(self, pace: Pace, wildcards: Any) -> float:
        """Return the device-seconds of a rung, on top of the rung below."""
        _, first = self.entry(wildcards.arm)
        rung, caps = int(wildcards.rung), self.experiment.space.rungs.samples
        return pace.per_job + pace.per_sample * (caps[rung] - (caps[rung - 1] if rung > first else 0))

    def finalists(self) -> list[str]:
        """Return the arms of the finalists. Raises UserError before the decision on them."""
        search = self.experiment.search
        return list(self.decisions[search.finalists_folder, search.top_rung]["arms"])

    def engine_of(self, arm: str) -> int:
        """Return the number of the engine that measures an arm. Raises UserError when none does."""
        shares = self.experiment.search.shares(self.finalists(), self.filed.engines)
        found = next((number for number, share in enumerate(shares) if arm in share), None)
        if found is None:
            raise UserError(f"{arm} is not measured, only the finalists and the standing configuration are; raise serving.top_k")
        return found

    def to_measure(self, engine: int) -> list[str]:
        """Return the arms of an engine that are forced or have no measurement that stands, without any all of them."""
        share = self.experiment.search.shares(self.finalists(), self.filed.engines)[engine]
        forced = self.forced()
        if forced & {"measure_serving", "file_serving", self.filed.servings.format(engine=engine)}:
            return share
        return [arm for arm in share if layout.serving(arm) in forced or not self.standing(layout.serving(arm))] or share

    def preflight_seconds(self, pace: Pace, _: Any) -> float:
        """Return the device-seconds of one start of the engine."""
        return pace.per_start or pace.per_serving

    def serving_seconds(self, pace: Pace, wildcards: Any) -> float:
        """Return the device-seconds of the measurements of one engine, with its start and its check."""
        return pace.per_start + pace.per_serving * (len(self.to_measure(int(wildcards.engine))) + 1)

    def contest_seconds(self, pace: Pace, _: Any) -> float:
        """Return the device-seconds of the verdict's measurements."""
        return pace.per_start + (2 * self.experiment.config.verdict.seeds + 1) * (pace.per_contest or pace.per_serving)

    def takes(self, spends: str, count: int, seconds: Callable[[Pace, Any], float] | None = None) -> dict[str, Any]:
        """Return the resources of a job.

        Args:
            spends: the acknowledgement that a cluster requires, `train` or `serve`.
            count: number of GPUs on a machine that has any. On a cluster the profile sets the resources of each rule.
            seconds: the device-seconds of a job by pace and wildcards, shown when asking for the acknowledgement.
        """
        resources: dict[str, Any] = {"spends": spends} | ({"gpu": count} if self.gpus else {})
        if seconds and (pace := self.pace):
            resources["device_hours"] = lambda wildcards: f"{seconds(pace, wildcards) / 3600:.4g}"
        return resources


def open_session(workflow: Any, values: dict[str, Any]) -> Session:
    """Check a configuration and set Snakemake up for it. It writes only the mark of a bucket in results/.

    Checks that do not need the bucket come first. A dry run and a report never connect to it.

    Args:
        workflow: Snakemake's workflow, while it reads the Snakefile.
        values: its configuration.

    Raises:
        UserError: a fault of configuration, bucket or budget, one line per fault.
    """
    main, output = workflow.is_main_process, workflow.output_settings
    store, prefix = workflow.storage_registry.default_storage_provider, workflow.storage_settings.default_storage_prefix
    home = Path("results"), without_credentials(prefix, "default-storage-prefix") if store else None  # None: on this disk only
    looks, owner = output.dryrun, None
    if main:
        arguments = read_arguments()
        looks = looks or bool(arguments.report and not arguments.report_after_run)
        tell_local_jobs(arguments)
        for file in workflow.configfiles:  # Snakemake merges them and keeps the last of repeated keys
            read_yaml(Path(file), str(file), "write {key: value}")
        for key, _, text in (argument.partition("=") for argument in sys.argv):
            if key in workflow.config_settings.config and text.startswith("{"):
                parse_yaml(text, f"--config {key}={shown(text)}", "write {key: value}")
    awaited = bool(store) and waits_for_records(parse_config(values))
    experiment = None if awaited else _load(workflow, values, looks=looks)
    if main and not looks:
        if store:
            require_folder(prefix)
            owner = _owner(executor_settings(arguments))
        claim_home(*home)
    if store:
        bring_records(store, prefix, owner, offline=looks, follow=main)
    experiment = experiment or _load(workflow, values, looks=looks)
    config, filed = experiment.config, verdict_files(experiment)
    plan_file = f"results/search/plan-{digest([filed.verdict, config.model_dump(include={'budget', 'cost'})])}.json"
    pace = None
    if main:
        plan = make_plan(experiment, Path())
        pace = Pace(**plan["pace"]) if plan["pace"] else None
        if output.dryrun:
            other = find_other_home(*home)
            lines = [f"A run would be refused: {other}"] if other else []
            # Printed last, after hundreds of lines of Snakemake's.
            atexit.register(partial(print, "", *lines, *experiment.provisional, format_plan(plan), sep="\n", file=sys.stderr))
    if config.ack_publish:
        from lib.publish.publication import require_acknowledged  # imports pyarrow, which few runs need here

        require_acknowledged(Path(filed.verdict), config.ack_publish)
    progress = Progress(experiment, filed, Path())
    if main and not (output.dryrun or output.verbose or output.quiet):
        narrate(workflow.logger_manager, progress)
    views = {
        layout.PLAN: plan_file,
        layout.CHAMPION: filed.champion,
        layout.VERDICT: filed.verdict,
        layout.HANDOFF: filed.handoff,
    }
    elsewhere = bool(workflow.resource_settings.nodes) or workflow.remote_exec
    there = store.knows if store else os.path.exists
    standing = Standing(experiment, filed, views, there, server=partial(_server, workflow, config.serving.engine, elsewhere=elsewhere))
    decisions = Decisions(experiment.search, Path())
    taken = _set_up(workflow, standing, elsewhere=elsewhere)
    streaming = stream_there(config.streaming, prefix) if store else config.streaming
    return Session(
        experiment,
        filed,
        plan_file,
        views,
        standing,
        decisions,
        pace,
        progress,
        taken,
        elsewhere,
        streaming,
        store,
        prefix,
        partial(_forced, workflow),
    )


def _forced(workflow: Any) -> set[str]:
    settings = workflow.dag_settings
    return {*map(str, settings.forcerun), *(["measure_serving"] if settings.forceall else [])}


def _load(workflow: Any, values: dict[str, Any], *, looks: bool) -> Experiment:
    """Return the experiment of a configuration. If results/ is in a bucket, jobs get the files that it names."""
    experiment = load_experiment(values, provisional=looks)
    if workflow.is_main_process and workflow.storage_registry.default_storage_provider:
        workflow.configfiles += carried_files(experiment)
    return experiment


def _owner(settings: Any) -> str | None:
    """Return run and workstream in words, if the executor knows them. Raises UserError when its settings are wrong."""
    from snakemake_executor_plugin_kubernetes_experiment import ExecutorSettings, check_settings  # not needed in jobs

    if not isinstance(settings, ExecutorSettings):
        return None
    with one_line():
        return check_settings(settings)[0].owner


def _server(workflow: Any, engine: str, *, elsewhere: bool) -> dict[str, Any]:
    """Return what serves: the distributions of this machine, or the image of jobs on other machines if the profile names one."""
    if not elsewhere:
        return {"stack": load_engine(engine).installed()}
    image = workflow.get_rule("preflight").resources.get("image")
    return {"image": str(image.raw).strip("\"'")} if image else {}  # raw text may be quoted


def _set_up(workflow: Any, standing: Standing, *, elsewhere: bool) -> int:
    """Tell Snakemake what jobs need and what stands. Return the number of GPUs of this machine that jobs may use."""
    gc.set_threshold(100_000)  # the objects of a job graph live to the end; looking through them takes a sixth of a large dry run
    os.environ.update(ENVIRONMENT, **{TRUST: str(int(standing.experiment.config.target.trust_remote_code))})
    retry_always()
    keep_copies()
    let_stand(standing)
    if workflow.resource_settings.nodes:
        workflow.register_resource("_cores", sys.maxsize)  # jobs run elsewhere, so the cores of this machine do not limit them
    if workflow.remote_exec:
        tell_job(standing.experiment.config)
    local = 0 if elsewhere else len(gpus())
    if local and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", local)
    return local
