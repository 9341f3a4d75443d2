"""What Snakemake's graph of jobs does differently here: finished work stands, and no job is forgotten.

All of it leans on the inside of Snakemake 9.27, as docs/architecture.md lists; docs/upstream/ says why.
"""

from collections.abc import Callable
from typing import Any

from snakemake.dag import DAG
from snakemake.scheduling.job_scheduler import JobScheduler

from lib.errors import UserError
from lib.script import here

Judge = Callable[[str], bool | None]
"""Whether the file or folder at a path stands: True, it is not made again whatever its age; False, it is of something else and is made
again; None, it is not there or Snakemake may decide."""

_handle_error = JobScheduler._handle_error
_update_needrun = DAG.update_needrun


def retry_always() -> None:
    """Let a failed job that has retries left be started again although a checkpoint finishes meanwhile."""

    def handle_error(scheduler: Any, job: Any, postprocess_job: bool = True) -> None:
        scheduler.workflow.dag._running.discard(job)
        _handle_error(scheduler, job, postprocess_job)

    JobScheduler._handle_error = handle_error


def let_stand(judge: Judge) -> None:
    """Let a job stand whose outputs all stand: nothing that happens to its inputs has it done again, and its inputs need not be there.

    A job with an output that must be made again is forced. What a user forces does not stand.
    """
    standing: set[Any] = set()

    def look(dag: Any) -> set[Any]:
        for job in dag.jobs:
            if job in standing or dag.finished(job) or dag.is_running(job):
                continue
            if job.rule in dag.forcerules or not dag.forcefiles.isdisjoint(job.output):
                continue
            answers = {judge(str(here(path))) for path in job.output}
            if answers == {True}:
                standing.add(job)
            elif False in answers:
                dag.forcefiles.update(job.output)
        return {job for job in dag.jobs if job in standing and not dag.finished(job)}

    async def update_needrun(dag: Any, create_inventory: bool = False) -> None:
        """Hide the standing jobs as finished, and that they depend on anything: nothing spreads to them, nor through them."""
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
    """Let the local copy of a file in a bucket be until the job that makes it anew has done so.

    Snakemake removes it as soon as a checkpoint has been taken, even in a dry run and for a report. From its cache it then believes that a
    file is there which may not be written: ProtectedOutputException.
    """

    async def keep(_: Any) -> None:
        pass

    DAG.sanitize_local_storage_copies = keep


def require_made(workflow: Any) -> None:
    """Raise UserError unless every job has been done and every requested file is there. It is asked when Snakemake reports success."""

    async def missing() -> list[str]:
        left = [job for job in workflow.dag.needrun_jobs() if job.output]
        return [
            *(str(here(path)) for job in left for path in job.output),
            *[str(here(path)) for job in workflow.dag.targetjobs for path in job.output or job.input if not await path.exists()],
        ]

    if unmade := list(dict.fromkeys(workflow.async_run(missing()))):
        raise UserError(
            f"the run ended, but {unmade[0]} and {len(unmade) - 1} more files were not made; the same command goes on from here"
        )
