"""The manifest of a Job. The stock executor drafts it, and this module completes it."""

import base64
import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kubernetes import client
from snakemake_executor_plugin_kubernetes import Executor as StockExecutor

from .names import ACKNOWLEDGED_VARIABLES, NODE_VARIABLE, RECIPE, RUN_ID_VARIABLE, Experiment, digest, job_labels
from .patch import merge
from .status import CONTAINER

Object = dict[str, Any]

# Pod Security's level "restricted", without what a job does not need: the service-account token and the Service variables.
POD = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

# Only the first process of a container receives SIGTERM. It passes it on to its process group and stays until the job has ended.
PASS_ON_SIGTERM = "trap 'trap \"\" TERM; kill -TERM 0; wait $job; exit $?' TERM; (trap : TERM; {command}) & job=$!; wait $job"


class Draft:
    """Stands in for a stock executor in `run_job`. It keeps the Job that would be created and sends nothing."""

    def __init__(self, executor: Any):
        self._executor = executor
        self.batchapi = self
        self.logger = logging.getLogger(__name__)
        self.logger.propagate = False
        self.body: Object = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def create_namespaced_job(self, _namespace: str, body: Any) -> None:
        """Keep the Job."""
        self.body = client.ApiClient().sanitize_for_serialization(body)

    def _kubernetes_retry(self, request: Callable[[], Any]) -> Any:
        return request()

    def report_job_submission(self, job_info: Any) -> None:
        """Do nothing, because nothing was submitted."""


def draw(executor: Any, job: Any) -> Object:
    """Return the Job that the stock executor would create."""
    draft = Draft(executor)
    StockExecutor.run_job(draft, job)
    return draft.body


@dataclass(frozen=True)
class Task:
    """A Snakemake job on the cluster. `writes` is the digest of its outputs, `recipe` the digest of its parameters and image."""

    rule: str
    wildcards: dict[str, str]
    writes: str
    recipe: str


def make_task(job: Any) -> Task:
    """Return the task of a job or of a group of jobs. It is the same in every run that asks for the same work."""
    jobs = list(job.jobs) if job.is_group() else [job]
    files = sorted(file.storage_object.query if file.is_storage else str(file) for file in job.output)
    return Task(
        rule=job.groupid if job.is_group() else job.rule.name,
        wildcards={} if job.is_group() else dict(job.wildcards_dict),
        writes=digest([sorted((each.rule.name, sorted(each.wildcards_dict.items())) for each in jobs), files]),
        recipe=digest(sorted([each.rule.name, list(map(str, each.params)), job.resources.get("image")] for each in jobs)),
    )


def finish(
    body: Object,
    task: Task,
    resources: Mapping[str, Any],
    *,
    experiment: Experiment,
    patch: Object,
    image: str | None,
    acknowledged: Mapping[str, str],
    deadline: int,
    ttl: int,
) -> Object:
    """Return a Job with labels, patch, image, acknowledgements, deadline and time to live, but without its name.

    The deadline is set on the pod, so it counts from when the pod is on a node.
    """
    labels = job_labels(experiment, task.rule, task.wildcards, task.writes)
    deadline = int(resources["runtime"]) * 60 if resources.get("runtime") else deadline
    template = body["spec"]["template"]
    template["spec"] |= deepcopy(POD) | ({"activeDeadlineSeconds": deadline} if deadline else {})
    template["spec"].pop("tolerations", None)  # the stock tolerations of GPUs; replaced below
    container = template["spec"]["containers"][0]
    container["args"][-1] = PASS_ON_SIGTERM.format(command=container["args"][-1])
    container.setdefault("securityContext", deepcopy(CONTAINER_SECURITY))  # a privileged container stays privileged
    asked = {name: amount for name, amount in container["resources"].get("requests", {}).items() if amount != "0"}
    limits = asked | {"cpu": f"{int(resources.get('_cores', 1) * 1000)}m"}
    container["resources"] = {"requests": asked, "limits": limits}
    container.pop("image", None)
    if image:
        container["image"] = image
    template = merge(template, patch)
    container = next(each for each in template["spec"]["containers"] if each["name"] == CONTAINER)
    if resources.get("image"):
        container["image"] = resources["image"]
    values = {RUN_ID_VARIABLE: experiment.run_id} | {ACKNOWLEDGED_VARIABLES[spends]: run_id for spends, run_id in acknowledged.items()}
    told: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    told.append({"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
    container["env"] = [each for each in container.get("env") or [] if each["name"] not in {*values, NODE_VARIABLE}] + told
    requests, limits = (container["resources"].get(each) or {} for each in ("requests", "limits"))
    devices = {name: amount for name, amount in (requests | limits).items() if "/" in name}  # their limit must equal the request
    container["resources"]["limits"] = devices | limits
    tolerations = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in devices]
    template["spec"]["tolerations"] = (template["spec"].get("tolerations") or []) + tolerations
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = metadata.get("labels", {}) | labels
    annotations = metadata.get("annotations", {}) | {RECIPE: task.recipe}
    return body | {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": dict(metadata["labels"]), "annotations": annotations},
        "spec": body["spec"] | {"template": template, "ttlSecondsAfterFinished": ttl},
    }


def secret_manifest(experiment: Experiment, owner: Object, values: Mapping[str, str]) -> Object:
    """Return the Secret with the environment of all jobs. It is deleted with its owner."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": experiment.secret, "labels": experiment.labels, "ownerReferences": [owner]},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Return text without the values of secrets."""
    for value in secrets.values():
        if len(value) > 3:
            text = text.replace(value, "***").replace(base64.b64encode(value.encode()).decode(), "***")
    return text
