"""The requests of an experiment to a Kubernetes API server, as plain data. Each error is one line."""

import json
import logging
import random
import re
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3
from kubernetes import client, config
from kubernetes.config import kube_config

PATHS = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "secrets": "/api/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}
PAGE = 500
TIMEOUT = urllib3.Timeout(connect=5, read=30)
PLUGIN_PATIENCE = 30.0  # seconds to wait for a credential plugin
PATIENCE = 5  # attempts at a request that fails for a transient reason
TRANSIENT = {0, 408, 429, 500, 502, 503, 504}
_NO_RIGHT = re.compile(r'User ".*" cannot \w+ resource')  # in a 403 of RBAC; quotas and admission use other words

Object = dict[str, Any]
Right = tuple[str, str, bool]  # method, resource, whether the request names one object
Parameters = list[tuple[str, str]]


class ApiError(Exception):
    """An error answer, or no answer (status 0).

    Attributes:
        kind: Kind of the object that was not found.
        wait: Seconds that the server asks to wait.
        transient: Whether the same request may succeed later.
        hung: Whether the failure took so long that a second attempt is not worth waiting for.
    """

    def __init__(self, status: int, message: str, kind: str = "", wait: float | None = None):
        super().__init__(message)
        self.status, self.kind, self.wait = status, kind, wait
        self.transient = status in TRANSIENT
        self.hung = False

    @property
    def lacks_right(self) -> bool:
        """Return whether the server does not know the user, or the user lacks the right."""
        return self.status == 401 or (self.status == 403 and bool(_NO_RIGHT.search(str(self))))


class NoClusterError(ValueError):
    """There is neither a usable kubeconfig nor a pod's service account."""


_TIMED = """
import subprocess, sys
try:
    sys.exit(subprocess.run(sys.argv[2:], timeout=float(sys.argv[1])).returncode)
except subprocess.TimeoutExpired:
    sys.exit(f"no answer within {float(sys.argv[1]):g} s")
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""  # runs a credential plugin with a time limit, which the client does not have


class _HungError(config.ConfigException):  # type: ignore[misc]
    """A credential plugin did not answer in time."""


class _Kubeconfig(kube_config.KubeConfigLoader):  # type: ignore[misc]
    """Loads a kubeconfig. A failing credential plugin is an error; the stock client would continue as an anonymous user."""

    def check(self) -> None:
        """Load everything but the credentials of a plugin. Raises any error that the client has for a damaged kubeconfig."""
        if not self._plugin:
            self._load_authentication()
        self._load_cluster_info()
        if not urlsplit(host := getattr(self, "host", "")).hostname:
            raise config.ConfigException(f"its server {host!r} is no URL")
        if host.startswith("https"):
            context = ssl.create_default_context(cafile=self.ssl_ca_cert)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file, password="")  # a password would be asked for

    @property
    def _plugin(self) -> str | None:
        return self._user and next((way for way in ("exec", "auth-provider") if way in self._user), None)

    def _load_authentication(self) -> None:
        for credential in ("token", "cert_file", "key_file"):
            if hasattr(self, credential):
                delattr(self, credential)
        if self._user and (own := self._user.value.get("exec")) and "command" in own:
            words = [own["command"], *(own.get("args") or [])]
            self._user.value["exec"] = own | {"command": sys.executable, "args": ["-c", _TIMED, str(PLUGIN_PATIENCE), *words]}
        with _overheard() as said:
            super()._load_authentication()
        if self._plugin and not {"token", "cert_file"} & vars(self).keys():
            why = " ".join(said) or "no token"
            kind = _HungError if "no answer within" in why else config.ConfigException
            raise kind(f"its {self._plugin} plugin failed: {why}")


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect messages of the root logger, which the client uses, instead of printing them."""
    said: list[str] = []
    root, silent = logging.getLogger(), logging.NullHandler()

    def hear(record: logging.LogRecord) -> bool:
        said.append(" ".join(record.getMessage().split())[:300])
        return False

    root.addHandler(silent)
    root.addFilter(hear)
    try:
        yield said
    finally:
        root.removeFilter(hear)
        root.removeHandler(silent)


def check_kubeconfig() -> None:
    """Raise NoClusterError unless there is a usable kubeconfig or service account. Nothing is asked, and no credential plugin runs."""
    if loader := _load(client.Configuration()):
        with _usable():
            loader.check()


