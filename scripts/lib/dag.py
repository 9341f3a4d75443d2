"""Changes to Snakemake's job graph: finished work is not run again, and no job is forgotten.

They use internals of Snakemake 9.27, listed in docs/architecture.md. docs/upstream/ gives the reasons.
"""

from collections.abc import Callable
from typing import Any

from snakemake.dag import DAG
from snakemake.scheduling.job_scheduler import JobScheduler

from lib.errors import UserError
from lib.script import here

Judge = Callable[[str], bool | None]
"""Whether the file or folder at a path stands. True: it is kept regardless of its age. False: it belongs to something else and is made
again. None: it does not exist, or Snakemake decides."""

_handle_error = JobScheduler._handle_error
_update_needrun = DAG.update_needrun


def retry_always() -> None:
    """Retry a failed job that has retries left even if a checkpoint finishes meanwhile."""

    def handle_error(scheduler: Any, job: Any, postprocess_job: bool = True) -> None:
        scheduler.workflow.dag._running.discard(job)
        _handle_error(scheduler, job, postprocess_job)

    JobScheduler._handle_error = handle_error


def let_stand(judge: Judge) -> None:
    """Keep a job whose outputs all stand. Changed inputs do not rerun it, and its inputs need not exist.

    A job with an output that must be made again is forced. Jobs that the user forces do not stand. A job with only temporary outputs
    stands with the jobs that depend on it, and if it is forced they do not stand either.
    """
    standing: set[Any] = set()

    def look(dag: Any) -> set[Any]:
        for job in dag.jobs:
            if job in standing or dag.finished(job) or dag.is_running(job):
                continue
            if is_forced(dag, job) or any(is_temporary(above) and is_forced(dag, above) for above in dag.dependencies[job]):
                continue
            answers = {judge(str(here(path))) for path in job.output}
            if answers == {True}:
                standing.add(job)
            elif False in answers:
                dag.forcefiles.update(job.output)
        stand = {job for job in dag.jobs if job in standing and not dag.finished(job)}
        return stand | {job for job in dag.jobs if not dag.is_running(job) and serves_only(dag, job, stand)}

    def is_forced(dag: Any, job: Any) -> bool:
        return job.rule in dag.forcerules or not dag.forcefiles.isdisjoint(job.output)

    def is_temporary(job: Any) -> bool:
        return bool(job.temp_output) and job.temp_output >= set(job.output)

    def serves_only(dag: Any, job: Any, stand: set[Any]) -> bool:
        """Return whether all outputs of a job are temporary, and only jobs that stand depend on it."""
        temporary = is_temporary(job) and job.rule not in dag.forcerules
        return bool(temporary and dag.depending[job] and stand.issuperset(dag.depending[job]) and not dag.finished(job))

    async def update_needrun(dag: Any, create_inventory: bool = False) -> None:
        """Mark the standing jobs as finished and hide their dependencies, so no rerun propagates to or through them."""
        stand = look(dag)
        edges = [(dag.depending[above], job) for job in stand for above in dag.dependencies[job]]
        cut = [(depending, job, depending.pop(job)) for depending, job in edges]
        dag._finished |= stand
        try:
            await _update_needrun(dag, create_inventory)
        finally:
            dag._finished -= stand
            for depending, job, files in cut:
                depending[job] = files
        dag._len = len(dag._finished | dag._needrun)

    DAG.update_needrun = update_needrun


def keep_copies() -> None:
    """Keep the local copy of a file in a bucket until a job has made the file again.

    Snakemake removes the copy as soon as a checkpoint finishes, even in a dry run and for a report. Its cache then still lists the file as
    present and write-protected, which raises ProtectedOutputException.
    """

    async def keep(_: Any) -> None:
        pass

    DAG.sanitize_local_storage_copies = keep


def require_made(workflow: Any) -> None:
    """Raise UserError unless every job ran and every requested file exists. Called when Snakemake reports success."""

    async def missing() -> list[str]:
        left = [job for job in workflow.dag.needrun_jobs() if job.output]
        asked = [path for job in workflow.dag.targetjobs for path in job.output or job.input if path not in job.temp_output]
        return [
            *(str(here(path)) for job in left for path in job.output),
            *[str(here(path)) for path in asked if not await path.exists()],
        ]

    if unmade := list(dict.fromkeys(workflow.async_run(missing()))):
        raise UserError(
            f"the run ended, but {unmade[0]} and {len(unmade) - 1} more files were not made; run the same command again to resume"
        )
