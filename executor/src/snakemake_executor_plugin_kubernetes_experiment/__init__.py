"""Snakemake's Kubernetes executor, made safe for experiments."""

import atexit
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snakemake.common import get_container_image
from snakemake_executor_plugin_kubernetes import Executor as StockExecutor
from snakemake_executor_plugin_kubernetes import ExecutorSettings as StockSettings
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

from .api import ApiError, Cluster, Object, check_kubeconfig
from .lease import HeldError, Lease
from .manifest import Task, draw, finish, make_task, redact, secret_manifest
from .names import COLLECTED, EXPERIMENT, JOB, RECIPE, WORKSTREAM, Experiment, make_experiment
from .patch import read_patch
from .spending import acknowledged, oversize, refusal
from .status import CONTAINER, Limits, Outcome, judge

LOG_PATIENCE = 10  # seconds to wait for the logs of pods


@dataclass
class ExecutorSettings(StockSettings):  # type: ignore[misc]
    """Settings of the stock executor and those of experiments."""

    run_id: str = field(default="", metadata={"help": "Id of this run. It names and labels all objects of the run. Required."})
    workstream: str = field(default="", metadata={"help": "Who runs it. It labels all objects of the run. Required."})
    slug: str = field(default="sdt", metadata={"help": "First part of the names of all objects."})
    pod_patch: str = field(default="", metadata={"help": "YAML file, merged strategically into the pod template of every Job."})
    gpus_per_node: int = field(default=0, metadata={"help": "GPUs of a node. A job that asks for more is refused. 0: unknown."})
    active_deadline: int = field(
        default=0, metadata={"help": "Seconds a pod may run on its node. A rule's resource runtime (minutes) comes first. 0: no limit."}
    )
    ttl: int = field(
        default=86400, metadata={"help": "Seconds after which the cluster deletes a finished Job that no controller has collected."}
    )
    image_pull_grace: int = field(default=300, metadata={"help": "Seconds to wait for an image that cannot be pulled. 0: no limit."})
    forbidden_limit: int = field(default=600, metadata={"help": "Seconds to wait for a pod that the cluster forbids. 0: no limit."})
    pending_limit: int = field(default=14400, metadata={"help": "Seconds to wait for a pod that cannot be scheduled. 0: no limit."})


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=False,  # Snakemake would upload them before the executor can refuse the run
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


