"""Acknowledgement of training and serving on other machines by the run id, checked before submission and again in the job.

The executor kubernetes-experiment gets the id as a setting and checks by itself. For other executors it is a configuration key.
"""

import os
from typing import Any

from lib.config import Config
from lib.errors import UserError

RUN_ID = "SPEC_DECODE_TUNE_RUN_ID"
"""Environment variable with the run id in jobs on other machines. No other process has it."""

ACKNOWLEDGED = {"train": "SPEC_DECODE_TUNE_ACK_TRAIN", "serve": "SPEC_DECODE_TUNE_ACK_SERVE"}
"""Environment variables with the acknowledged run id for each kind of spending."""


def tell_job(config: Config) -> None:
    """Pass the acknowledgements to jobs on other machines, unless the executor has done so."""
    if RUN_ID not in os.environ:
        given = {name: getattr(config, f"ack_{spends}") or "" for spends, name in ACKNOWLEDGED.items()}
        os.environ |= {RUN_ID: config.run_id or "", **given}


def require_acknowledged(spends: str | None) -> None:
    """Raise UserError in a job on another machine that spends without acknowledgement."""
    run_id = os.environ.get(RUN_ID)
    if run_id is None or spends is None:
        return
    given = os.environ.get(ACKNOWLEDGED[spends], "")
    if not run_id or given != run_id:
        raise UserError(f"ack_{spends} = {given!r} does not acknowledge run_id = {run_id!r}; start the run with ack_{spends}={run_id}")


def require_jobs_acknowledged(workflow: Any, config: Config) -> None:
    """Refuse a run whose jobs on other machines spend without acknowledgement. An executor that knows the run id has checked it already.

    Args:
        workflow: Snakemake's workflow, about to run jobs.
        config: the configuration.

    Raises:
        UserError: one line with the jobs, their cost, and the key that acknowledges them.
    """
    # Imported here because jobs import this module too and do not need the plugin.
    from snakemake_executor_plugin_kubernetes_experiment.spending import acknowledged, refusal

    if workflow.local_exec or hasattr(workflow.executor_settings, "run_id"):
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    if refused := refusal(jobs, acknowledged(config.model_dump()), config.run_id or ""):
        raise UserError(refused)
