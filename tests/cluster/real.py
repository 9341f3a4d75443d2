"""A real cluster and a real bucket in place of the emulated ones. CONTRIBUTING.md explains the variables."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import config

from tests.cluster.front import KINDS, OWNED, Cluster, Object, Refusal, Request, details, full_name
from tests.s3 import Store

GIVEN = "SPEC_DECODE_TUNE_TEST_KUBECONFIG"
"""Not KUBECONFIG: no test may spend on a cluster that happens to be configured."""

NAMESPACE, IMAGE, BUCKET = (f"SPEC_DECODE_TUNE_TEST_{name}" for name in ("NAMESPACE", "IMAGE", "BUCKET"))
ENDPOINT, KEY, SECRET, REGION = (
    f"SNAKEMAKE_STORAGE_S3_EXPERIMENT_{name}" for name in ("ENDPOINT_URL", "ACCESS_KEY", "SECRET_KEY", "REGION")
)

RUNS = ("r1", "whole", "another")
"""The run ids of the tests. What carries one of them and their workstream is theirs."""

WORKSTREAM = "tests"
SECONDS = 120.0
"""For which pods are waited for that are to end."""

METHODS = {"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE"}


def given() -> bool:
    """Return whether a real cluster is given."""
    return bool(os.environ.get(GIVEN))


def missing() -> list[str]:
    """Return the variables that must be set where a cluster is given, and are not."""
    return [name for name in (NAMESPACE, IMAGE, BUCKET, ENDPOINT, KEY, SECRET) if not os.environ.get(name)]


def given_store() -> Store:
    """Return a folder of its own in the bucket that is given."""
    endpoint, key, secret, bucket = (os.environ[name] for name in (ENDPOINT, KEY, SECRET, BUCKET))
    folder = f"spec-decode-tune-tests/{secrets.token_hex(8)}/"
    return Store(endpoint, key, secret, os.environ.get(REGION, "us-east-1"), bucket, folder)


def is_ours(item: Object) -> bool:
    """Return whether an object is of these tests."""
    labels = item.get("metadata", {}).get("labels") or {}
    return labels.get("experiment") in RUNS and labels.get("workstream") == WORKSTREAM


class Taken(Exception):  # noqa: N818  no error of ours
    """The namespace holds something under a run id of the tests already."""


class Real(Cluster):
    """The cluster that is given: controllers' requests are passed on to it with its credentials, but for such as touch what is not ours.

    Raises:
        Taken: there is something already; nothing was created or deleted.
    """

    here = False
    pace = 5.0

    def __init__(self) -> None:
        super().__init__(os.environ[NAMESPACE], token=secrets.token_hex())
        self.image = os.environ[IMAGE]
        self._connect()
        self._closed = threading.Event()
        there = super().left()
        if there:
            raise Taken(
                f"namespace {self.namespace} holds {there[0]}, of another run of these tests or not theirs, and nothing was touched; see "
                f"kubectl -n {self.namespace} get {','.join(OWNED)} -l 'experiment in ({','.join(RUNS)})' --show-labels"
            )
        threading.Thread(target=self._follow, daemon=True).start()

    def _connect(self) -> None:
        self._client = config.new_client_from_config(os.environ[GIVEN])

    def _ask(self, method: str, path: str, query: dict[str, str], body: Object | None) -> tuple[int, Any]:
        """Return status and answer of the cluster; ask once more with fresh credentials when it does not know them."""
        for again in (False, True):
            if again:
                self._connect()
            headers = {"Accept": "application/json"}
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
            parameters = list(query.items())
            self._client.update_params_for_auth(headers, parameters, ["BearerToken"])
            try:
                answer = self._client.rest_client.pool_manager.request(
                    method,
                    f"{self._client.configuration.host}{path}?{urlencode(parameters)}",
                    headers=headers,
                    body=None if body is None else json.dumps(body).encode(),
                    timeout=urllib3.Timeout(connect=5, read=30),
                    retries=False,
                )
            except urllib3.exceptions.HTTPError as error:
                raise Refusal(504, "Timeout", f"no answer from the cluster: {type(error).__name__}") from None
            if answer.status != 401:
                break
        text = answer.data.decode(errors="replace")
        return answer.status, json.loads(text) if answer.headers.get("Content-Type", "").startswith("application/json") else text

    def _object(self, method: str, kind: str, name: str = "", query: dict[str, str] | None = None, body: Object | None = None) -> Object:
        """Return an object from the cluster, or refuse as it does."""
        version = KINDS[kind][0]
        path = f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{self.namespace}/{kind}"
        status, answer = self._ask(method, f"{path}/{name}" if name else path, query or {}, body)
        if status >= 300:
            raise Refusal(status, "", str(answer["message"] if isinstance(answer, dict) else answer))
        return dict(answer)

    def answer(self, request: Request) -> tuple[int, Any]:
        """Pass a request on, unless it would write what is not ours: the executor that is tested may be at fault."""
        if request.verb in METHODS:
            self._check(request)
        return self._ask(METHODS.get(request.verb, "GET"), request.path, request.query, request.body)

    def _check(self, request: Request) -> None:
        """Refuse to write what is not ours. Lists are what gb300/role.yaml lets everybody ask for."""
        kind, name = request.kind, request.name
        if request.verb == "create":
            ours = is_ours(request.body or {})
        elif request.verb == "deletecollection":
            terms = request.query.get("labelSelector", "").split(",")
            ours = is_ours({"metadata": {"labels": dict(term.split("=", 1) for term in terms if "=" in term)}})
        else:
            found = {item["metadata"]["name"]: item for item in self.items(kind)}
            if name not in found:
                raise Refusal(404, "NotFound", f'{full_name(kind)} "{name}" not found among those of these tests', **details(kind, name))
            ours = is_ours(found[name])
        if not ours or request.namespace != self.namespace:
            raise Refusal(403, "Forbidden", f"not of these tests: {request.verb} {kind} {name} {request.query}", **details(kind, name))

    def items(self, kind: str) -> list[Object]:
        """Return the objects of a kind under a run id of the tests."""
        return list(self._object("GET", kind, query={"labelSelector": f"experiment in ({','.join(RUNS)})"})["items"])

    def running(self) -> int:
        """Return how many pods run."""
        return sum(pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"] for pod in self.items("pods"))

    def create(self, kind: str, body: Object, strict: bool) -> Object:
        """Create an object, or refuse to."""
        return self._object("POST", kind, query={"fieldValidation": "Strict"} if strict else {}, body=body)

    def update(self, kind: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object, whoever else changes it at the same time."""
        while True:
            item = self._object("GET", kind, name)
            change(item)
            try:
                self._object("PUT", kind, name, body=item)
            except Refusal as refusal:
                if refusal.code != 409:
                    raise
            else:
                return

    def delete(self, kind: str, name: str) -> Object:
        """Delete an object and what it owns, pods without their 30 s, or refuse to."""
        return self._object("DELETE", kind, name, {"propagationPolicy": "Background", "gracePeriodSeconds": "1"})

    def left(self) -> list[str]:
        """Return what is there and is to stay: what is being deleted, and pods whose Job is gone, are waited for."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            jobs = {job["metadata"]["name"] for job in self.items("jobs")}
            going = [pod for pod in self.items("pods") if pod["metadata"]["labels"].get("job-name") not in jobs]
            if not going and not any("deletionTimestamp" in item["metadata"] for kind in OWNED for item in self.items(kind)):
                break
            time.sleep(1)
        return super().left()

    def _follow(self) -> None:
        """Note which Jobs have a pod that has left Pending."""
        while not self._closed.wait(0.3):
            with contextlib.suppress(Refusal):
                for pod in self.items("pods"):
                    job = pod["metadata"]["labels"].get("job-name")
                    if job and job not in self.started and pod["status"].get("phase", "Pending") != "Pending":
                        self.started.append(job)

    def close(self) -> None:
        """Delete what is ours, and wait until it is gone."""
        if self._closed.is_set():
            return
        self._closed.set()
        for kind in OWNED:
            for item in filter(is_ours, self.items(kind)):
                try:
                    self.delete(kind, item["metadata"]["name"])
                except Refusal as refusal:
                    if refusal.code != 404:
                        raise
        self.left()