def check_settings(settings: ExecutorSettings) -> tuple[Experiment, Object]:
    """Return experiment and pod patch of settings, without network access; raise ValueError with one line that states the fault.

    A kubeconfig is checked too.
    """
    experiment = make_experiment(settings.slug, settings.run_id, settings.workstream)
    patch = read_patch(Path(settings.pod_patch)) if settings.pod_patch else {}
    check_kubeconfig()
    return experiment, patch


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn any fault of the settings or the cluster into one line."""
    try:
        yield
    except (ValueError, HeldError) as error:
        raise WorkflowError(str(error)) from None
    except ApiError as error:
        raise WorkflowError(_explain(error)) from None


def _explain(error: ApiError) -> str:
    if error.status == 401:
        return "the cluster does not accept the credentials of the kubeconfig (401)"
    if error.status == 403:
        return f"no permission: {error}"
    if error.status == 404 and error.kind == "namespaces":
        return f"namespace missing: {error}"
    return f"Kubernetes: {error}"


class Executor(StockExecutor):  # type: ignore[misc]
    """Runs jobs as Kubernetes Jobs of one experiment. The experiment has one controller, and no Job is lost."""

    def __post_init__(self) -> None:
        """Check settings and jobs, take control, and find the Jobs that an earlier controller left."""
        settings = self.workflow.executor_settings
        image = self.workflow.remote_execution_settings.container_image
        self.namespace = settings.namespace
        self.k8s_cpu_scalar = settings.cpu_scalar
        self.k8s_service_account_name = settings.service_account_name
        self.privileged = settings.privileged
        self.persistent_volumes = settings.persistent_volumes
        self.container_image = image
        self.log_path = self.workflow.persistence.aux_path / "kubernetes-logs"
        self._image = None if image == get_container_image() else image
        self._limits = Limits(settings.image_pull_grace, settings.pending_limit, settings.forbidden_limit)
        self._ending = threading.Event()
        self._submitted = False
        self._interrupted = False  # by a signal
        self._leaving = False
        self._unsettled: list[tuple[Any, str]] = []
        self._numbers: dict[str, int] = defaultdict(int)
        self._left: dict[str, Object] = {}
        self._told: dict[str, str] = {}
        self._prepared = False
        with _one_line():
            self.experiment, self._patch = check_settings(settings)
            self._check([job for job in self.dag.needrun_jobs() if not job.is_local])
            self._cluster = Cluster(self.namespace)
            self._lease = Lease(self._cluster, self.experiment, self._lose, self.logger.warning)
            self._list_jobs()  # refuses a run id of another workstream before anything is written
            self._lease.acquire()
            atexit.register(lambda: self._lease.release(keep=bool(self._left)))
            self._find_left()
            self._claim_storage()
        self.run_namespace = self.experiment.secret  # the stock executor's name for it
        self.secret_envvars = {name: name for name in self.envvars()}
        self.logger.info(f"Run {self.experiment.run_id} of workstream {self.experiment.workstream}: {len(self._left)} Jobs found.")

    @property
    def _acknowledged(self) -> dict[str, str]:
        return acknowledged(self.workflow.config)

    def _check(self, jobs: list[Any]) -> None:
        """Raise ValueError if a job is not acknowledged, fits on no node, or has no image."""
        settings = self.workflow.executor_settings
        refused = refusal(jobs, self._acknowledged, settings.run_id) or oversize(jobs, settings.gpus_per_node) or self._imageless(jobs)
        if refused:
            raise ValueError(refused)

    def _imageless(self, jobs: list[Any]) -> str | None:
        """Return one line that names a rule without an image; None if every rule has one."""
        patched = any(each.get("image") for each in self._patch.get("spec", {}).get("containers", []) if each["name"] == CONTAINER)
        if self._image or patched:
            return None
        rule = next((job.name for job in jobs if not job.resources.get("image")), None)
        return rule and f"image not set for rule {rule}: pass --container-image, or set its resource image"

    def _list_jobs(self) -> list[Object]:
        """Return the Jobs of this run; refuse a run id that another workstream uses."""
        mine = self.experiment
        leases, jobs = (self._cluster.list(kind, f"{EXPERIMENT}={mine.run_id}") for kind in ("leases", "jobs"))
        for item in leases + jobs:
            theirs = item["metadata"]["labels"].get(WORKSTREAM)
            if theirs != mine.workstream:
                raise HeldError(f"run id {mine.run_id} belongs to workstream {theirs}, not to {mine.workstream}")
        return jobs

    def _claim_storage(self) -> None:
        """Refuse a storage place of another run, if the storage records owners."""
        store = self.workflow.storage_registry.default_storage_provider
        if hasattr(store, "claim"):
            store.claim(self.workflow.storage_settings.default_storage_prefix, self.experiment.owner)

    def _find_left(self) -> None:
        """Record the Jobs of an earlier controller, the latest one per task."""
        for job in self._list_jobs():
            writes, number = job["metadata"]["labels"].get(JOB, ""), int(re.sub(r".*\D", "", job["metadata"]["name"]) or 0)
            if number > self._numbers[writes]:
                self._numbers[writes], self._left[writes] = number, job

    def _lose(self, why: str) -> None:
        """Stop. `shutdown` deletes nothing if another controller has the experiment."""
        self._ending.set()
        self.workflow.scheduler.executor_error_callback(WorkflowError(why))

    # --- submission -------------------------------------------------------------------------------------------------

    def run_jobs(self, jobs: list[Any]) -> None:
        """Run jobs. Before the first one, create the Secret and upload the sources."""
        if not self._prepared:
            self._prepared = True
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, self._interrupt)
            with _one_line():
                self._register_secret()
            self.workflow.remote_execution_settings.job_deploy_sources = True
            self.workflow.upload_sources()
        super().run_jobs(jobs)

    def _interrupt(self, *_: Any) -> None:
        """Cancel the run as Snakemake does on Ctrl-C. Further signals do not interrupt the cancelling."""
        if not self._ending.is_set():
            self._interrupted = True
            self._ending.set()
            raise KeyboardInterrupt

    def _remind(self) -> None:
        """End the run if KeyboardInterrupt has not. Python drops an exception that a signal raises in a destructor or a GC callback."""
        if self._interrupted and not self._leaving:
            self.workflow.scheduler.executor_error_callback(WorkflowError("interrupted"))

    def _register_secret(self) -> None:
        secret = secret_manifest(self.experiment, self._lease.owner, self.envvars())
        try:
            self._cluster.create("secrets", secret)
        except ApiError as error:
            if error.status != 409:
                raise
            found = self._cluster.get("secrets", self.run_namespace)["metadata"].get("labels") or {}
            if not self.experiment.labels.items() <= found.items():
                raise HeldError(f"secret {self.run_namespace} exists and is not of this experiment") from None
            self._cluster.replace("secrets", secret)

    def run_job(self, job: Any) -> None:
        """Adopt the Job that already does this, or create one."""
        info = SubmittedJobInfo(job)
        try:
            self._check([job])
            info.aux = self._draw(job)
        except (ValueError, WorkflowError) as error:
            self._refuse(info, " ".join(str(error).split()))
            return
        try:
            if self._lease.confirm() and not self._attach(info):
                self._create(info)
        except ApiError as error:
            if not self._passes(error):
                self._refuse(info, _explain(error))
                return
            self.logger.warning(f"{info.aux['task'].rule}: not created yet, will try again: {error}")
        self._submitted = True
        self.report_job_submission(info)

    def _draw(self, job: Any) -> dict[str, Any]:
        """Return the task of a job and the manifest of its Job."""
        settings = self.workflow.executor_settings
        task = make_task(job)
        body = finish(
            draw(self, job),
            task,
            dict(job.resources),
            experiment=self.experiment,
            patch=self._patch,
            image=self._image,
            acknowledged=self._acknowledged,
            deadline=settings.active_deadline,
            ttl=settings.ttl,
        )
        return {"body": body, "task": task}

    def _refuse(self, info: SubmittedJobInfo, why: str) -> None:
        """Fail a job that cannot be created. If the run has no Job yet, end the run, because the others would fail alike."""
        if not (self._submitted or self._left):
            raise WorkflowError(why) from None
        self.report_job_error(info, msg=f"{why}. ")

    @staticmethod
    def _passes(error: ApiError) -> bool:
        return error.transient or (error.status == 403 and "exceeded quota" in str(error))

    def _attach(self, info: SubmittedJobInfo) -> bool:
        """Adopt the Job that an earlier controller left for a task, if it does the same and has not failed."""
        task: Task = info.aux["task"]
        left = self._left.get(task.writes)
        if left is None:
            return False
        name = left["metadata"]["name"]
        fits = self._fits(left, task)
        if not fits:
            self._cluster.delete("jobs", name)
        del self._left[task.writes]
        if fits:
            info.external_jobid = name
            self.logger.info(f"{task.rule}: re-attached to Job {name}")
        return fits

    def _fits(self, job: Object, task: Task) -> bool:
        return self._usable(job) and job["metadata"].get("annotations", {}).get(RECIPE) == task.recipe

    def _usable(self, job: Object) -> bool:
        outcome = judge(job, (), datetime.now(UTC), Limits(0, 0, 0))  # limits on waiting need its pods, which `_look` lists
        metadata = job["metadata"]
        return outcome.state != "failed" and "deletionTimestamp" not in metadata and COLLECTED not in metadata.get("annotations", {})

    def _create(self, info: SubmittedJobInfo) -> None:
        """Create the Job of a task. Adopt a Job of that name that does the same; it is an attempt of ours whose answer was lost."""
        task: Task = info.aux["task"]
        while True:
            number = self._numbers[task.writes] + 1
            name = self.experiment.job_name(task.rule, task.writes, number)
            body = info.aux["body"]
            try:
                self._cluster.create("jobs", body | {"metadata": body["metadata"] | {"name": name}})
            except ApiError as error:
                if error.status != 409:
                    raise
                self._numbers[task.writes] = number
                if not self._fits(self._cluster.get("jobs", name), task):
                    continue
            self._numbers[task.writes] = number
            info.external_jobid = name
            self.logger.info(f"{task.rule}: Job {name}")
            return

    # --- status -----------------------------------------------------------------------------------------------------

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended and yield the others. All Jobs are listed once, and all pods once."""
        if not active_jobs:  # Snakemake may call this before the executor is complete
            return
        self._remind()
        judged: dict[int, Outcome] = {}
        try:
            if not self._ending.is_set() and self._lease.confirm():
                self._clear()
                judged = self._look(active_jobs)
        except Exception as error:  # no error may lose a job
            self._tell("cluster", f"no status of the Jobs, will ask again: {error or type(error).__name__}")
        else:
            if self._told.pop("cluster", None):
                self.logger.warning("the cluster reports the status of the Jobs again")
        logs = self._read_logs(outcome.pod for outcome in judged.values() if outcome.state == "failed" and outcome.pod)
        for index, info in enumerate(active_jobs):
            outcome = judged.get(index)
            if outcome is None or not outcome.ended or self._ending.is_set():
                yield info
            elif outcome.state == "succeeded":
                self.report_job_success(info)
                self._unsettled.append((info.job, info.external_jobid))
            else:
                self._fail(info, outcome, logs)

    def _look(self, active_jobs: list[SubmittedJobInfo]) -> dict[int, Outcome]:
        """Return the outcomes of jobs, by index."""
        outcomes = self._send(active_jobs)
        jobs = {job["metadata"]["name"]: job for job in self._cluster.list("jobs", self.experiment.selector, 1)}
        pods: dict[str, list[Object]] = defaultdict(list)
        for pod in self._cluster.list("pods", self.experiment.selector, 1):
            pods[pod["metadata"]["labels"].get("job-name", "")].append(pod)
        now = datetime.now(UTC)
        names = {index: info.external_jobid for index, info in enumerate(active_jobs) if info.external_jobid is not None}
        refused = self._refused([jobs[name] for name in names.values() if name in jobs and not pods[name]])
        listed = {index: name for index, name in names.items() if name in jobs}
        found = {index: judge(jobs[name], pods[name], now, self._limits, refused.get(name, "")) for index, name in listed.items()}
        self._tell_waits([(names[index], outcome.why) for index, outcome in found.items() if outcome.why and not outcome.ended])
        return outcomes | found | self._missing({index: name for index, name in names.items() if name not in jobs})

    def _refused(self, podless: list[Object]) -> dict[str, str]:
        """Return, by the names of Jobs, why the cluster creates no pod for them. The latest events tell."""
        waiting = {job["metadata"]["uid"]: job["metadata"]["name"] for job in podless if not job["spec"].get("suspend")}
        if not waiting:
            return {}
        try:
            events = self._cluster.list("events", attempts=1, fields="involvedObject.kind=Job,reason=FailedCreate")
        except ApiError as error:
            self._tell("events", f"Jobs have no pod, and the reason cannot be read: {_explain(error)}")
            return {}
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
        return {waiting.get(event["involvedObject"].get("uid"), ""): event.get("message") or "" for event in events}

    def _send(self, active_jobs: list[SubmittedJobInfo]) -> dict[int, Outcome]:
        """Create the Jobs that could not be created before. Return the outcomes of those that are refused, by index."""
        refused = {}
        for index, info in enumerate(active_jobs):
            if info.external_jobid is not None:
                continue
            try:
                if not self._attach(info):
                    self._create(info)
            except ApiError as error:
                if self._passes(error):
                    break  # the others would fail alike
                refused[index] = Outcome("failed", _explain(error))
        return refused

    def _missing(self, names: dict[int, str]) -> dict[int, Outcome]:
        """Return the outcomes of Jobs that are not listed. A single deleted Job fails; several deleted Jobs end the run."""
        gone = {}
        for index, name in names.items():
            try:
                self._cluster.get("jobs", name)
            except ApiError as error:
                if error.status != 404:
                    raise
                gone[index] = Outcome("failed", "deleted by someone else while it ran")
        if gone and not self._lease.confirm(ask=True):  # torn down; the Lease has reported it
            return {}
        if len(gone) > 1:
            who = f"{len(gone)} Jobs of run {self.experiment.run_id} were deleted by someone else"
            self._lose(f"{who}: this run ends and starts nothing more; the same command resumes it")
            return {}
        return gone

    def _tell_waits(self, waits: list[tuple[str, str]]) -> None:
        """Log why Jobs wait, once per reason for as long as a Job waits for it."""
        alike: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, why in waits:
            alike[f"wait: {why[:60]}"].append((name, why))
        for key in [key for key in self._told if key.startswith("wait: ") and key not in alike]:
            del self._told[key]
        for key, ((name, why), *others) in alike.items():
            self._tell(key, f"Job {name} {f'and {len(others)} others wait' if others else 'waits'}: {why}", key)

    def _tell(self, key: str, line: str, gist: str = "") -> None:
        """Log a line unless the last line of this key had the same gist. The default gist is the beginning of the line."""
        line = redact(line, self.envvars())
        gist = gist or line[:60]
        if self._told.get(key) != gist:
            self._told[key] = gist
            self.logger.warning(line)

    def _read_logs(self, pods: Iterable[str]) -> dict[str, str]:
        """Return the logs of pods. They are read in parallel, each for at most `LOG_PATIENCE` seconds, because a node may hang."""
        texts: dict[str, str] = {}

        def read(pod: str) -> None:
            try:
                texts[pod] = self._cluster.log(pod, CONTAINER)
            except ApiError as error:
                texts[pod] = f"(no log of pod {pod}: {error})\n"

        readers = [threading.Thread(target=read, args=(pod,), daemon=True) for pod in pods]
        for reader in readers:
            reader.start()
        end = time.monotonic() + LOG_PATIENCE
        for reader in readers:
            reader.join(max(0, end - time.monotonic()))
        return dict(texts)

    def _fail(self, info: SubmittedJobInfo, outcome: Outcome, texts: dict[str, str]) -> None:
        """Report a failed job with its pod's log, then delete its Job."""
        name = info.external_jobid or info.aux["task"].rule
        logs = []
        if outcome.pod:
            self.log_path.mkdir(exist_ok=True, parents=True)
            log = self.log_path / f"{name}.log"
            text = texts.get(outcome.pod, f"(no log of pod {outcome.pod}: its node did not send it within {LOG_PATIENCE} s)\n")
            log.write_text(redact(text, self.envvars()))
            logs = [str(log)]
        self.report_job_error(info, msg=redact(f"Job {name} failed: {outcome.why}. ", self.envvars()), aux_logs=logs)
        if info.external_jobid:
            self._drop(name)

    def _clear(self) -> None:
        """Delete the Jobs whose results Snakemake has recorded. Until then the next controller could adopt them."""
        waiting = []
        answers = True
        for job, name in self._unsettled:
            answers = answers and (not self.dag.finished(job) or self._drop(name))
            if not (answers and self.dag.finished(job)):
                waiting.append((job, name))
        self._unsettled = waiting

    def _drop(self, name: str) -> bool:
        """Delete a Job whose end has been reported; return whether it is deleted."""
        try:
            if self.workflow.executor_settings.omit_job_cleanup:
                self._cluster.annotate("jobs", name, {COLLECTED: "true"})
            else:
                self._cluster.delete("jobs", name, 1)
        except ApiError as error:
            self.logger.debug(f"Job {name} not deleted yet: {error}")
            return error.status == 404
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:  # noqa: ARG002  Jobs that the list lacks are deleted too
        """Delete the experiment's Jobs."""
        self._leaving = True
        self._ending.set()
        self._interrupted = self._interrupted or isinstance(sys.exception(), KeyboardInterrupt)
        with suppress(ApiError):  # shutdown follows and reports it
            if self._lease.confirm():
                self._delete_jobs()

    def _spared(self) -> set[str]:
        """Return the names of inherited Jobs that keep running: those not yet adopted when this run fails."""
        if self._interrupted or all(self.dag.finished(job) for job in self.dag.needrun_jobs()):
            return set()
        return {job["metadata"]["name"] for job in self._left.values() if self._usable(job)}

    def _delete_jobs(self) -> None:
        spared = self._spared()
        if not spared:
            self._cluster.delete_all("jobs", self.experiment.selector)
            return
        for job in self._cluster.list("jobs", self.experiment.selector):
            if job["metadata"]["name"] not in spared:
                self._cluster.delete("jobs", job["metadata"]["name"])

    def shutdown(self) -> None:
        """Delete everything except Jobs for the next controller to adopt. Delete nothing if another controller has the run."""
        self._leaving = True
        self._ending.set()
        RemoteExecutor.shutdown(self)
        run = self.experiment.run_id
        try:
            if not self._lease.confirm():
                self.logger.error(f"Run {run} has another controller now: nothing of it was deleted")
                return
            if not self.workflow.executor_settings.omit_job_cleanup:
                self._delete_jobs()
            if spared := self._spared():
                many = f"{len(spared)} Jobs of an earlier controller were not adopted and keep running"
                self.logger.warning(f"{many}: start run {run} again to adopt them, or tear it down")
            else:
                self._cluster.delete("secrets", self.run_namespace)
                self.workflow.cleanup_source_archive()
            self._lease.release(keep=bool(spared))
        except ApiError as error:
            self.logger.error(f"Run {run} may have left objects on the cluster; tear it down: {_explain(error)}")
        except WorkflowError as error:
            self.logger.error(f"The uploaded sources stay in the bucket: {error}")
