"""The HTTP server that controllers talk to. It logs requests, injects faults, and forwards to an emulated or a real cluster."""

import json
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KINDS = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "secrets": ("v1", "Secret"), "leases": ("coordination.k8s.io/v1", "Lease")}
KINDS["events"] = ("v1", "Event")
OWNED = ("jobs", "pods", "secrets", "leases")  # what a run leaves; events go by themselves
ROUTE = re.compile(r"/(?:api|apis/[^/]+)/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<part>status|log))?")

PLUGIN = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
with (here / "runs").open("a") as runs:
    runs.write("x")
if (here / "hung").exists():
    time.sleep(60)
if (here / "broken").exists():
    sys.exit("the SSO session has expired")
token = (here / "token").read_text()
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}))
"""
"""A credential plugin as those of EKS and GKE, in the folder of its kubeconfig. The file `broken` there makes it fail, `hung` hang."""

Object = dict[str, Any]


class Refusal(Exception):  # noqa: N818  an answer, not an error of ours
    """An answer that is not a success."""

    def __init__(self, code: int, reason: str, message: str, **details: Any):
        super().__init__(message)
        body = {"apiVersion": "v1", "code": code, "kind": "Status", "message": message, "metadata": {}, "reason": reason}
        self.code = code
        self.body: Object = body | {"status": "Failure"} | ({"details": details} if details else {})


@dataclass
class Request:
    """One request as it arrived."""

    verb: str  # get, list, watch, create, update, patch, delete, deletecollection
    kind: str
    name: str
    path: str
    query: dict[str, str]
    body: Object | None
    namespace: str = ""
    part: str = ""  # /log
    token: str = ""
    at: float = field(default_factory=time.monotonic)
    status: int = 0


def api_group(kind: str) -> str:
    """Return the API group of a kind of objects, empty for the core."""
    return KINDS[kind][0].rpartition("/")[0]


def full_name(kind: str) -> str:
    """Return a kind of objects as refusals name it."""
    return f"{kind}.{api_group(kind)}" if api_group(kind) else kind


def details(kind: str, name: str = "") -> Object:
    """Return the details of a refusal."""
    return ({"name": name} if name else {}) | ({"group": api_group(kind)} if api_group(kind) else {}) | {"kind": kind}


class Cluster(ABC):
    """One namespace of a cluster as the tests see it: what they inject, what controllers have asked, what is there.

    Attributes:
        here: Whether pods are processes of this machine with its Python, which need no GPU that they ask for.
        pace: How many times as long as an emulator this cluster may take.
        image: The image of the jobs.
        root: The folder with all that pods write on this machine.
        token: What the server in front asks controllers for.
        forbidden: Verbs and kinds that controllers have no permission for.
        faults: Asked about each request; an answer is sent in place of the cluster's, or done to the connection (reset, late).
        started: The names of Jobs whose command was started, in order.
    """

    here = True
    pace = 1.0
    image = "tune:1"
    root: Path | None = None

    def __init__(self, namespace: str, token: str = "planted-token"):
        self.namespace = namespace
        self.token = token
        self.forbidden: set[tuple[str, str]] = set()
        self.faults: list[Callable[[Request], Refusal | int | str | None]] = []
        self.requests: list[Request] = []
        self.started: list[str] = []

    @abstractmethod
    def answer(self, request: Request) -> tuple[int, Any]:
        """Return status and answer (an object, a text, or a watch's events) to a controller, or refuse."""

    @abstractmethod
    def items(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""

    @abstractmethod
    def running(self) -> int:
        """Return how many pods run."""

    @abstractmethod
    def create(self, kind: str, body: Object, strict: bool) -> Object:
        """Create an object, or refuse to."""

    @abstractmethod
    def update(self, kind: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object."""

    @abstractmethod
    def delete(self, kind: str, name: str) -> Object:
        """Delete an object and what it owns, or refuse to."""

    @abstractmethod
    def close(self) -> None:
        """Remove all that is there."""

    def created(self) -> list[str]:
        """Return what was created, by the log of requests."""
        return [f"{each.kind}/{each.name}" for each in self.requests if each.verb == "create" and each.status == 201]

    def left(self) -> list[str]:
        """Return what is there."""
        return [f"{kind}/{item['metadata']['name']}" for kind in OWNED for item in self.items(kind)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    cluster: Cluster

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        split = urlsplit(self.path)
        query = dict(parse_qsl(split.query))
        route = ROUTE.fullmatch(split.path)
        kind, name = (route["kind"], route["name"] or "") if route else ("", "")
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(self.command, "")
        if self.command == "DELETE":
            verb = "delete" if name else "deletecollection"
        elif self.command == "GET":
            verb = "get" if name else ("watch" if query.get("watch") else "list")
        named = name or ((body or {}).get("metadata") or {}).get("name", "")
        where = (route["namespace"], "/log" if route["part"] == "log" else "") if route else ("", "")
        request = Request(verb, kind, named, split.path, query, body, *where)
        request.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.cluster.requests.append(request)
        try:
            for fault in list(self.cluster.faults):
                what = fault(request)
                if what == "reset":
                    request.status = -1
                    self.connection.close()
                    self.close_connection = True
                    return
                if what == "late":  # done, but the answer gets lost
                    self._answer(request)
                    request.status = -1
                    self.close_connection = True
                    return
                if isinstance(what, Refusal):
                    raise what
                if what == 429:
                    raise Refusal(429, "TooManyRequests", "the server has received too many requests and has asked us to try again later")
                if what:
                    raise Refusal(int(what), "InternalError", "Internal error occurred: injected")
            code, answer = self._answer(request)
        except Refusal as refusal:
            code, answer = refusal.code, refusal.body
        request.status = code
        if isinstance(answer, Iterator):
            self._stream(answer)
        else:
            self._send(code, answer)

    def _answer(self, request: Request) -> tuple[int, Any]:
        cluster, kind = self.cluster, request.kind
        if request.token != cluster.token:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if kind not in KINDS:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if (request.verb, kind + request.part) in cluster.forbidden:
            user = "system:serviceaccount:snakemake:snakemake-runner"
            message = (
                f'{full_name(kind)} is forbidden: User "{user}" cannot {request.verb} resource "{kind}{request.part}" in API group '
                f'"{api_group(kind)}" in the namespace "{request.namespace}"'
            )
            raise Refusal(403, "Forbidden", message, **details(kind))
        return cluster.answer(request)

    def _send(self, code: int, answer: Any) -> None:
        text = isinstance(answer, str)
        data = answer.encode() if text else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[Object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in events:
                self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  the names http.server looks for


class _Http(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients are killed in the middle of a request
            super().handle_error(request, client_address)


class Server:
    """A cluster behind HTTP on a port of this machine, and a kubeconfig that leads there."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        handler = type("Handler", (_Handler,), {"cluster": cluster})
        self._http = _Http(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def write_kubeconfig(self, path: Path, plugin: bool = False) -> Path:
        """Write a kubeconfig with the token that is asked for, or with a plugin that brings it from the file `token` beside."""
        user: Object = {"token": self.cluster.token}
        if plugin:
            (path.parent / "plugin.py").write_text(PLUGIN)
            (path.parent / "token").write_text(self.cluster.token)
            command = {"command": sys.executable, "args": [str(path.parent / "plugin.py")], "interactiveMode": "Never"}
            user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1"} | command}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "front", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "front", "context": {"cluster": "front", "user": "user", "namespace": self.cluster.namespace}}],
            "current-context": "front",
        }
        path.write_text(json.dumps(config))
        return path

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self.cluster.close()
