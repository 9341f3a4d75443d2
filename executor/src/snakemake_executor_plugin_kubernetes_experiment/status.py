"""The outcome of a Job, from the Job and its pods."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubernetes.utils.quantity import parse_quantity

CONTAINER = "snakemake"
HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
WAITING = HOPELESS | {"ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "CreateContainerError", "RegistryUnavailable"}
DISRUPTIONS = {
    "DeletionByTaintManager": "node lost",
    "DeletionByPodGC": "node lost",
    "PreemptionByScheduler": "preempted",
    "EvictionByEvictionAPI": "evicted",
    "TerminationByKubelet": "evicted",
}
SETTLING = 30  # seconds after the end of a container within which its Job must notice
_CREATING = re.compile(r"Error creating: (pods \"[^\"]*\" is forbidden: )?")  # beginning of the event of a refused pod

Object = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Seconds after which waiting counts as failure; 0: no limit."""

    image_pull: int
    pending: int
    forbidden: int


@dataclass(frozen=True)
class Outcome:
    """The state of a Job (running, succeeded or failed), the reason in one line, and the pod whose log has more."""

    state: str
    why: str = ""
    pod: str | None = None

    @property
    def ended(self) -> bool:
        """Return whether the Job has ended."""
        return self.state != "running"


def judge(job: Object, pods: Iterable[Object], now: datetime, limits: Limits, refused: str = "") -> Outcome:
    """Return the outcome of a Job. The latest pod counts; earlier ones were replaced. `refused` is why the cluster has created no pod."""
    status = job.get("status", {})
    true = {condition["type"]: condition for condition in status.get("conditions") or [] if condition["status"] == "True"}
    if "Complete" in true:
        return Outcome("succeeded")
    pod = max(pods, key=lambda pod: (str(pod["metadata"]["creationTimestamp"]), str(pod["metadata"]["name"])), default=None)
    name = pod["metadata"]["name"] if pod else None
    ended = _container(pod).get("state", {}).get("terminated")
    if ended and ended["exitCode"] == 0 and "Failed" not in true and "FailureTarget" not in true:
        return Outcome("succeeded")  # other containers of the pod may still run
    failure = true.get("Failed") or true.get("FailureTarget")
    if failure:
        return Outcome("failed", _reason(failure, pod, ended), name)
    if job.get("spec", {}).get("suspend"):
        return Outcome("running", "suspended: waits for its queue")  # Kueue deletes the pod of a suspended Job
    if pod is None:
        return _podless(job, now, limits, _line(_CREATING.sub("", refused)))
    if ended and "deletionTimestamp" not in pod["metadata"] and _seconds(ended.get("finishedAt"), now) > SETTLING:
        return Outcome("failed", _reason({}, pod, ended), name)
    return _waiting(pod, now, limits)


def _reason(failure: Object, pod: Object | None, ended: Object | None) -> str:
    """Return why a Job has failed. More specific causes take precedence."""
    status = pod.get("status", {}) if pod else {}
    if "DeadlineExceeded" in (failure.get("reason"), status.get("reason")):
        return "deadline exceeded: ran longer than its active deadline"
    if pod is None:
        return f"failed without a pod: {failure.get('message') or failure.get('reason')}"
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            what = DISRUPTIONS.get(condition.get("reason", ""), "disrupted")
            return f"{what}: {_line(condition.get('message') or condition.get('reason', ''))}"
    if status.get("reason") in ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting"):
        what = {"Evicted": "evicted", "Preempting": "preempted"}.get(status["reason"], "node lost")
        return f"{what}: {_line(status.get('message', ''))}"
    if ended:
        return _exit(ended)
    return _line(status.get("message") or failure.get("message") or "failed")


def _exit(ended: Object) -> str:
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled: used more memory than its limit (mem_mb)"
    return f"exit code {ended['exitCode']}"


def _podless(job: Object, now: datetime, limits: Limits, refused: str) -> Outcome:
    """Return the outcome of a Job without a pod: running within the limits, failed after them."""
    waited = _seconds(job.get("status", {}).get("startTime") or job["metadata"].get("creationTimestamp"), now)
    forbidden = bool(refused) and not _frees_up(refused)
    limit = limits.forbidden if forbidden else limits.pending
    why = f"{'pod forbidden' if forbidden else 'no pod yet'}: {refused}" if refused else ""
    if limit and waited > limit:
        return Outcome("failed", why or f"no pod was created within {limit} s")
    return Outcome("running", why)


def _frees_up(refused: str) -> bool:
    """Return whether a pod is refused by a quota that other pods use up, not by a quota that is smaller than the pod."""
    amounts = re.search(r"exceeded quota: .*requested: (.*), used: .*, limited: (.*)", refused)
    if not amounts:
        return False
    requested, limited = (dict(re.findall(r"([^=, ]+)=([^=, ]+)", each)) for each in amounts.groups())
    return all(parse_quantity(amount) <= parse_quantity(limited.get(name, "0")) for name, amount in requested.items())


def _waiting(pod: Object, now: datetime, limits: Limits) -> Outcome:
    """Return the outcome of a pod that has not ended: running within the limits, failed after them."""
    name = pod["metadata"]["name"]
    waiting = _container(pod).get("state", {}).get("waiting") or {}
    if waiting.get("reason") in WAITING:
        begun = pod["status"].get("startTime") or pod["metadata"]["creationTimestamp"]
        why = f"{waiting['reason']}: {_line(waiting.get('message', ''))}"
        late = limits.image_pull and _seconds(begun, now) > limits.image_pull
        return Outcome("failed" if late or waiting["reason"] in HOPELESS else "running", why, name)
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            why = f"unschedulable: {_line(condition.get('message', ''))}"
            late = limits.pending and _seconds(condition.get("lastTransitionTime"), now) > limits.pending
            return Outcome("failed" if late else "running", why, name)
    return Outcome("running")


def _container(pod: Object | None) -> Object:
    """Return the status of the job's container. A pod with one container is taken whatever its name."""
    statuses = (pod or {}).get("status", {}).get("containerStatuses") or []
    return next((dict(status) for status in statuses if status["name"] == CONTAINER or len(statuses) == 1), {})


def _seconds(since: str | None, now: datetime) -> float:
    return (now - datetime.fromisoformat(since)).total_seconds() if since else 0


def _line(text: str) -> str:
    return " ".join(str(text).split())[:600]
