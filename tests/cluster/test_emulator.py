"""The emulator answers like the recorded server."""

import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cluster.emulator import Emulator
from tests.cluster.front import Object, Server

pytestmark = pytest.mark.emulated("this is about the emulator")
EXCHANGES: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes-exchanges.json").read_text())
JOBS = "/apis/batch/v1/namespaces/record/jobs"
PODS = "/api/v1/namespaces/record/pods"


class Client:
    """Asks the emulator as the recording asked the real server."""

    def __init__(self, server: Server):
        self.url = server.url

    def ask(self, method: str, path: str, body: Object | None = None, token: str = "planted-token") -> tuple[int, Any]:
        """Return status and body of an answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = urllib3.request(method, self.url + path, headers=headers, body=json.dumps(body).encode() if body else None)
        text = answer.data.decode()
        lines = text.splitlines()
        return answer.status, [json.loads(line) for line in lines] if "watch=1" in path else _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.fixture
def record() -> Any:
    cluster = Emulator("record")
    cluster.environment = {"PATH": "/usr/bin:/bin"}
    server = Server(cluster)
    yield cluster, Client(server)
    server.close()


def manifest(name: str, command: str = "echo hello; exit 0", **container: Any) -> Object:
    work = {"name": "main", "image": "example/image:1", "command": ["/bin/sh", "-c", command]} | container
    metadata = {"name": name, "labels": {"experiment": "r1"}}
    template = {"metadata": {"labels": {"experiment": "r1"}}, "spec": {"restartPolicy": "Never", "containers": [work]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"backoffLimit": 0, "template": template}}


def settled(cluster: Emulator, name: str) -> Object:
    for _ in range(200):
        job = cluster.objects["jobs"][name]
        if job["status"].get("conditions"):
            return deepcopy(job)
        time.sleep(0.02)
    raise AssertionError(f"{name} does not end")


def shape(value: Any) -> Any:
    """Return what an answer is made of, without what differs from run to run."""
    volatile = ("resourceVersion", "uid", "creationTimestamp", "lastProbeTime", "lastTransitionTime", "startTime", "completionTime")
    unlike = (*volatile, "controller-uid", "batch.kubernetes.io/controller-uid", "startedAt", "finishedAt", "deletionTimestamp", "name")
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key not in unlike and key not in ("generation", "strategy")}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return value


GPU = {"resources": {"requests": {"nvidia.com/gpu": "1"}}}
REFUSALS: dict[str, tuple[str, str, Object | None]] = {
    "create_bad_name_422": ("POST", JOBS, manifest("Bad_Name")),
    "create_duplicate_409": ("POST", JOBS, manifest("ok")),
    "create_gpu_without_limit_422": ("POST", JOBS, manifest("gpu", **GPU)),
    "create_bad_quantity_400": ("POST", JOBS, manifest("quantity", resources={"requests": {"memory": "lots"}})),
    "get_missing_404": ("GET", f"{JOBS}/nope", None),
    "delete_missing_404": ("DELETE", f"{JOBS}/nope", None),
    "namespace_missing_404": ("POST", JOBS.replace("record", "absent"), manifest("ok")),
}


@pytest.mark.parametrize("exchange", REFUSALS)
def test_a_refusal_is_word_for_word_the_recorded_one(record: tuple[Emulator, Client], exchange: str) -> None:
    _, client = record
    client.ask("POST", JOBS, manifest("ok"))
    method, path, body = REFUSALS[exchange]
    status, answer = client.ask(method, path, body)
    assert status == EXCHANGES[exchange]["status"]
    assert answer == EXCHANGES[exchange]["body"]


def test_a_bad_label_is_refused_as_recorded(record: tuple[Emulator, Client]) -> None:
    job = manifest("lab")
    job["metadata"]["labels"]["x"] = "a b"
    assert record[1].ask("POST", JOBS, job) == (422, EXCHANGES["create_bad_label_422"]["body"])


def test_an_unknown_field_is_refused_as_recorded_when_asked_strictly(record: tuple[Emulator, Client]) -> None:
    job = manifest("field")
    job["spec"]["template"]["spec"]["shmSize"] = "1Gi"
    assert record[1].ask("POST", f"{JOBS}?fieldValidation=Strict", job) == (400, EXCHANGES["create_unknown_field_strict_400"]["body"])
    assert record[1].ask("POST", JOBS, job)[0] == 201


def test_bad_tokens_and_missing_permissions_are_refused_as_recorded(record: tuple[Emulator, Client]) -> None:
    cluster, client = record
    assert client.ask("GET", JOBS, token="bad") == (401, EXCHANGES["bad_token_401"]["body"])
    cluster.forbidden.add(("list", "jobs"))
    assert client.ask("GET", JOBS) == (403, EXCHANGES["forbidden_403"]["body"])


def test_a_created_job_has_the_recorded_fields(record: tuple[Emulator, Client]) -> None:
    status, answer = record[1].ask("POST", JOBS, manifest("ok"))
    recorded = EXCHANGES["create_job_201"]
    assert status == recorded["status"]
    answer["status"] = {}  # the real Job controller needs a moment more
    assert shape(answer) == shape(recorded["body"])


@pytest.mark.parametrize(
    ("exchange", "command", "fault"),
    [
        ("job_complete", "echo hello; exit 0", None),
        ("job_failed", "exit 3", None),
        ("job_oomkilled", "sleep 60", "oom"),
        ("job_evicted", "sleep 60", "evicted"),
        ("job_node_lost", "sleep 60", "node_lost"),
        ("job_deadline", "sleep 60", "deadline"),
    ],
)
def test_a_job_and_its_pod_end_as_recorded(record: tuple[Emulator, Client], exchange: str, command: str, fault: str | None) -> None:
    cluster, client = record
    cluster.pod_fault = lambda _pod: fault
    client.ask("POST", JOBS, manifest("job", command))
    job = settled(cluster, "job")
    assert shape(job["status"]) == shape(EXCHANGES[exchange]["status"])
    pods = client.ask("GET", f"{PODS}?labelSelector=job-name%3Djob")[1]["items"]
    recorded = EXCHANGES[f"{exchange}_pods"]["body"]["items"]
    assert len(pods) == len(recorded)
    for ours, real in zip(pods, recorded, strict=True):
        assert ours["status"]["phase"] == real["status"]["phase"] or fault == "node_lost"
        assert ours["status"].get("reason") == real["status"].get("reason")
        states = [pod["status"]["containerStatuses"][0]["state"] for pod in (ours, real)]
        assert shape(states[0]).keys() == shape(states[1]).keys()
        if "terminated" in states[1]:
            assert [states[0]["terminated"][key] for key in ("exitCode", "reason")] == [
                states[1]["terminated"][key] for key in ("exitCode", "reason")
            ]


@pytest.mark.parametrize("exchange", ["job_image_pull", "job_unschedulable"])
def test_a_pod_that_waits_looks_as_recorded(record: tuple[Emulator, Client], exchange: str) -> None:
    cluster, client = record
    cluster.pod_fault = lambda _pod: exchange.removeprefix("job_")
    client.ask("POST", JOBS, manifest("job"))
    job = client.ask("GET", f"{JOBS}/job")[1]
    assert shape(job["status"]) == shape(EXCHANGES[exchange]["status"])
    ours = client.ask("GET", PODS)[1]["items"][0]["status"]
    real = EXCHANGES[f"{exchange}_pods"]["body"]["items"][0]["status"]
    assert ours["phase"] == real["phase"]
    if exchange == "job_image_pull":
        reasons = [each["containerStatuses"][0]["state"]["waiting"]["reason"] for each in (ours, real)]
    else:
        reasons = [
            next((each["status"], each["reason"]) for each in status["conditions"] if each["type"] == "PodScheduled")
            for status in (ours, real)
        ]
    assert reasons[0] == reasons[1]


def test_logs_are_as_recorded_and_previous_ones_are_refused(record: tuple[Emulator, Client]) -> None:
    cluster, client = record
    client.ask("POST", JOBS, manifest("ok"))
    settled(cluster, "ok")
    pod = next(iter(cluster.objects["pods"]))
    assert client.ask("GET", f"{PODS}/{pod}/log") == (200, EXCHANGES["log_200"]["body"])
    status, answer = client.ask("GET", f"{PODS}/{pod}/log?previous=True")
    recorded = EXCHANGES["log_previous_400"]
    assert status == recorded["status"]
    assert answer["message"].replace(pod, "POD") == recorded["body"]["message"].replace("ok-pxg5j", "POD")


def test_lists_have_pages_and_an_old_page_is_gone(record: tuple[Emulator, Client]) -> None:
    cluster, client = record
    for name in ("a", "b", "c"):
        client.ask("POST", JOBS, manifest(name))
    first = client.ask("GET", f"{JOBS}?labelSelector=experiment%3Dr1&limit=2")[1]
    assert shape(first).keys() == shape(EXCHANGES["list_jobs_by_label"]["body"]).keys()
    more = first["metadata"]["continue"]
    rest = client.ask("GET", f"{JOBS}?labelSelector=experiment%3Dr1&limit=2&continue={more}")[1]
    assert [item["metadata"]["name"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert client.ask("GET", f"{JOBS}?labelSelector=experiment%3Dr2")[1]["items"] == []
    cluster.compacted = cluster.version + 1
    assert client.ask("GET", f"{JOBS}?limit=2&continue={more}")[0] == 410


def test_a_foreground_deletion_is_watched_as_recorded(record: tuple[Emulator, Client]) -> None:
    cluster, client = record
    client.ask("POST", JOBS, manifest("run", "sleep 90"))
    version = cluster.version
    status, answer = client.ask("DELETE", f"{JOBS}/run?propagationPolicy=Foreground")
    recorded = EXCHANGES["delete_job_foreground_200"]
    assert status == recorded["status"]
    assert answer["metadata"]["finalizers"] == recorded["body"]["metadata"]["finalizers"]
    assert shape(answer["status"]) == shape(recorded["body"]["status"]) | {"ready": 0}
    events = client.ask("GET", f"{JOBS}?watch=1&resourceVersion={version}&timeoutSeconds=1")[1]
    assert [event["type"] for event in events][-1] == "DELETED"
    pods = client.ask("GET", f"{PODS}?watch=1&resourceVersion={version}&timeoutSeconds=1")[1]
    kinds = [(event["type"], "deletionTimestamp" in event["object"]["metadata"]) for event in pods]
    seen = EXCHANGES["watch_pods_while_deleting"][-1]
    assert (seen["type"], "deletionTimestamp" in seen["object"]["metadata"]) in kinds
    cluster.compacted = cluster.version
    assert client.ask("GET", f"{JOBS}?watch=1&resourceVersion=1&timeoutSeconds=1")[1][0]["object"]["code"] == 410
