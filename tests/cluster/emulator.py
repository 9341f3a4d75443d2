"""An emulator of the parts behind a Kubernetes API: storage, Job controller and kubelet in one process.

Each Job's real command runs as a process in a fresh directory with the environment of its Secret. Answers, refusals included, are those of
a real server as far as `kubernetes-exchanges.json` records them. Faults of pods are injected by the tests; of requests, in front.py.
"""

import base64
import contextlib
import functools
import heapq
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.cluster.front import KINDS, Cluster, Object, Refusal, Request, api_group, details, full_name

VERSION = "1.36.0"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
QUEUE = "kueue.x-k8s.io/queue-name"
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")


@functools.cache
def _validator(kind: str, strict: bool) -> jsonschema.Draft202012Validator:
    """Return what checks objects of a kind against Kubernetes' own schema, as kubernetes_validate.validate does but read once."""
    version, singular = KINDS[kind]
    folder = f"kubernetes-json-schema/v{VERSION}-local{'-strict' if strict else ''}"
    group = version.replace(".k8s.io", "").replace("/", "-")
    schema = schema_contents(f"{folder}/{singular.lower()}-{group}.json", VERSION)
    definitions = Resource.from_contents(schema_contents(f"{folder}/_definitions.json", VERSION))
    registry = definitions @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _invalid(kind: str, name: str, where: str, message: str, reason: str = "FieldValueInvalid") -> Refusal:
    singular, group = KINDS[kind][1], api_group(kind)
    full = f"{singular}.{group}" if group else singular
    about = {"name": name, "kind": singular, "causes": [{"field": where, "message": message, "reason": reason}]}
    about |= {"group": group} if group else {}
    return Refusal(422, "Invalid", f'{full} "{name}" is invalid: {where}: {message}', **about)


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def matches(labels: dict[str, str], selector: str) -> bool:
    """Return whether labels satisfy a selector: =, ==, !=, in, notin, exists, !exists."""
    for term in re.split(r",(?![^(]*\))", selector):
        term = term.strip()
        if among := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
            inside = labels.get(among[1]) in [value.strip() for value in among[3].split(",")]
            held = inside == (among[2] == "in")
        elif equation := re.fullmatch(r"([^=!\s]+)\s*(==?|!=)\s*(\S*)", term):
            held = (labels.get(equation[1]) == equation[3]) == (equation[2] != "!=")
        else:
            held = not term or ((term.lstrip("!") in labels) != term.startswith("!"))
        if not held:
            return False
    return True


