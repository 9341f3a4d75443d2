"""The parts of the executor, each alone."""

import json
import os
import subprocess
import sys
import threading
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from kubernetes_validate.utils import schema_contents
from snakemake_executor_plugin_kubernetes_experiment import Executor, api, lease
from snakemake_executor_plugin_kubernetes_experiment.api import ApiError
from snakemake_executor_plugin_kubernetes_experiment.lease import HeldError, Lease, identity, surely_dead
from snakemake_executor_plugin_kubernetes_experiment.manifest import CONTAINER_SECURITY, POD, Task, finish, redact, secret_manifest
from snakemake_executor_plugin_kubernetes_experiment.names import Experiment, label_value, make_experiment
from snakemake_executor_plugin_kubernetes_experiment.patch import MERGE_KEYS, merge, read_patch
from snakemake_executor_plugin_kubernetes_experiment.spending import oversize, refusal
from snakemake_executor_plugin_kubernetes_experiment.status import Limits, Outcome, judge
from snakemake_executor_plugin_kubernetes_experiment.teardown import RefusedError, teardown

from tests.cluster.emulator import LABEL, NAME, QUEUE, VERSION, Emulator, ago, job_name, violation
from tests.cluster.front import Refusal, Server

pytestmark = pytest.mark.emulated("each part is tried against what was recorded or emulated")
EXCHANGES: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes-exchanges.json").read_text())
LIMITS = Limits(image_pull=60, pending=60, forbidden=30)
EXPERIMENT = Experiment("sdt", "r1", "tests")


def recorded(name: str, seconds: int = 0, limits: Limits = LIMITS) -> Outcome:
    """Return the judgement of a recorded Job and its pods, some seconds after the recording."""
    pods = EXCHANGES[f"{name}_pods"]["body"]["items"]
    job = EXCHANGES[name]
    at = datetime.fromisoformat(job["metadata"]["creationTimestamp"]) + timedelta(seconds=seconds)
    return judge(job, pods, at, limits)


@pytest.mark.parametrize(
    ("name", "seconds", "state", "why"),
    [
        ("job_complete", 1, "succeeded", ""),
        ("job_failed", 1, "failed", "exit code 3"),
        ("job_oomkilled", 1, "failed", "OOMKilled: used more memory"),
        ("job_evicted", 1, "failed", "evicted: The node was low on resource: memory"),
        ("job_node_lost", 1, "failed", "node lost: Taint manager"),
        ("job_deadline", 1, "failed", "deadline exceeded"),
        ("job_running", 10000, "running", ""),
        ("job_image_pull", 1, "running", "ImagePullBackOff: Back-off pulling image"),
        ("job_image_pull", 100, "failed", "ImagePullBackOff: Back-off pulling image"),
        ("job_unschedulable", 1, "running", "unschedulable: 0/2 nodes are available"),
        ("job_unschedulable", 100, "failed", "unschedulable: 0/2 nodes are available"),
    ],
)
def test_a_recorded_job_is_judged_by_its_real_objects(name: str, seconds: int, state: str, why: str) -> None:
    outcome = recorded(name, seconds)
    assert outcome.state == state
    assert outcome.why.startswith(why)
    assert "\n" not in outcome.why


def test_a_limit_of_nothing_waits_for_ever() -> None:
    assert recorded("job_image_pull", 10**6, Limits(0, 0, 0)).state == "running"
    assert recorded("job_unschedulable", 10**6, Limits(0, 0, 0)).state == "running"


def test_a_replaced_pod_counts_less_than_the_one_that_runs() -> None:
    dead = EXCHANGES["job_failed_pods"]["body"]["items"][0]
    alive = EXCHANGES["job_running_pods"]["body"]["items"][0]
    assert judge(EXCHANGES["job_running"], [dead, alive], datetime.now(UTC), LIMITS).state == "running"


def test_a_container_that_has_succeeded_counts_although_a_sidecar_keeps_its_job_running() -> None:
    done = EXCHANGES["job_complete_pods"]["body"]["items"][0]
    assert judge(EXCHANGES["job_running"], [done], datetime.now(UTC), LIMITS).state == "succeeded"


