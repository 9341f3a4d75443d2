"""On other machines what trains and what serves is acknowledged by the id of the run, before it is submitted and again in the job.

The executor kubernetes-experiment is told the id by a setting, and asks by itself; for every other one it is a key of the configuration.
"""

import os
from typing import Any

from lib.config import Config
from lib.errors import UserError

RUN_ID = "SPEC_DECODE_TUNE_RUN_ID"
"""Environment variable that names the run to its jobs on other machines; no other process has it."""

ACKNOWLEDGED = {"train": "SPEC_DECODE_TUNE_ACK_TRAIN", "serve": "SPEC_DECODE_TUNE_ACK_SERVE"}
"""Environment variables that tell such a job for which run each kind of spending is acknowledged."""


def tell_job(config: Config) -> None:
    """Tell a job on another machine what is acknowledged, unless its executor has done so."""
    if RUN_ID not in os.environ:
        given = {name: getattr(config, f"ack_{spends}") or "" for spends, name in ACKNOWLEDGED.items()}
        os.environ |= {RUN_ID: config.run_id or "", **given}


def require_acknowledged(spends: str | None) -> None:
    """Refuse to spend in a job on another machine for a run that has not acknowledged it. Raises UserError."""
    run_id = os.environ.get(RUN_ID)
    if run_id is None or spends is None:
        return
    given = os.environ.get(ACKNOWLEDGED[spends], "")
    if not run_id or given != run_id:
        raise UserError(f"ack_{spends} = {given!r} does not acknowledge run_id = {run_id!r}; start the run with ack_{spends}={run_id}")


def require_jobs_acknowledged(workflow: Any, config: Config) -> None:
    """Refuse a run whose jobs on other machines would spend what is not acknowledged. An executor that knows the run's id has done so.

    Args:
        workflow: Snakemake's workflow, about to run jobs.
        config: the configuration.

    Raises:
        UserError: says in one line what would run and at what cost, and what lets it.
    """
    # Snakemake has loaded it with all other plugins; jobs, which import this module as well, need it not.
    from snakemake_executor_plugin_kubernetes_experiment.spending import acknowledged, refusal

    if workflow.local_exec or hasattr(workflow.executor_settings, "run_id"):
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    if refused := refusal(jobs, acknowledged(config.model_dump()), config.run_id or ""):
        raise UserError(refused)