def _load(settings: client.Configuration) -> _Kubeconfig | None:
    """Return the kubeconfig. If there is none, put a pod's service account into `settings`. Raises NoClusterError when there is neither."""
    with _usable():
        files = kube_config.KubeConfigMerger(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
        if files.config is not None:
            return _Kubeconfig(config_dict=files.config, config_base_path=None, config_persister=files.save_changes)
        config.load_incluster_config(client_configuration=settings)
    return None


@contextmanager
def _usable() -> Iterator[None]:
    """Turn any error of a kubeconfig into a NoClusterError."""
    try:
        yield
    except Exception as error:  # a damaged file leads to errors of many types
        why = f"no usable kubeconfig in $KUBECONFIG or ~/.kube/config ({' '.join(str(error).split()) or type(error).__name__})"
        raise NoClusterError(f"no cluster: {why}, and this is not a pod") from None


def _connect() -> client.ApiClient:
    """Return a client with the current credentials of the kubeconfig or of this pod.

    Raises:
        NoClusterError: there is neither.
        ApiError: the credentials cannot be loaded now.
    """
    settings = client.Configuration()
    if loader := _load(settings):
        try:
            loader.load_and_set(settings)
        except Exception as error:  # each plugin raises its own type
            raise _no_credentials(error) from None
    return client.ApiClient(settings)


def _no_credentials(error: Exception) -> ApiError:
    failure = ApiError(0, f"no credentials from the kubeconfig: {' '.join(str(error).split()) or type(error).__name__}")
    failure.hung = isinstance(error, _HungError)
    return failure


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, namespace: str):
        self.namespace = namespace
        self._client: client.ApiClient | None = None
        self._connecting = threading.Lock()
        self._held: set[Right] = set()  # rights that a request has used with success

    def list(self, resource: str, selector: str = "", attempts: int = PATIENCE, fields: str = "") -> list[Object]:
        """Return all objects that match labels and fields. A list that expires between pages is restarted."""
        try:
            return list(self._pages(resource, selector, fields, attempts))
        except ApiError as error:
            if error.status != 410:
                raise
            return list(self._pages(resource, selector, fields, attempts))

    def _pages(self, resource: str, selector: str, fields: str, attempts: int) -> Iterator[Object]:
        query = {name: text for name, text in (("labelSelector", selector), ("fieldSelector", fields)) if text} | {"limit": str(PAGE)}
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
        """Create an object. Unknown fields are an error."""
        return self._object("POST", resource, query={"fieldValidation": "Strict"}, body=body)

    def replace(self, resource: str, body: Object) -> Object:
        """Replace an object if its version is still the one in the body."""
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
        """Delete all objects that match, in one request."""
        self._object("DELETE", resource, query={"labelSelector": selector, "propagationPolicy": "Background"})

    def log(self, pod: str, container: str) -> str:
        """Return the log of a container, at most one megabyte of its last 10,000 lines."""
        query = {"container": container, "tailLines": "10000", "limitBytes": str(1 << 20)}
        path = self._path("pods", pod) + "/log"
        return self._request("GET", path, query, None, 2, ("GET", "pods/log", True)).decode(errors="replace")

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
        right = (method, resource, bool(name))
        answer: Object = json.loads(self._request(method, self._path(resource, name), query or {}, body, attempts, right))
        return answer

    def _request(self, method: str, path: str, query: dict[str, str], body: Object | None, attempts: int, right: Right) -> bytes:
        """Return an answer. Retry transient failures, and the first 401 at once with fresh credentials.

        If a user or right was accepted before and is refused now, the credentials have expired or the server has not loaded its rules yet.
        That is transient. A right that was never accepted is retried as well. After the last attempt it counts as missing.
        """
        fresh = False
        attempt = 1
        while True:
            try:
                answer = self._once(method, path, query, body)
            except ApiError as error:
                if error.lacks_right:
                    error.transient = bool(self._held) if error.status == 401 else right in self._held
                if error.status == 401 and not fresh:
                    fresh = True
                    continue
                passes = error.transient or (error.status == 403 and error.lacks_right)
                if not passes or error.hung or attempt >= attempts:
                    raise
                time.sleep(error.wait if error.wait is not None else min(0.2 * 2**attempt, 10) * random.uniform(0.5, 1))
                attempt += 1
            else:
                self._held.add(right)
                return answer

    def _once(self, method: str, path: str, query: dict[str, str], body: Object | None) -> bytes:
        headers = {"Accept": "application/json"}
        parameters = list(query.items())
        connection = self._connection(headers, parameters)
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
        refusal = _refusal(answer)
        if refusal.lacks_right and self._client is connection:
            self._client = None  # the next request reloads the credentials
        raise refusal

    def _connection(self, headers: dict[str, str], parameters: Parameters) -> client.ApiClient:
        """Return a client, with its credentials added to the headers of a request."""
        with self._connecting:
            try:
                connection = self._client = self._client or _connect()
                connection.update_params_for_auth(headers, parameters, ["BearerToken"])
            except NoClusterError as error:
                if not self._held:
                    raise
                raise _no_credentials(error) from None  # the kubeconfig may be in the middle of a rewrite
            except Exception as error:
                self._client = None
                raise error if isinstance(error, ApiError) else _no_credentials(error) from None
            return connection


def _refusal(answer: urllib3.BaseHTTPResponse) -> ApiError:
    """Return the error of an answer, with the server's message and never the whole body."""
    try:
        status = json.loads(answer.data)
        message, kind = str(status["message"]), str((status.get("details") or {}).get("kind", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind = f"HTTP {answer.status}", ""
    wait = answer.headers.get("Retry-After", "")
    return ApiError(answer.status, message, kind, min(float(wait), 30) if wait.isdigit() else None)
