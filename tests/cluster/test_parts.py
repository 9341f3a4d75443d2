"""The executor's parts, each by itself."""

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from kubernetes_validate.utils import schema_contents
from snakemake_executor_plugin_kubernetes_experiment import api, lease
from snakemake_executor_plugin_kubernetes_experiment.api import ApiError
from snakemake_executor_plugin_kubernetes_experiment.lease import HeldError, Lease, identity, surely_dead
from snakemake_executor_plugin_kubernetes_experiment.manifest import redact
from snakemake_executor_plugin_kubernetes_experiment.names import Experiment, label_value, make_experiment
from snakemake_executor_plugin_kubernetes_experiment.patch import MERGE_KEYS, merge, read_patch
from snakemake_executor_plugin_kubernetes_experiment.spending import oversize, refusal
from snakemake_executor_plugin_kubernetes_experiment.status import Limits, Outcome, judge
from snakemake_executor_plugin_kubernetes_experiment.teardown import RefusedError, teardown

from tests.cluster.emulator import LABEL, NAME, VERSION, Emulator, ago
from tests.cluster.front import Server

pytestmark = pytest.mark.emulated("each part is tried against what was recorded or emulated")
EXCHANGES: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes-exchanges.json").read_text())
LIMITS = Limits(image_pull=60, pending=60)
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
    assert recorded("job_image_pull", 10**6, Limits(0, 0)).state == "running"
    assert recorded("job_unschedulable", 10**6, Limits(0, 0)).state == "running"


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
    assert line == f"training not acknowledged: {cost} let it run, pass --kubernetes-experiment-ack-train=r1"
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
    with pytest.raises(HeldError, match="controlled by process 7 on elsewhere, which has just renewed its hold; stop it, or let it end"):
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
    for name, labels in {"ours": EXPERIMENT.labels, "theirs": {"experiment": "r2", "workstream": "tests"}, "plain": {}}.items():
        reach.create("secrets", secret(name, **labels))
    stray = secret("stray", experiment="r1")
    reach.create("secrets", stray)
    with pytest.raises(RefusedError, match="secrets/stray has no workstream label"):
        teardown(reach, EXPERIMENT)
    assert len(cluster.left()) == 4
    reach.delete("secrets", "stray")
    assert teardown(reach, EXPERIMENT, dry_run=True) == [("secrets", "ours")]
    assert len(cluster.left()) == 3
    assert teardown(reach, EXPERIMENT) == [("secrets", "ours")]
    assert teardown(reach, EXPERIMENT) == []
    assert sorted(cluster.left()) == ["secrets/plain", "secrets/theirs"]


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