class Emulator(Cluster):
    """The objects of a cluster, and what the Job controller and the kubelet do with them."""

    def __init__(self, namespace: str = "tune", processes: bool = True):
        super().__init__(namespace)
        self.processes = processes
        self.virtual_seconds = 1.0  # that a pod takes when there are no processes
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self.events: list[tuple[int, str, str, Object]] = []
        self.version = 100
        self.compacted = 0  # versions up to this have been forgotten
        self.pod_fault: Callable[[Object], str | None] = lambda _pod: None
        self.forbids: Callable[[Object], str | None] = lambda _pod: None  # admission of pods: what it says of one
        self.capacity: int | None = None  # pods that nodes have room for at once
        self.kueue = False  # whether it is installed
        self.security = ""  # the level of Pod Security that the namespace enforces
        self.environment: dict[str, str] = {}  # what images bring
        self.root: Path = Path(tempfile.mkdtemp(prefix="cluster-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._faults: dict[str, str | None] = {}  # of pods that were not bound to a node yet
        self._uids = itertools.count(1)
        self._due: list[tuple[float, int, str]] = []
        self._timer: threading.Thread | None = None
        self.closed = False

    # --- objects ---

    def _record(self, event: str, kind: str, item: Object) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, event, kind, deepcopy(item)))
        self.changed.notify_all()

    def update(self, kind: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object, if it is still there."""
        with self.lock:
            item = self.objects[kind].get(name)
            if item is not None:
                change(item)
                self._record("MODIFIED", kind, item)

    def find(self, kind: str, name: str) -> Object:
        """Return an object or refuse with 404."""
        try:
            return self.objects[kind][name]
        except KeyError:
            raise Refusal(404, "NotFound", f'{full_name(kind)} "{name}" not found', **details(kind, name)) from None

    def create(self, kind: str, body: Object, strict: bool) -> Object:
        """Create an object as a real server would, or refuse to; the path says its kind when the body does not."""
        body = {"apiVersion": KINDS[kind][0], "kind": KINDS[kind][1]} | body
        self._check(kind, body, strict)
        with self.lock:
            name = body["metadata"]["name"]
            if name in self.objects[kind]:
                raise Refusal(409, "AlreadyExists", f'{full_name(kind)} "{name}" already exists', **details(kind, name))
            item = deepcopy(body)
            item["metadata"] |= {"namespace": self.namespace, "creationTimestamp": now(), "uid": f"uid-{next(self._uids)}"}
            if kind == "jobs":
                self._default_job(item)
                if self.kueue and QUEUE in item["metadata"].get("labels", {}):
                    item["spec"]["suspend"] = True  # Kueue's webhook
            self.objects[kind][name] = item
            self._record("ADDED", kind, item)
            if kind == "jobs":
                self._start(item)
            return deepcopy(item)

    def _check(self, kind: str, body: Object, strict: bool) -> None:
        version, singular = KINDS[kind]
        if body.get("kind") != singular or body.get("apiVersion") != version:
            raise Refusal(400, "BadRequest", f"{body.get('apiVersion')}, Kind={body.get('kind')} is not {version}, Kind={singular}")
        for quantity in _quantities(body):
            if not QUANTITY.fullmatch(str(quantity)):
                expected = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                raise Refusal(400, "BadRequest", f'{singular} in version "v1" cannot be handled as a {singular}: {expected}')
        error = jsonschema.exceptions.best_match(_validator(kind, strict).iter_errors(body))
        if error:
            unknown = re.search(r"\('(\w+)' was unexpected\)", error.message)
            place = ".".join(map(str, error.absolute_path))
            what = f'strict decoding error: unknown field "{place}.{unknown[1]}"' if unknown else f"{place}: {error.message[:200]}"
            raise Refusal(400, "BadRequest", f'{singular} in version "v1" cannot be handled as a {singular}: {what}')
        name = body["metadata"].get("name", "")
        if not NAME.fullmatch(name):
            raise _invalid(
                kind,
                name,
                "metadata.name",
                f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '
                "'-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
                "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            )
        for value in body["metadata"].get("labels", {}).values():
            if len(value) > 63:
                raise _invalid(kind, name, "metadata.labels", f'Invalid value: "{value}": must be no more than 63 bytes')
            if not LABEL.fullmatch(value):
                raise _invalid(
                    kind,
                    name,
                    "metadata.labels",
                    f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters, '
                    "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', "
                    "regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                )
        if kind == "jobs":
            self._check_pod(name, body["spec"]["template"]["spec"])

    @staticmethod
    def _check_pod(name: str, spec: Object) -> None:
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for index, container in enumerate(spec["containers"]):
            place = f"spec.template.spec.containers[{index}]"
            resources = container.get("resources", {})
            for device, amount in resources.get("requests", {}).items():
                if "/" in device and device not in resources.get("limits", {}):
                    message = "Required value: Limit must be set for non overcommitable resources"
                    raise _invalid("jobs", name, f"{place}.resources.limits", message, "FieldValueRequired")
                if "/" in device and str(resources["limits"][device]) != str(amount):
                    message = f'Invalid value: "{amount}": must be equal to {device} limit of {resources["limits"][device]}'
                    raise _invalid("jobs", name, f"{place}.resources.requests", message)
            if not container.get("image"):
                raise _invalid("jobs", name, f"{place}.image", "Required value", "FieldValueRequired")
            for number, mount in enumerate(container.get("volumeMounts", [])):
                if mount["name"] not in volumes:
                    message = f'Not found: "{mount["name"]}"'
                    raise _invalid("jobs", name, f"{place}.volumeMounts[{number}].name", message, "FieldValueNotFound")

    @staticmethod
    def _default_job(job: Object) -> None:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        own = {"controller-uid": uid, "job-name": name}
        own |= {f"batch.kubernetes.io/{key}": value for key, value in own.items()}
        spec = job["spec"]
        spec |= {"completions": 1, "parallelism": 1, "completionMode": "NonIndexed", "manualSelector": False}
        spec |= {"podReplacementPolicy": "TerminatingOrFailed"}
        spec.setdefault("suspend", False)
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        metadata = spec["template"].setdefault("metadata", {})
        metadata["labels"] = metadata.get("labels", {}) | own
        pod = spec["template"]["spec"]
        pod |= {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
        pod.setdefault("terminationGracePeriodSeconds", 30)
        pod.setdefault("securityContext", {})
        for container in pod["containers"]:
            container.setdefault("imagePullPolicy", "IfNotPresent")
            container.setdefault("resources", {})
            container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
        job["status"] = {}

    def replace(self, kind: str, name: str, body: Object) -> Object:
        """Replace an object, if the body's version is the one that is stored."""
        with self.lock:
            found = self.find(kind, name)
            wanted = body["metadata"].get("resourceVersion")
            if wanted and wanted != found["metadata"]["resourceVersion"]:
                message = (
                    f'Operation cannot be fulfilled on {full_name(kind)} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again"
                )
                raise Refusal(409, "Conflict", message, **details(kind, name))
            self._check(kind, body, strict=False)
            kept = {key: found["metadata"][key] for key in ("namespace", "creationTimestamp", "uid")}
            item = deepcopy(body)
            item["metadata"] |= kept
            self.objects[kind][name] = item
            self._record("MODIFIED", kind, item)
            return deepcopy(item)

    def patch(self, kind: str, name: str, body: Object) -> Object:
        """Merge a patch (RFC 7386) into an object."""
        with self.lock:
            found = self.find(kind, name)
            if "template" in body.get("spec", {}):
                raise _invalid(kind, name, "spec.template", "Invalid value: field is immutable")
            _merge(found, body)
            self._record("MODIFIED", kind, found)
            return deepcopy(found)

    def delete(self, kind: str, name: str, policy: str = "Background") -> Object:
        """Delete an object: at once, or when what it owns is gone."""
        with self.lock:
            item = self.find(kind, name)
            if kind == "jobs":
                pods = [pod for pod, each in self.objects["pods"].items() if each["metadata"]["labels"].get("job-name") == name]
                if policy == "Foreground" and pods:
                    metadata = {"deletionGracePeriodSeconds": 0, "deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
                    item["metadata"] |= metadata
                    self._record("MODIFIED", kind, item)
                    threading.Timer(0.2, self._finish_foreground, (name, pods)).start()
                    return deepcopy(item)
                for pod in pods:
                    self._remove_pod(pod)
            elif kind == "pods":
                self._remove_pod(name)
                self._settle()
                return deepcopy(item)
            self.objects[kind].pop(name)
            self._record("DELETED", kind, item)
            self._collect(item["metadata"]["uid"])
            self._settle()
            return deepcopy(item)

    def _collect(self, owner: str) -> None:
        """Delete what has an owner that is gone, as the garbage collector does."""
        for name, item in list(self.objects["secrets"].items()):
            if owner in [each["uid"] for each in item["metadata"].get("ownerReferences", [])]:
                self.delete("secrets", name)

    def _finish_foreground(self, name: str, pods: list[str]) -> None:
        with self.lock:
            for pod in pods:
                self._remove_pod(pod)
            item = self.objects["jobs"].pop(name, None)
            if item:
                self._record("DELETED", "jobs", item)

    def _remove_pod(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process:
            _kill(process)
        item = self.objects["pods"].get(name)
        if item:
            item["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30}
            self._record("MODIFIED", "pods", item)
            self.objects["pods"].pop(name)
            self._record("DELETED", "pods", item)
            job = item["metadata"]["labels"].get("job-name", "")
            if not process:
                return
            self._fail_job(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    # --- Job controller and kubelet ---

    def _start(self, job: Object) -> None:
        """Give a Job its pod, unless it is suspended."""
        job["status"] = {"terminating": 0, "uncountedTerminatedPods": {}, "ready": 0}
        if job["spec"]["suspend"]:
            condition = {"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"}
            job["status"]["conditions"] = [condition | {"lastProbeTime": now(), "lastTransitionTime": now()}]
            self._record("MODIFIED", "jobs", job)
            return
        job["status"]["startTime"] = now()
        self._create_pod(job)

    def suspend(self, name: str, suspend: bool = True) -> None:
        """Suspend a Job, which takes its pod away, or let it go on: what Kueue does to preempt and to admit."""
        with self.lock:
            job = self.objects["jobs"][name]
            job["spec"]["suspend"] = suspend
            for pod in self._pods_of(name):
                if process := self._processes.pop(pod, None):
                    _kill(process)
                self._remove_pod(pod)
            self._start(job)

    def _pods_of(self, job: str) -> list[str]:
        return [name for name, pod in self.objects["pods"].items() if pod["metadata"]["labels"].get("job-name") == job]

    def _settle(self) -> None:
        """Try once more what quotas and nodes had no room for."""
        for job in list(self.objects["jobs"].values()):
            started = "startTime" in job["status"] and not job["status"].get("conditions")
            if started and not self._pods_of(job["metadata"]["name"]):
                self._create_pod(job)
        for name, pod in list(self.objects["pods"].items()):
            if name in self._faults and self._faults[name] is None:
                self._bind(job_name(pod), name)

    def _create_pod(self, job: Object) -> None:
        name = job["metadata"]["name"]
        template = job["spec"]["template"]
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": deepcopy(template["metadata"])
            | {
                "name": f"{name[:57]}-{secrets.token_hex(3)[:5]}",
                "generateName": f"{name}-",
                "namespace": self.namespace,
                "creationTimestamp": now(),
                "finalizers": ["batch.kubernetes.io/job-tracking"],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}],
            },
            "spec": deepcopy(template["spec"]),
            "status": {"phase": "Pending", "conditions": [], "qosClass": "Burstable"},
        }
        pod_name = pod["metadata"]["name"]
        if refused := self.forbids(pod) or violation(pod, self.security):
            self._event(job, "FailedCreate", f"Error creating: {refused.replace('POD', pod_name)}")
            job["status"].pop("active", None)
            self._record("MODIFIED", "jobs", job)
            return
        job["status"]["active"] = 1
        self.objects["pods"][pod_name] = pod
        self._record("ADDED", "pods", pod)
        self._record("MODIFIED", "jobs", job)
        if deadline := job["spec"].get("activeDeadlineSeconds"):
            self._later(deadline, f"deadline:{name}")
        self._faults[pod_name] = self.pod_fault(pod)
        self._bind(name, pod_name)

    def _event(self, job: Object, reason: str, message: str) -> None:
        """Record an event of the Job controller; the same one again counts up."""
        about = {"apiVersion": "batch/v1", "kind": "Job"} | {key: job["metadata"][key] for key in ("name", "namespace", "uid")}
        name = f"{job['metadata']['name']}.{next(self._uids):016x}"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": self.namespace, "creationTimestamp": now(), "uid": name},
            "involvedObject": about | {"resourceVersion": job["metadata"]["resourceVersion"]},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "job-controller"},
            "reportingComponent": "job-controller",
            "reportingInstance": "",
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "eventTime": None,
            "count": 1,
        }
        self.objects["events"][name] = event
        self._record("ADDED", "events", event)

    def _bind(self, name: str, pod_name: str) -> None:
        """Let a node run a pod, if there is one with room."""
        pod = self.objects["pods"][pod_name]
        fault = self._faults[pod_name]
        full = self.capacity is not None and self._bound() >= self.capacity
        if fault == "unschedulable" or full:
            message = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s)."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if not pod["status"]["conditions"]:
                self.update("pods", pod_name, lambda item: item["status"]["conditions"].append(condition | {"lastTransitionTime": now()}))
            return
        del self._faults[pod_name]
        pod["spec"]["nodeName"] = "node-1"
        pod["status"]["conditions"] = []
        image = pod["spec"]["containers"][0]["image"]
        if fault == "image_pull":
            self._waiting(pod_name, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: pull access denied')
            return
        try:
            environment = self._environment(pod)
        except Refusal as refusal:
            self._waiting(pod_name, "CreateContainerConfigError", refusal.body["message"])
            return
        self.started.append(name)
        self._set_container(pod_name, "Running", {"running": {"startedAt": now()}})
        if deadline := pod["spec"].get("activeDeadlineSeconds"):
            self._later(deadline, f"pod-deadline:{pod_name}")
        if not self.processes:
            self._later(self.virtual_seconds, f"end:{pod_name}")
            return
        directory = self.root / pod_name
        directory.mkdir()
        container = pod["spec"]["containers"][0]
        with (self.root / f"{pod_name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*container["command"], *container.get("args", [])],
                cwd=directory,
                env=environment | {"HOME": str(directory)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[pod_name] = process
        threading.Thread(target=self._follow, args=(pod_name, process, fault), daemon=True).start()

    def _bound(self) -> int:
        return sum("nodeName" in pod["spec"] and pod["status"]["phase"] == "Running" for pod in self.objects["pods"].values())

    def terminate(self, pod: str, grace: float) -> None:
        """End a pod as a kubelet does: its first process is asked to by SIGTERM, and after its grace period all of them are killed."""
        process = self._processes[pod]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        _kill(process)

    def _environment(self, pod: Object) -> dict[str, str]:
        environment = dict(self.environment)
        for variable in pod["spec"]["containers"][0].get("env", []):
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
            elif variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == "spec.nodeName":
                environment[variable["name"]] = pod["spec"]["nodeName"]
            elif source := variable.get("valueFrom", {}).get("secretKeyRef"):
                secret = self.find("secrets", source["name"])
                environment[variable["name"]] = base64.b64decode(secret["data"][source["key"]]).decode()
        return environment

    def _follow(self, pod: str, process: subprocess.Popen[bytes], fault: str | None) -> None:
        """Wait for a pod's process, or bring about its fault."""
        if fault:
            time.sleep(0.3)
            with self.lock:
                self._processes.pop(pod, None)
            _kill(process)
            with self.lock:
                faults = {"oom": self._oom, "evicted": self._evict, "node_lost": self._lose_node, "deadline": self._exceed}
                (faults | {"deleted": self._vanish})[fault](pod)
            return
        code = process.wait()
        with self.lock:
            if self._processes.pop(pod, None) is None:
                return  # deleted meanwhile
            self._end(pod, code)

    def _end(self, pod: str, code: int, reason: str = "") -> None:
        """Let a pod's container end, and its Job with it."""
        reason = reason or ("Completed" if code == 0 else "Error")
        ended = {"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}}
        self._set_container(pod, "Succeeded" if code == 0 else "Failed", ended)
        job = self.objects["pods"].get(pod, {"metadata": {"labels": {}}})["metadata"]["labels"].get("job-name", "")
        if code:
            self._fail_job(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        else:
            self._complete_job(job)
        self._settle()

    def _oom(self, pod: str) -> None:
        with self.lock:
            self._end(pod, 137, "OOMKilled")

    def _exceed(self, pod: str) -> None:
        job = self.objects["pods"].pop(pod)["metadata"]["labels"]["job-name"]
        self._fail_job(job, "DeadlineExceeded", "Job was active longer than specified deadline")

    def _exceed_in_pod(self, pod: str) -> None:
        """End a pod that has taken longer than its own deadline."""
        if self.objects["pods"].get(pod, {"status": {}})["status"].get("phase") != "Running":
            return
        if process := self._processes.pop(pod, None):
            _kill(process)
        told = {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}
        self.update("pods", pod, lambda item: item["status"].update(told))
        self._end(pod, 137)

    def _vanish(self, pod: str) -> None:
        self.delete("jobs", self.objects["pods"][pod]["metadata"]["labels"]["job-name"])

    def _evict(self, pod: str) -> None:
        message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. "
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message}

        def evict(item: Object) -> None:
            item["status"] |= {"reason": "Evicted", "message": message}
            item["status"]["conditions"].append(condition)

        with self.lock:
            self.update("pods", pod, evict)
            self._end(pod, 137)

    def _lose_node(self, pod: str) -> None:
        message = "Taint manager: deleting due to NoExecute taint"
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": message}

        def lose(item: Object) -> None:
            item["metadata"]["deletionTimestamp"] = now()
            item["status"]["conditions"].append(condition)

        with self.lock:
            self.update("pods", pod, lose)
            job = self.objects["pods"][pod]["metadata"]["labels"]["job-name"]
            self._fail_job(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit", terminating=1)

    def _waiting(self, pod: str, reason: str, message: str) -> None:
        self._set_container(pod, "Pending", {"waiting": {"reason": reason, "message": message}})

    def _set_container(self, pod: str, phase: str, state: Object) -> None:
        def change(item: Object) -> None:
            container = item["spec"]["containers"][0]
            base = {"name": container["name"], "image": container["image"], "imageID": "", "lastState": {}, "restartCount": 0}
            status = base | {"ready": "running" in state, "started": "running" in state, "state": state}
            item["status"] |= {"phase": phase, "containerStatuses": [status]}
            item["status"].setdefault("startTime", now())
            if phase in ("Succeeded", "Failed"):
                item["metadata"].pop("finalizers", None)

        self.update("pods", pod, change)

    def _complete_job(self, name: str) -> None:
        def complete(job: Object) -> None:
            reached = {"status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
            job["status"] |= {"succeeded": 1, "ready": 0, "completionTime": now()}
            job["status"].pop("active", None)
            job["status"]["conditions"] = [
                reached | {"type": kind, "lastProbeTime": now(), "lastTransitionTime": now()} for kind in ("SuccessCriteriaMet", "Complete")
            ]
            self._expire(job)

        self.update("jobs", name, complete)

    def _fail_job(self, name: str, reason: str, message: str, terminating: int = 0) -> None:
        def fail(job: Object) -> None:
            failed = {"status": "True", "reason": reason, "message": message, "lastProbeTime": now(), "lastTransitionTime": now()}
            job["status"] |= {"failed": 1, "ready": 0, "terminating": terminating}
            job["status"].pop("active", None)
            kinds = ("FailureTarget",) if terminating else ("FailureTarget", "Failed")
            job["status"]["conditions"] = [failed | {"type": kind} for kind in kinds]
            self._expire(job)

        self.update("jobs", name, fail)

    def _expire(self, job: Object) -> None:
        if ttl := job["spec"].get("ttlSecondsAfterFinished"):
            self._later(ttl, f"ttl:{job['metadata']['name']}")

    def _later(self, seconds: float, what: str) -> None:
        with self.lock:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._uids), what))
            if self._timer is None:
                self._timer = threading.Thread(target=self._tick, daemon=True)
                self._timer.start()

    def _tick(self) -> None:
        while not self.closed:
            with self.lock:
                while self._due and self._due[0][0] <= time.monotonic():
                    what, _, name = heapq.heappop(self._due)[2].partition(":")
                    if what == "end":
                        if name in self.objects["pods"]:
                            self._end(name, 0)
                    elif what == "pod-deadline":
                        self._exceed_in_pod(name)
                    elif what == "ttl":
                        if name in self.objects["jobs"]:
                            self.delete("jobs", name)
                    elif self.objects["jobs"].get(name, {}).get("status", {}).get("active"):
                        self._fail_job(name, "DeadlineExceeded", "Job was active longer than specified deadline")
                        for pod in [
                            pod for pod, each in self.objects["pods"].items() if each["metadata"]["labels"].get("job-name") == name
                        ]:
                            process = self._processes.pop(pod, None)
                            if process:
                                _kill(process)
                            self.objects["pods"].pop(pod)
            time.sleep(0.02)

    # --- answers ---

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return status and answer as a real server would, or refuse."""
        kind, name, query = request.kind, request.name, request.query
        if request.namespace != self.namespace:
            if request.verb == "create":
                absent = request.namespace
                raise Refusal(404, "NotFound", f'namespaces "{absent}" not found', name=absent, kind="namespaces")
            if request.verb == "list":
                version, singular = KINDS[kind]
                return 200, {"apiVersion": version, "kind": f"{singular}List", "metadata": {"resourceVersion": "1"}, "items": []}
            raise Refusal(404, "NotFound", f'{full_name(kind)} "{name}" not found', **details(kind, name))
        selector = query.get("labelSelector", "")
        wanted = dict(term.split("=", 1) for term in query.get("fieldSelector", "").split(",") if term)
        match request.verb:
            case "list":
                return 200, self.page(kind, selector, int(query.get("limit", 0)), query.get("continue", ""), wanted)
            case "watch":
                since = int(query.get("resourceVersion", 0))
                return 200, self.watch(kind, selector, since, float(query.get("timeoutSeconds", 60)))
            case "get" if request.part:
                return 200, self.log(name, query)
            case "get":
                with self.lock:
                    return 200, deepcopy(self.find(kind, name))
            case "create":
                return 201, self.create(kind, request.body or {}, query.get("fieldValidation") == "Strict")
            case "update":
                return 200, self.replace(kind, name, request.body or {})
            case "patch":
                return 200, self.patch(kind, name, request.body or {})
            case "delete":
                policy = query.get("propagationPolicy") or (request.body or {}).get("propagationPolicy") or "Background"
                return 200, self.delete(kind, name, policy)
            case _:
                with self.lock:
                    doomed = self.page(kind, selector, 0, "")
                    for item in doomed["items"]:
                        self.delete(kind, item["metadata"]["name"])
                return 200, doomed

    def page(self, kind: str, selector: str, limit: int, token: str, fields: dict[str, str] | None = None) -> Object:
        """Return a page of the objects that match."""
        with self.lock:
            after = ""
            if token:
                position = json.loads(base64.b64decode(token))
                if position["rv"] < self.compacted:
                    raise Refusal(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
                after = position["start"]
            names = [name for name in sorted(self.objects[kind]) if name > after]
            items: list[Object] = []
            more = ""
            for name in names:
                item = self.objects[kind][name]
                fits = all(_at(item, path) == value for path, value in (fields or {}).items())
                if fits and matches(item["metadata"].get("labels", {}), selector):
                    if limit and len(items) == limit:
                        last = items[-1]["metadata"]["name"]
                        more = base64.b64encode(json.dumps({"rv": self.version, "start": last}).encode()).decode()
                        break
                    items.append(item)
            version, singular = KINDS[kind]
            metadata = {"resourceVersion": str(self.version)} | ({"continue": more} if more else {})
            return {"apiVersion": version, "kind": f"{singular}List", "metadata": metadata, "items": deepcopy(items)}

    def watch(self, kind: str, selector: str, since: int, seconds: float) -> Iterator[Object]:
        """Yield events after a version until the time is over."""
        if since and since < self.compacted:
            gone = Refusal(410, "Expired", f"too old resource version: {since} ({self.compacted})")
            yield {"type": "ERROR", "object": gone.body}
            return
        end = time.monotonic() + seconds
        while not self.closed:
            with self.lock:
                fresh = [event for event in self.events if event[0] > since and event[2] == kind]
                if not fresh:
                    left = end - time.monotonic()
                    if left <= 0 or not self.changed.wait(left):
                        return
                    continue
            for version, event, _, item in fresh:
                since = version
                if matches(item["metadata"].get("labels", {}), selector):
                    yield {"type": event, "object": item}

    def log(self, name: str, query: dict[str, str]) -> str:
        """Return a pod's log, or refuse as a kubelet does."""
        pod = self.find("pods", name)
        container = query.get("container") or pod["spec"]["containers"][0]["name"]
        if query.get("previous", "").lower() == "true":
            raise Refusal(400, "BadRequest", f'previous terminated container "{container}" in pod "{name}" not found')
        if not pod["status"].get("containerStatuses") or "waiting" in pod["status"]["containerStatuses"][0]["state"]:
            raise Refusal(400, "BadRequest", f'container "{container}" in pod "{name}" is waiting to start')
        path = self.root / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def items(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        with self.lock:
            return deepcopy(list(self.objects[kind].values()))

    def running(self) -> int:
        """Return how many pods have a process."""
        return len(self._processes)

    def close(self) -> None:
        """Kill what runs, forget everything."""
        self.closed = True
        with self.lock:
            for process in self._processes.values():
                _kill(process)
            self._processes.clear()
        shutil.rmtree(self.root, ignore_errors=True)


def job_name(pod: Object) -> str:
    """Return the Job of a pod."""
    return str(pod["metadata"]["labels"].get("job-name", ""))


def violation(pod: Object, level: str) -> str | None:
    """Return how a server that enforces a level of Pod Security refuses a pod, None when it does not."""
    if level != "restricted":
        return None
    spec = pod["spec"]
    of_pod = spec.get("securityContext") or {}
    found = []
    for container in spec["containers"]:
        own, name = container.get("securityContext") or {}, container["name"]
        both = of_pod | own
        if own.get("allowPrivilegeEscalation") is not False:
            must = f'container "{name}" must set securityContext.allowPrivilegeEscalation=false'
            found.append(f"allowPrivilegeEscalation != false ({must})")
        if (own.get("capabilities") or {}).get("drop") != ["ALL"]:
            found.append(f'unrestricted capabilities (container "{name}" must set securityContext.capabilities.drop=["ALL"])')
        if both.get("runAsNonRoot") is not True:
            found.append(f'runAsNonRoot != true (pod or container "{name}" must set securityContext.runAsNonRoot=true)')
        if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            must = f'pod or container "{name}" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
            found.append(f"seccompProfile ({must})")
    return f'pods "POD" is forbidden: violates PodSecurity "{level}:latest": {", ".join(found)}' if found else None


def _at(item: Object, path: str) -> Any:
    for key in path.split("."):
        item = item.get(key, {})
    return item


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _quantities(value: Any, inside: bool = False) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _quantities(inner, inside or key in ("requests", "limits"))
    elif isinstance(value, list):
        for inner in value:
            yield from _quantities(inner, False)
    elif inside:
        yield value


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def ago(seconds: float) -> str:
    """Return a time in the past as Kubernetes writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