def test_lists_are_merged_by_the_keys_of_kubernetes_own_schema() -> None:
    definitions = schema_contents(f"kubernetes-json-schema/v{VERSION}-local/_definitions.json", VERSION)
    keys: dict[str, str] = {}
    for name, schema in definitions.get("definitions", definitions.get("$defs", definitions)).items():
        kind = name.rsplit(".", 1)[-1]
        if "api.core.v1" not in name or kind in ("ServiceSpec", "ServiceAccount", "PodStatus") or "Status" in kind or "Node" in kind:
            continue
        for field, inner in (schema.get("properties") or {}).items():
            if isinstance(inner, dict) and "x-kubernetes-patch-merge-key" in inner:
                keys[field] = inner["x-kubernetes-patch-merge-key"]
    keys.pop("secrets", None)
    assert {field: key for field, key in keys.items() if field in MERGE_KEYS} == MERGE_KEYS


BASE = {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}], "tolerations": [{"key": "gpu"}], "nodeSelector": {"p": "q"}}


@pytest.mark.parametrize(
    ("patch", "merged"),
    [
        ({"containers": [{"name": "a", "image": "i"}]}, {"containers": [{"name": "a", "env": BASE["containers"][0]["env"], "image": "i"}]}),
        ({"containers": [{"name": "b"}]}, {"containers": [*BASE["containers"], {"name": "b"}]}),
        (
            {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]},
            {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]},
        ),
        ({"containers": [{"name": "a", "$patch": "delete"}]}, {"containers": []}),
        ({"containers": [{"$patch": "replace"}, {"name": "b"}]}, {"containers": [{"name": "b"}]}),
        ({"tolerations": [{"operator": "Exists"}]}, {"tolerations": [{"operator": "Exists"}]}),
        ({"nodeSelector": {"r": "s"}}, {"nodeSelector": {"p": "q", "r": "s"}}),
        ({"nodeSelector": {"p": None}}, {"nodeSelector": {}}),
        ({"nodeSelector": {"$patch": "replace", "r": "s"}}, {"nodeSelector": {"r": "s"}}),
        ({"nodeSelector": None}, {"nodeSelector": None}),
    ],
)
def test_a_patch_is_merged_as_kubernetes_does(patch: dict[str, Any], merged: dict[str, Any]) -> None:
    expected = {key: value for key, value in (BASE | merged).items() if value is not None}
    assert merge(BASE, patch) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a", "not a pod patch, which is a mapping with the keys metadata and spec"),
        ("kind: Pod", "not a pod patch, which is a mapping"),
        ("spec: {tolerationz: []}", "not a pod patch: spec has no field tolerationz"),
        ("spec: {tolerations: {}}", "not a pod patch: spec.tolerations is not a list"),
        ("spec: {containers: [{image: x}]}", "not a pod patch: spec.containers[0] has no name, by which the list is merged"),
        ("spec: {volumes: [{name: shm, emptyDir: {medim: Memory}}]}", "not a pod patch: spec.volumes[0].emptyDir has no field medim"),
        ("spec: {priorityClassName: [a]}", "not a pod patch: spec.priorityClassName is not a single value"),
        ("spec: {priorityClassName: no}", "not a pod patch: spec.priorityClassName is not text but False: put it in quotes"),
        ("spec: [", "not YAML"),
    ],
)
def test_what_is_no_pod_patch_is_refused_in_one_line(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="pod patch") as error:
        read_patch(path)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("run_id", ["R1", "r_1", "-r1", "r1-", "r 1", "r/1", "r1.", "ü", "r" * 40, ""])
def test_a_run_id_that_kubernetes_refuses_is_refused_first(run_id: str) -> None:
    with pytest.raises(ValueError, match=r"run id") as error:
        make_experiment("sdt", run_id, "tests")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", ["train_rung", "x" * 90, "_", "Ünder_Score9"])
def test_names_and_labels_are_such_as_kubernetes_takes(rule: str) -> None:
    name = make_experiment("sdt", "r" * 32, "w").job_name(rule, "0123456789", 12)
    assert NAME.fullmatch(name)
    assert len(name) <= 63
    value = label_value(rule)
    assert LABEL.fullmatch(value)
    assert len(value) <= 63


