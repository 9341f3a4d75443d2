"""The few requests an experiment makes to a Kubernetes API server, as plain data, with errors told in one line."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import urllib3
from kubernetes import client, config

PATHS = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "secrets": "/api/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}
PAGE = 500
TIMEOUT = urllib3.Timeout(connect=5, read=30)
PATIENCE = 5  # attempts at a request that fails for a reason that may pass
TRANSIENT = {408, 429, 500, 502, 503, 504}

Object = dict[str, Any]


class ApiError(Exception):
    """An answer that says no, or no answer (status 0)."""

    def __init__(self, status: int, message: str, kind: str = "", wait: float | None = None):
        super().__init__(message)
        self.status = status
        self.kind = kind  # of what was not found
        self.wait = wait  # seconds the server asks to wait

    @property
    def transient(self) -> bool:
        """Return whether the same request may succeed later."""
        return self.status == 0 or self.status in TRANSIENT


class NoClusterError(Exception):
    """Nothing says where the cluster is."""


def _connect() -> client.ApiClient:
    """Return a client with the credentials as they are now: of the kubeconfig, or of the pod this runs in."""
    settings = client.Configuration()
    try:
        config.load_kube_config(client_configuration=settings)
    except config.ConfigException as no_kubeconfig:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            raise NoClusterError(
                f"no cluster: no usable kubeconfig in $KUBECONFIG or ~/.kube/config ({no_kubeconfig}), and this is not a pod"
            ) from None
    return client.ApiClient(settings)


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, namespace: str):
        self.namespace = namespace
        self._client = _connect()

    def list(self, resource: str, selector: str, attempts: int = PATIENCE) -> list[Object]:
        """Return all objects that match; a list that expires halfway is begun again."""
        try:
            return list(self._pages(resource, selector, attempts))
        except ApiError as error:
            if error.status != 410:
                raise
            return list(self._pages(resource, selector, attempts))

    def _pages(self, resource: str, selector: str, attempts: int) -> Iterator[Object]:
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            page = self._object("GET", resource, query=query, attempts=attempts)
            yield from page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    def get(self, resource: str, name: str) -> Object:
        """Return one object."""
        return self._object("GET", resource, name)

    def create(self, resource: str, body: Object) -> Object:
        """Create an object; a field that the server does not know is an error."""
        return self._object("POST", resource, query={"fieldValidation": "Strict"}, body=body)

    def replace(self, resource: str, body: Object) -> Object:
        """Replace an object, if it still is the version that the body names."""
        return self._object("PUT", resource, body["metadata"]["name"], body=body)

    def annotate(self, resource: str, name: str, annotations: dict[str, str]) -> None:
        """Add annotations to an object."""
        self._object("PATCH", resource, name, body={"metadata": {"annotations": annotations}})

    def delete(self, resource: str, name: str, attempts: int = PATIENCE) -> bool:
        """Delete an object and what it owns; return whether it was there."""
        try:
            self._object("DELETE", resource, name, {"propagationPolicy": "Background"}, attempts=attempts)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def delete_all(self, resource: str, selector: str) -> None:
        """Delete whatever matches, in one request."""
        self._object("DELETE", resource, query={"labelSelector": selector, "propagationPolicy": "Background"})

    def log(self, pod: str, container: str) -> str:
        """Return what a container has written, its last megabyte at most."""
        query = {"container": container, "tailLines": "10000", "limitBytes": str(1 << 20)}
        return self._request("GET", self._path("pods", pod) + "/log", query, None, 2).decode(errors="replace")

    def _path(self, resource: str, name: str = "") -> str:
        path = f"{PATHS[resource]}/namespaces/{quote(self.namespace, safe='')}/{resource}"
        return f"{path}/{name}" if name else path

    def _object(
        self,
        method: str,
        resource: str,
        name: str = "",
        query: dict[str, str] | None = None,
        body: Object | None = None,
        attempts: int = PATIENCE,
    ) -> Object:
        answer: Object = json.loads(self._request(method, self._path(resource, name), query or {}, body, attempts))
        return answer

    def _request(self, method: str, path: str, query: dict[str, str], body: Object | None, attempts: int) -> bytes:
        """Return an answer; ask again while the reason for a refusal may pass, at once with fresh credentials after a 401."""
        fresh = False
        attempt = 1
        while True:
            try:
                return self._once(method, path, query, body)
            except ApiError as error:
                if error.status == 401 and not fresh:
                    fresh = True
                    self._client = _connect()
                    continue
                if not error.transient or attempt >= attempts:
                    raise
                time.sleep(error.wait if error.wait is not None else min(0.2 * 2**attempt, 10) * random.uniform(0.5, 1))
                attempt += 1

    def _once(self, method: str, path: str, query: dict[str, str], body: Object | None) -> bytes:
        connection = self._client
        headers = {"Accept": "application/json"}
        parameters = list(query.items())
        connection.update_params_for_auth(headers, parameters, ["BearerToken"])
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            answer = connection.rest_client.pool_manager.request(
                method,
                connection.configuration.host + path + "?" + "&".join(f"{key}={quote(value)}" for key, value in parameters),
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=TIMEOUT,
                retries=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, f"no answer from {connection.configuration.host}: {type(error).__name__}") from None
        if 200 <= answer.status < 300:
            return bytes(answer.data)
        raise _refusal(answer)


def _refusal(answer: urllib3.BaseHTTPResponse) -> ApiError:
    """Return the error that an answer carries: the server's own sentence, never its body."""
    try:
        status = json.loads(answer.data)
        message, kind = str(status["message"]), str((status.get("details") or {}).get("kind", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind = f"HTTP {answer.status}", ""
    wait = answer.headers.get("Retry-After", "")
    return ApiError(answer.status, message, kind, min(float(wait), 30) if wait.isdigit() else None)