@pytest.mark.parametrize(
    ("hours", "cost"),
    [
        ([None, None], "would run 2 x train_rung with 8 GPUs; to"),
        (["12.25", 0.25], "would run 2 x train_rung with 8 GPUs, about 12.5 device-hours; to"),
        ([2000, "<TBD>"], "would run 2 x train_rung with 8 GPUs, at least 2,000.0 device-hours; to"),
    ],
)
def test_what_is_not_acknowledged_is_told_with_its_cost(hours: list[Any], cost: str) -> None:
    jobs = [SimpleNamespace(name="train_rung", resources={"spends": "train", "gpu": 4, "device_hours": each}) for each in hours]
    line = refusal(jobs, {"train": "", "serve": "r1"}, "r1")
    assert line == f"training not acknowledged: {cost} let it run, add ack_train=r1 to --config"
    assert refusal(jobs, {"train": "r1", "serve": ""}, "r1") is None


@pytest.mark.parametrize(("gpus", "per_node", "refused"), [(8, 4, True), (4, 4, False), (8, 0, False), ("<TBD>", 4, False)])
def test_a_job_that_no_node_can_run_is_told(gpus: Any, per_node: int, refused: bool) -> None:
    line = oversize([SimpleNamespace(name="train_rung", resources={"gpu": gpus})], per_node)
    message = "rule train_rung asks for 8 GPUs, more than a node has (--kubernetes-experiment-gpus-per-node=4): lower its resource gpu"
    assert line == (message if refused else None)


def test_secrets_are_redacted_in_both_their_forms() -> None:
    assert redact("a hushhush b aHVzaGh1c2g= c", {"TOKEN": "hushhush"}) == "a *** b *** c"


@pytest.fixture
def reach(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> api.Cluster:
    path = server.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return api.Cluster("tune")


def waiting_job(name: str, **labels: str) -> dict[str, Any]:
    """Return a Job that runs for a minute."""
    work = {"name": "snakemake", "image": "tune:1", "command": ["/bin/sh"], "args": ["-c", "sleep 60"], "resources": {}}
    work |= {"securityContext": CONTAINER_SECURITY}
    spec = {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": POD | {"restartPolicy": "Never", "containers": [work]}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels}, "spec": spec}


def secret(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}}


def test_a_list_is_read_page_by_page_and_begun_again_when_it_expires(
    cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 2)
    for number in range(5):
        reach.create("secrets", secret(f"s{number}", experiment="r1"))

    def expire(request: Any) -> None:
        cluster.compacted = cluster.version + 1 if request.query.get("continue") and not cluster.compacted else min(cluster.compacted, 1)

    cluster.faults.append(expire)
    assert [item["metadata"]["name"] for item in reach.list("secrets", "experiment=r1")] == [f"s{number}" for number in range(5)]
    assert [each.status for each in cluster.requests if each.verb == "list"] == [200, 410, 200, 200, 200]


def lease_of(reach: api.Cluster, said: list[str] | None = None) -> Lease:
    lost: list[str] = said if said is not None else []
    return Lease(reach, EXPERIMENT, lost.append, lost.append)


def hold(cluster: Emulator, **spec: Any) -> dict[str, Any]:
    """Return the Lease after a process of another machine has taken it."""
    theirs = {"holderIdentity": "elsewhere/boot.1/7", "leaseDurationSeconds": 1, **spec}
    cluster.update("leases", "sdt-r1", lambda lease: lease["spec"].update(theirs))
    return cluster.objects["leases"]["sdt-r1"]


@pytest.mark.parametrize("clock", [-3600, 3600])
def test_a_lease_is_taken_when_it_was_watched_unchanged_whatever_its_holders_clock_says(
    cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch, clock: int
) -> None:
    monkeypatch.setattr(lease, "PAUSE", 0.1)
    lease_of(reach).acquire()
    hold(cluster, renewTime=ago(clock))
    said: list[str] = []
    begun = time.monotonic()
    second = lease_of(reach, said)
    second.acquire()
    assert time.monotonic() - begun >= 1
    assert said == ["run r1 is controlled by process 7 on elsewhere; will see within 1 s whether it is alive"]
    assert second.held
    second.release()
    assert cluster.left() == []


def test_a_lease_that_is_renewed_is_refused_and_one_that_is_given_back_is_taken(
    cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PAUSE", 0.1)
    lease_of(reach).acquire()
    hold(cluster, leaseDurationSeconds=60, renewTime=ago(3600))
    threading.Timer(0.5, hold, (cluster,), {"renewTime": ago(3000)}).start()
    with pytest.raises(
        HeldError, match=r"controlled by process 7 on elsewhere, which has just renewed its hold; stop it \(kill 7 there\), or let it end"
    ):
        lease_of(reach).acquire()
    threading.Timer(0.5, cluster.delete, ("leases", "sdt-r1")).start()
    lease_of(reach).acquire()
    with pytest.raises(HeldError, match="belongs to workstream tests, not to other"):
        Lease(reach, Experiment("sdt", "r1", "other"), print, print).acquire()


def test_a_lease_that_was_not_renewed_in_time_is_not_held_until_the_server_confirms_it(
    cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DURATION", 1)
    lost: list[str] = []
    mine = lease_of(reach, lost)
    mine.acquire()
    time.sleep(1.2)
    assert mine.held
    for theirs in (False, True):
        cluster.faults.append(lambda _request: 500)
        time.sleep(1.2)
        assert not mine.held
        if theirs:
            hold(cluster)
        cluster.faults.clear()
        assert mine.confirm() is mine.held is not theirs
    mine.release()
    assert cluster.left() == ["leases/sdt-r1"]
    assert lost == ["lost control of run r1: run r1 was taken by another controller just now"]


def test_a_lease_is_renewed_whatever_went_wrong_before(reach: api.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "DURATION", 1)
    said: list[str] = []
    mine = lease_of(reach, said)
    mine.acquire()
    with monkeypatch.context() as broken:
        broken.setattr(reach, "replace", lambda *_: json.loads("no answer"))
        time.sleep(1.5)
        assert not mine.held
    time.sleep(0.6)
    assert mine.held
    assert said == ["control of run r1 not renewed, will try again: Expecting value: line 1 column 1 (char 0)"]
    mine.release()


def test_only_a_process_that_is_known_to_be_gone_is_dead() -> None:
    mine = identity()
    assert not surely_dead(mine)
    assert surely_dead(f"{mine.rsplit('/', 1)[0]}/4194305")
    assert not surely_dead(f"host/other-boot.1/{os.getpid()}")
    assert not surely_dead("whatever")


def test_teardown_refuses_what_lacks_its_workstream_and_touches_nothing_else(cluster: Emulator, reach: api.Cluster) -> None:
    ours = "sdt-r1-env"
    for name, labels in {ours: EXPERIMENT.labels, "sdt-r2-env": {"experiment": "r2", "workstream": "tests"}, "plain": {}}.items():
        reach.create("secrets", secret(name, **labels))
    reach.create("jobs", waiting_job("stray", experiment="r1"))
    with pytest.raises(RefusedError, match="jobs/stray has no workstream label"):
        teardown(reach, EXPERIMENT)
    assert len(cluster.left()) == 5
    reach.delete("jobs", "stray")
    assert teardown(reach, EXPERIMENT, dry_run=True) == [("secrets", ours)]
    assert len(cluster.left()) == 3
    assert teardown(reach, EXPERIMENT) == [("secrets", ours)]
    assert teardown(reach, EXPERIMENT) == []
    assert sorted(cluster.left()) == ["secrets/plain", "secrets/sdt-r2-env"]
    assert not [each for each in cluster.requests if each.verb == "list" and each.kind == "secrets"]


def test_teardown_is_refused_while_a_controller_lives(cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PAUSE", 0.1)
    lease_of(reach).acquire()
    hold(cluster, leaseDurationSeconds=60)
    reach.create("jobs", waiting_job("sdt-r1-job", **EXPERIMENT.labels))
    threading.Timer(0.5, hold, (cluster,), {"renewTime": ago(0)}).start()
    before = sorted(cluster.left())
    with pytest.raises(
        HeldError, match=r"process 7 on elsewhere, which has just renewed its hold; stop it \(kill 7 there\), or let it end"
    ):
        teardown(reach, EXPERIMENT)
    assert sorted(cluster.left()) == before
    hold(cluster, leaseDurationSeconds=1)
    teardown(reach, EXPERIMENT)
    assert cluster.left() == []


@pytest.mark.parametrize("slug", ["sdt", "other"])
def test_teardown_goes_on_until_nothing_is_left_and_keeps_controllers_out(cluster: Emulator, reach: api.Cluster, slug: str) -> None:
    theirs = Experiment(slug, "r1", "tests")
    Lease(reach, theirs, print, print).acquire()  # of this process, as one that has died here
    reach.create("secrets", secret(theirs.secret, **theirs.labels))
    reach.create("jobs", waiting_job("first", **theirs.labels))

    def late(request: Any) -> None:  # a Job that was on its way
        if request.verb == "delete" and request.name == "first":
            cluster.faults.clear()
            cluster.create("jobs", waiting_job("second", **theirs.labels), strict=True)

    cluster.faults.append(late)
    found = teardown(reach, EXPERIMENT)
    assert {kind for kind, _ in found} == {"leases", "jobs", "pods", "secrets"}
    assert cluster.left() == []
    assert "jobs/second" in {f"{each.kind}/{each.name}" for each in cluster.requests if each.verb == "delete"}


def test_teardown_says_what_does_not_go(cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakemake_executor_plugin_kubernetes_experiment.teardown.PATIENCE", 0.5)
    reach.create("jobs", waiting_job("stuck", **EXPERIMENT.labels))
    monkeypatch.setattr(cluster, "delete", lambda kind, name, *_: cluster.find(kind, name))
    with pytest.raises(RefusedError, match=r"jobs/stuck was deleted and is still there after 0\.5 s"):
        teardown(reach, EXPERIMENT)


def test_a_secret_goes_with_the_lease_of_its_run(cluster: Emulator, reach: api.Cluster) -> None:
    mine = lease_of(reach)
    mine.acquire()
    reach.create("secrets", secret_manifest(EXPERIMENT, mine.owner, {"TOKEN": "x"}))
    mine.release(keep=True)
    assert sorted(cluster.left()) == ["leases/sdt-r1", "secrets/sdt-r1-env"]
    again = lease_of(reach)
    again.acquire()
    again.release()
    assert cluster.left() == []


def test_a_server_that_does_not_answer_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = server.write_kubeconfig(tmp_path / "kubeconfig")
    path.write_text(path.read_text().replace(server.url, "http://127.0.0.1:9"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    with pytest.raises(ApiError, match=r"^no answer from http://127.0.0.1:9: \w+$"):
        api.Cluster("tune").list("jobs", "", attempts=1)


def test_a_request_that_hangs_is_made_again(cluster: Emulator, reach: api.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUT", urllib3.Timeout(0.3))
    cluster.faults.append(lambda _request: time.sleep(1) if len(cluster.requests) == 1 else None)
    reach.create("secrets", secret("s", experiment="r1"))
    assert [each.verb for each in cluster.requests] == ["create", "create"]
    assert cluster.left() == ["secrets/s"]


@pytest.fixture
def plugin(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a kubeconfig whose credentials a plugin brings, as on EKS and GKE; the file `broken` there makes it fail."""
    kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig", plugin=True)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.setattr(api.time, "sleep", lambda _seconds: None)
    return tmp_path


def anonymous(cluster: Emulator) -> list[Any]:
    return [each for each in cluster.requests if not each.token]


def test_a_credential_plugin_that_fails_is_asked_again_and_nobody_is_asked_as_nobody(
    cluster: Emulator, plugin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reach = api.Cluster("tune")
    (plugin / "broken").touch()
    with pytest.raises(
        ApiError, match=r"no credentials from the kubeconfig: its exec plugin failed: .*the SSO session has expired"
    ) as error:
        reach.list("jobs")
    assert error.value.transient and (plugin / "runs").read_text() == "x" * api.PATIENCE
    (plugin / "broken").unlink()
    assert reach.list("jobs") == []

    cluster.token = "rotated"
    (plugin / "broken").touch()
    with pytest.raises(ApiError, match="no credentials") as error:
        reach.list("jobs")
    assert error.value.transient
    (plugin / "broken").unlink()
    with pytest.raises(ApiError, match="Unauthorized") as error:  # the plugin brings the old token
        reach.list("jobs")
    assert error.value.transient, "it was known before, and so may be again"
    (plugin / "token").write_text("rotated")
    assert reach.list("jobs") == []
    assert anonymous(cluster) == [] and not caplog.records


def test_a_credential_plugin_that_hangs_is_given_up_and_tried_once_a_request(
    cluster: Emulator, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PLUGIN_PATIENCE", 1.0)
    (plugin / "hung").touch()
    with pytest.raises(ApiError, match=r"^no credentials from the kubeconfig: its exec plugin failed: .*no answer within 1 s$") as error:
        api.Cluster("tune").list("jobs")
    assert error.value.transient and (plugin / "runs").read_text() == "x"
    (plugin / "hung").unlink()
    monkeypatch.undo()
    assert cluster.requests == []


def test_a_right_that_was_held_may_come_back_and_one_that_never_was_is_missing_after_some_seconds(cluster: Emulator, plugin: Path) -> None:
    reach = api.Cluster("tune")
    (plugin / "token").write_text("unknown")
    with pytest.raises(ApiError, match="Unauthorized") as error:
        reach.list("jobs")
    assert not error.value.transient
    (plugin / "token").write_text(cluster.token)

    cluster.forbidden.add(("list", "jobs"))
    with pytest.raises(ApiError, match="cannot list resource") as error:
        reach.list("jobs")
    assert not error.value.transient
    asked = len(cluster.requests)
    cluster.faults.append(lambda _request: cluster.forbidden.clear() if len(cluster.requests) == asked + 3 else None)
    assert reach.list("jobs") == [], "the server's rules are loaded by now"

    cluster.forbidden.add(("list", "jobs"))
    with pytest.raises(ApiError, match="cannot list resource") as error:
        reach.list("jobs", attempts=1)
    assert error.value.transient
    refused = Refusal(403, "Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: gpus, requested: count/jobs.batch=1')
    cluster.faults.append(lambda _request: refused)
    asked = len(cluster.requests)
    with pytest.raises(ApiError, match="exceeded quota"):
        reach.list("jobs")
    assert len(cluster.requests) == asked + 1


QUOTA = 'pods "POD" is forbidden: exceeded quota: tune, requested: {0}, used: {1}, limited: {2}'
FORBIDDEN: dict[str, tuple[str, str]] = {
    "admission webhook": ('admission webhook "validate.kyverno.svc-fail" denied the request: no team label', "pod forbidden"),
    "priority class": ('pods "POD" is forbidden: no PriorityClass with name batch was found', "pod forbidden"),
    "quota that is too small": (
        QUOTA.format("limits.memory=400G,pods=1", "limits.memory=0,pods=0", "limits.memory=64Gi,pods=5"),
        "pod forbidden",
    ),
    "quota that asks for limits": ('pods "POD" is forbidden: failed quota: tune: must specify limits.cpu for: x', "pod forbidden"),
    "quota that others use up": (
        QUOTA.format("pods=1,requests.nvidia.com/gpu=4", "pods=9,requests.nvidia.com/gpu=6", "pods=9,requests.nvidia.com/gpu=8"),
        "no pod yet",
    ),
    "Pod Security": ("", "pod forbidden"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_a_pod_that_is_forbidden_has_a_reason_at_once_and_fails_in_time(cluster: Emulator, reach: api.Cluster, case: str) -> None:
    message, begins = FORBIDDEN[case]
    cluster.forbids = lambda _pod: message
    body = waiting_job("job", **EXPERIMENT.labels)
    if case == "Pod Security":
        body["spec"]["template"]["spec"].pop("securityContext")
        message = 'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "snakemake" must set securityContext.'
    reach.create("jobs", body)
    told: list[str] = []
    job = reach.get("jobs", "job")
    asks = SimpleNamespace(_cluster=reach, _tell=lambda _key, line: told.append(line))
    refused = Executor._refused(asks, [job])  # type: ignore[arg-type]
    for seconds, state in (
        (1, "running"),
        (LIMITS.forbidden + 1, "running" if begins == "no pod yet" else "failed"),
        (LIMITS.pending + 1, "failed"),
    ):
        outcome = judge(job, [], datetime.now(UTC) + timedelta(seconds=seconds), LIMITS, refused["job"])
        assert outcome.state == state
        assert outcome.why.startswith(f"{begins}: {message.rpartition('is forbidden: ')[2]}")
    assert told == []
    cluster.forbidden.add(("list", "events"))
    assert Executor._refused(asks, [job]) == {}  # type: ignore[arg-type]
    assert 'cannot list resource "events"' in told[0]


def drafted(gpus: int = 0, command: str = "true") -> dict[str, Any]:
    """Return a Job as the stock executor draws it up."""
    body = waiting_job("draft")
    container = body["spec"]["template"]["spec"]["containers"][0]
    del container["securityContext"]
    container["args"] = ["-c", command]
    container["resources"] = {"requests": {"cpu": "950m", "memory": "16000M", "nvidia.com/gpu": str(gpus)}}
    body["spec"]["template"]["spec"] = {"restartPolicy": "Never", "containers": [container], "tolerations": [{"key": "nvidia.com/gpu"}]}
    return body


def finished(body: dict[str, Any], patch: dict[str, Any] | None = None, deadline: int = 0, **resources: Any) -> dict[str, Any]:
    task = Task("train_rung", {}, "0123456789", "r")
    told = {"experiment": EXPERIMENT, "image": "tune:1", "acknowledged": {}, "deadline": deadline, "ttl": 60}
    return finish(body, task, resources, patch=patch or {}, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize("gpus", [0, 4])
def test_a_pod_is_what_a_clusters_owner_asks_for(gpus: int) -> None:
    arm = {"key": "kubernetes.io/arch", "operator": "Equal", "value": "arm64", "effect": "NoSchedule"}
    spec = finished(drafted(gpus), {"spec": {"tolerations": [arm]}})["spec"]["template"]["spec"]
    gpu = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    assert violation({"spec": spec}, "restricted") is None
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "1000m", "memory": "16000M"} | gpu
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "950m", "memory": "16000M"} | gpu
    assert spec["tolerations"] == [arm] + [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in gpu]


def test_a_privileged_container_stays_so_and_a_patch_has_the_last_word() -> None:
    body = drafted()
    body["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    own = {"automountServiceAccountToken": True, "securityContext": {"runAsUser": 7}}
    spec = finished(body, {"spec": own})["spec"]["template"]["spec"]
    assert spec["containers"][0]["securityContext"] == {"privileged": True}
    assert spec["automountServiceAccountToken"] is True
    assert spec["securityContext"] == POD["securityContext"] | {"runAsUser": 7}


TRAINS = """
import signal, sys, time
def keep(*_):
    time.sleep(0.5)
    print("kept", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, keep)
print("trains", flush=True)
time.sleep(60)
"""


def test_the_first_process_of_a_pod_passes_sigterm_on_and_waits_for_the_job(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINS)
    command = f"true && {sys.executable} {tmp_path}/train.py"
    container = finished(drafted(command=command))["spec"]["template"]["spec"]["containers"][0]
    first = subprocess.Popen([*container["command"], *container["args"]], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout and first.stdout.readline() == "trains\n"
    first.terminate()
    assert first.wait(10) == 7
    assert first.stdout.read() == "kept\n"


@pytest.mark.parametrize("code", [0, 3])
def test_the_first_process_of_a_pod_ends_as_its_job_does(code: int) -> None:
    container = finished(drafted(command=f"true && exit {code}"))["spec"]["template"]["spec"]["containers"][0]
    assert subprocess.run([*container["command"], *container["args"]], check=False).returncode == code


def test_a_deadline_counts_from_the_start_of_a_pod_however_long_it_was_queued() -> None:
    cluster = Emulator(processes=False)
    cluster.capacity, cluster.virtual_seconds = 2, 0.2
    cluster.create("secrets", secret("s"), strict=True)
    for number in range(32):
        body = finished(drafted(gpus=4), deadline=1)
        assert "activeDeadlineSeconds" not in body["spec"]
        cluster.create("jobs", body | {"metadata": body["metadata"] | {"name": f"job-{number}"}}, strict=True)

    def outcomes() -> list[Outcome]:
        pods = cluster.items("pods")
        mine = {job["metadata"]["name"]: [pod for pod in pods if job_name(pod) == job["metadata"]["name"]] for job in cluster.items("jobs")}
        return [judge(job, mine[job["metadata"]["name"]], datetime.now(UTC), Limits(60, 0, 60)) for job in cluster.items("jobs")]

    assert sum(outcome.why.startswith("unschedulable") for outcome in outcomes()) > 20
    time.sleep(32 / 2 * 0.2 + 1.5)
    assert {outcome.state for outcome in outcomes()} == {"succeeded"}
    cluster.virtual_seconds = 60
    cluster.create("jobs", body | {"metadata": body["metadata"] | {"name": "hangs"}}, strict=True)
    time.sleep(1.2)
    assert [outcome.why for outcome in outcomes() if outcome.state == "failed"] == [
        "deadline exceeded: ran longer than its active deadline"
    ]
    cluster.close()


def test_a_job_that_kueue_holds_back_waits_runs_is_preempted_and_waits_again() -> None:
    cluster = Emulator(processes=False)
    cluster.kueue, cluster.virtual_seconds = True, 0.3
    body = finished(drafted(), {"metadata": {"labels": {QUEUE: "gpus"}}})
    cluster.create("jobs", body | {"metadata": body["metadata"] | {"name": "job"}}, strict=True)

    def outcome() -> Outcome:
        return judge(cluster.items("jobs")[0], cluster.items("pods"), datetime.now(UTC) + timedelta(days=3), Limits(60, 60, 60))

    waits = Outcome("running", "suspended: waits for its queue")
    assert outcome() == waits and cluster.items("pods") == []
    cluster.suspend("job", False)
    assert len(cluster.items("pods")) == 1 and outcome().state == "running"
    cluster.suspend("job")
    assert outcome() == waits and cluster.items("pods") == []
    cluster.suspend("job", False)
    time.sleep(0.6)
    assert outcome().state == "succeeded"
    assert cluster.started == ["job", "job"]
    cluster.close()


def test_a_pod_that_is_being_taken_away_has_not_failed() -> None:
    dying = deepcopy(EXCHANGES["job_failed_pods"]["body"]["items"][0])
    dying["metadata"]["deletionTimestamp"] = dying["metadata"]["creationTimestamp"]
    assert judge(EXCHANGES["job_running"], [dying], datetime.now(UTC), LIMITS).state == "running"
    suspended = EXCHANGES["job_running"] | {"spec": {"suspend": True}}
    assert judge(suspended, [dying], datetime.now(UTC), LIMITS).why == "suspended: waits for its queue"


def test_the_logs_of_pods_on_a_node_that_hangs_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakemake_executor_plugin_kubernetes_experiment.LOG_PATIENCE", 0.3)

    def log(pod: str, _container: str) -> str:
        if pod.startswith("hung"):
            time.sleep(5)
        if pod == "gone":
            raise ApiError(404, "not found")
        return f"log of {pod}"

    begun = time.monotonic()
    texts = Executor._read_logs(SimpleNamespace(_cluster=SimpleNamespace(log=log)), ["a", *(f"hung-{n}" for n in range(8)), "gone"])  # type: ignore[arg-type]
    assert time.monotonic() - begun < 2
    assert texts == {"a": "log of a", "gone": "(no log of pod gone: not found)\n"}


def test_what_many_jobs_wait_for_is_said_once_for_as_long_as_any_waits() -> None:
    said: list[str] = []
    executor = SimpleNamespace(_told={}, envvars=dict, logger=SimpleNamespace(warning=said.append))
    executor._tell = lambda *told: Executor._tell(executor, *told)
    queue, image = "suspended: waits for its queue", "ImagePullBackOff: no such image"
    for waits in ([("a", queue), ("b", queue), ("c", image)], [("b", queue)], [("b", queue), ("d", image)]):
        Executor._tell_waits(executor, waits)  # type: ignore[arg-type]
    assert said == [f"Job a and 1 others wait: {queue}", f"Job c waits: {image}", f"Job d waits: {image}"]
