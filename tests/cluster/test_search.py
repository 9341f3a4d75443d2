"""The small search through the real executor: refusals, faults, and kills at any time followed by a restart."""

import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.cluster.controller import RUN, Controller
from tests.cluster.emulator import QUEUE, Emulator
from tests.cluster.front import KINDS, Cluster, Object, Refusal, Request, Server
from tests.workflow.clones import ROOT

pytestmark = pytest.mark.slow
TWO_ARMS = ("--config", "arms=a,b")
RUNG_0 = ("results/promoted.txt", *TWO_ARMS)
FLAG = "--kubernetes-experiment-"


def labels(job: Object) -> dict[str, str]:
    return dict(job["metadata"]["labels"])


def test_an_arm_that_always_fails_ends_the_run_with_an_error_and_the_rest_is_done(cluster: Cluster, controller: Controller) -> None:
    assert controller.run("--config", "arms=a,broken") == 1
    assert controller.result("a/rung0.acc") == "a 0\n"
    logs = list((controller.work / ".snakemake/auxiliary/kubernetes-logs").iterdir())
    assert len(logs) == 1
    assert "token none" in logs[0].read_text()
    assert cluster.left() == []


def test_a_server_that_fails_every_fourth_request_changes_nothing(cluster: Cluster, controller: Controller) -> None:
    dice = random.Random(7)
    seen: Counter[int | str] = Counter()
    deck: list[int | str | None] = []

    def fail(_: Request) -> int | str | None:
        if not deck:
            deck.extend(dice.sample([500, 429, "reset", "late", *[None] * 12], 16))
        fault = deck.pop()
        seen[fault or 0] += 1
        return fault

    cluster.faults.append(fail)
    code = controller.run(*TWO_ARMS)
    controller.assert_champion(code)
    assert len(cluster.started) == 6
    assert len(seen) == 5


def test_a_server_that_is_away_for_a_while_changes_nothing(cluster: Cluster, controller: Controller) -> None:
    controller.start(*RUNG_0, "seconds=2")
    controller.until(lambda: len(cluster.started) >= 1)
    cluster.faults.append(lambda _request: "reset")
    threading.Timer(15, cluster.faults.clear).start()
    assert controller.wait() == 0, controller.output
    assert controller.result("promoted.txt") == "a\nb\n"
    assert len(cluster.started) == 2 and cluster.left() == []


def test_a_quota_that_is_used_up_is_waited_for(cluster: Cluster, controller: Controller) -> None:
    message = 'jobs.batch "x" is forbidden: exceeded quota: gpus, requested: count/jobs.batch=1, used: 1, limited: 1'

    def quota(request: Request) -> Refusal | None:
        full = any(job["status"].get("active") for job in cluster.items("jobs"))
        return Refusal(403, "Forbidden", message) if is_job(request) and full else None

    cluster.faults.append(quota)
    assert controller.run(*RUNG_0) == 0, controller.output
    assert controller.result("promoted.txt") == "a\nb\n"
    assert cluster.left() == []
    assert "not created yet, will try again" in controller.output


def test_a_job_that_the_server_finds_invalid_is_one_clear_line(cluster: Cluster, controller: Controller) -> None:
    (controller.work / "pod.yaml").write_text("spec: {containers: [{name: snakemake, volumeMounts: [{name: none, mountPath: /none}]}]}")
    assert controller.run(*TWO_ARMS, f"{FLAG}pod-patch", "pod.yaml") == 1
    assert 'volumeMounts[1].name: Not found: "none"' in controller.output
    assert "Traceback" not in controller.output
    assert cluster.left() == []


def test_a_token_that_expires_is_read_again(cluster: Cluster, controller: Controller) -> None:
    controller.start(*RUNG_0, "seconds=2")
    controller.until(lambda: len(cluster.started) >= 2)
    fresh = f"{cluster.token}-fresh"
    controller.kubeconfig.write_text(controller.kubeconfig.read_text().replace(f'"token": "{cluster.token}"', f'"token": "{fresh}"'))
    cluster.token = fresh
    assert controller.wait() == 0, controller.output
    assert cluster.left() == []
    assert any(each.status == 401 for each in cluster.requests)


REASONS = {
    "oom": "OOMKilled: used more memory than its limit",
    "evicted": "evicted: The node was low on resource: memory",
    "node_lost": "node lost: Taint manager",
    "deadline": "deadline exceeded",
    "image_pull": "ImagePullBackOff: Back-off pulling image",
    "unschedulable": "unschedulable: 0/2 nodes are available",
    "deleted": "deleted by someone else while it ran",
}


@pytest.mark.emulated("pods and nodes are made to fail")
def test_every_way_a_pod_can_fail_is_told_apart_and_retried(cluster: Emulator, controller: Controller) -> None:
    seen: Counter[str] = Counter()

    def first_attempt(pod: Object) -> str | None:
        arm = labels(pod).get("arm", "")
        seen[arm] += 1
        return arm.removeprefix("x-") if arm.startswith("x-") and seen[arm] == 1 else None

    cluster.pod_fault = first_attempt
    arms = ",".join(["a", *(f"x-{fault}" for fault in REASONS)])
    code = controller.run("--retries", "1", "--config", f"arms={arms}", f"{FLAG}image-pull-grace", "2", f"{FLAG}pending-limit", "2")
    controller.assert_champion(code)
    for reason in REASONS.values():
        assert controller.output.count(f"failed: {reason}") == 1, controller.output


def test_a_job_that_is_deleted_while_it_runs_is_done_again(cluster: Cluster, controller: Controller) -> None:
    controller.start("results/promoted.txt", "--config", "arms=a", "seconds=10", "--retries", "1")
    controller.until(lambda: len(cluster.started) >= 1)
    cluster.delete("jobs", cluster.started[0])
    assert controller.wait() == 0, controller.output
    assert "failed: deleted by someone else while it ran" in controller.output
    assert len(cluster.started) == 2 and cluster.left() == []


def test_several_jobs_that_others_delete_end_the_run_and_no_new_ones_are_created(cluster: Cluster, controller: Controller) -> None:
    controller.start("--config", "arms=a,b,c", "seconds=60", "--retries", "3")
    controller.until(lambda: len(cluster.started) >= 3)
    for name in cluster.started[:2]:
        cluster.delete("jobs", name)
    assert controller.wait() == 1
    assert "2 Jobs of run r1 were deleted by someone else: this run ends and starts nothing more" in " ".join(controller.output.split())
    assert len(cluster.started) == 3 and cluster.left() == []


def test_a_credential_plugin_that_fails_for_a_while_costs_nothing(cluster: Cluster, server: Server, controller: Controller) -> None:
    server.write_kubeconfig(controller.kubeconfig, plugin=True)
    controller.start(*RUNG_0, "seconds=2")
    controller.until(lambda: len(cluster.started) >= 2)
    folder = controller.kubeconfig.parent
    (folder / "broken").touch()
    cluster.token = f"{cluster.token}-fresh"
    (folder / "token").write_text(cluster.token)
    controller.until(lambda: "its exec plugin failed: exec: process returned 1. the SSO session has expired" in controller.output)
    time.sleep(5)
    (folder / "broken").unlink()
    assert controller.wait() == 0, controller.output
    assert len(cluster.started) == 2 and cluster.left() == []
    assert controller.output.count("no status of the Jobs, will ask again") == 1
    assert "the cluster reports the status of the Jobs again" in controller.output
    assert all(each.token for each in cluster.requests), "nobody asks as nobody"


def test_a_server_that_has_not_loaded_its_rules_fails_no_job(cluster: Cluster, controller: Controller) -> None:
    everything = {(verb, kind) for verb in ("create", "get", "list", "update", "delete") for kind in KINDS}
    controller.start("results/promoted.txt", "--config", "arms=a,b,c", "seconds=2", "--jobs", "2")
    controller.until(lambda: len(cluster.started) >= 2)
    cluster.forbidden |= everything
    time.sleep(12)
    cluster.forbidden.clear()
    assert controller.wait() == 0, controller.output
    assert len(cluster.started) == 3 and cluster.left() == []


@pytest.mark.emulated("its pods are forbidden")
def test_a_pod_that_is_forbidden_is_told_with_its_reason_and_fails(cluster: Emulator, controller: Controller) -> None:
    said = "exceeded quota: tune, requested: pods=1, used: pods=0, limited: pods=0"
    cluster.forbids = lambda pod: f'pods "POD" is forbidden: {said}' if labels(pod).get("arm") == "b" else None
    assert controller.run(*RUNG_0, f"{FLAG}forbidden-limit", "3") == 1
    assert controller.output.count(f"waits: pod forbidden: {said}") == 1
    assert f"failed: pod forbidden: {said}" in controller.output
    assert controller.result("a/rung0.acc") == "a 0\n" and cluster.left() == []


@pytest.mark.emulated("Kueue is")
def test_kueue_holds_back_admits_and_preempts(cluster: Emulator, controller: Controller) -> None:
    """With the example of the shipped profile."""
    cluster.kueue = True
    shipped, found = re.subn(r"^metadata: {}\n  # labels", "metadata:\n  labels", (ROOT / "gb300/pod.yaml").read_text(), flags=re.MULTILINE)
    assert found == 1 and QUEUE in shipped
    (controller.work / "pod.yaml").write_text(shipped)
    controller.start(*RUNG_0, "seconds=4", f"{FLAG}pod-patch", "pod.yaml")
    controller.until(lambda: "others wait: suspended: waits for its queue" in controller.output)
    assert cluster.started == [] and cluster.items("pods") == []
    first, second = sorted(job["metadata"]["name"] for job in cluster.items("jobs"))
    cluster.suspend(first, False)
    controller.until(lambda: cluster.started == [first])
    cluster.suspend(first)
    cluster.suspend(second, False)
    controller.until(lambda: cluster.started == [first, second])
    time.sleep(3)
    cluster.suspend(first, False)
    assert controller.wait() == 0, controller.output
    assert cluster.started == [first, second, first] and cluster.left() == []
    assert "failed" not in controller.output


PHASES: dict[str, Callable[[Cluster], bool]] = {
    "first Job created": lambda cluster: len(cluster.items("jobs")) >= 1,
    "rung 1 runs": lambda cluster: len(cluster.started) >= 3,
    "heads are measured": lambda cluster: len(cluster.started) >= 5,
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_controller_killed_at_any_time_is_followed_by_one_that_starts_nothing_twice(
    cluster: Cluster, controller: Controller, phase: str
) -> None:
    controller.start(*TWO_ARMS)
    controller.until(lambda: PHASES[phase](cluster))
    controller.kill()
    code = controller.run(*TWO_ARMS)
    controller.assert_champion(code)
    assert len(cluster.started) == len({name.rsplit("-", 1)[0] for name in cluster.started}) == 6


def test_what_was_finished_while_no_controller_was_there_is_taken(cluster: Cluster, controller: Controller) -> None:
    controller.start(*TWO_ARMS)
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    controller.start("--version")
    while any("completionTime" not in job["status"] for job in cluster.items("jobs")):
        controller.wait()
        time.sleep(0.1)
    assert len(cluster.items("jobs")) == 2
    code = controller.run(*TWO_ARMS)
    controller.assert_champion(code)
    assert len(cluster.started) == 6


def test_what_was_left_is_not_adopted_when_its_parameters_have_changed(cluster: Cluster, controller: Controller) -> None:
    controller.start(*RUNG_0, "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    assert controller.run(*RUNG_0, "seconds=0") == 0, controller.output
    assert len(cluster.started) == 4 and cluster.left() == []
    assert "re-attached" not in controller.output


def test_a_second_controller_is_refused_and_the_first_goes_on(cluster: Cluster, controller: Controller) -> None:
    search = (*RUNG_0, "seconds=15")
    controller.start(*search, lease=6)
    controller.until(lambda: len(cluster.created()) == 4)  # Lease, Secret and two Jobs
    second = controller.beside()
    assert second.run(*search, lease=6) == 1
    assert "will see within 6 s whether it is alive" in second.output
    assert re.search(
        r"run r1 is controlled by process \d+ on \S+, which has just renewed its hold; stop it \(kill \d+ there\), or let it end",
        second.output,
    )
    assert len(cluster.created()) == 4
    assert controller.wait() == 0, controller.output
    assert cluster.left() == []


def test_a_controller_that_has_lost_its_experiment_stops_and_touches_nothing(cluster: Cluster, controller: Controller) -> None:
    controller.start("--config", "arms=a,b", "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    cluster.update("leases", "sdt-r1", lambda lease: lease["spec"].update(holderIdentity="elsewhere/boot.1/7"))
    assert controller.wait() == 1
    assert "lost control of run r1: run r1 was taken by another controller just now" in controller.output
    assert cluster.running() == 2
    assert {"leases/sdt-r1", "secrets/sdt-r1-env"} < set(cluster.left())


@pytest.mark.parametrize("then", [None, signal.SIGINT])
def test_a_controller_that_was_suspended_touches_nothing_of_its_successor(
    cluster: Cluster, controller: Controller, then: int | None
) -> None:
    search = ("--config", "arms=a,b", "seconds=60")
    controller.start(*search, lease=2)
    controller.until(lambda: len(cluster.started) >= 2)
    controller.signal(signal.SIGSTOP)
    second = controller.beside()
    try:
        second.start(*search, lease=2)
        second.until(lambda: second.output.count("re-attached to Job") == 2)
        before = sorted(cluster.left())
        if then:
            controller.signal(then)
        controller.signal(signal.SIGCONT)
        assert controller.wait() == 1
        assert ("nothing of it was deleted" if then else "lost control of run r1") in controller.output
        assert sorted(cluster.left()) == before
        assert cluster.running() == len(cluster.started) == 2
    finally:
        second.kill()


def test_a_restart_that_fails_spares_what_it_should_take_over(cluster: Cluster, controller: Controller) -> None:
    search = (*RUNG_0, "seconds=30")
    controller.start(*search)
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    left = sorted(cluster.left())

    assert controller.run(*search, image=False) == 1  # refused before it looks
    assert "image not set for rule train_rung" in controller.output
    assert sorted(cluster.left()) == left

    cluster.forbidden.add(("update", "secrets"))  # refused when it has found them
    assert controller.run(*search) == 1
    assert 'cannot update resource "secrets"' in controller.output
    assert "2 Jobs of an earlier controller were not adopted and keep running: start run r1 again" in controller.output
    assert "Traceback" not in controller.output
    assert sorted(cluster.left()) == left

    cluster.forbidden.clear()
    assert controller.run(*search) == 0, controller.output
    assert controller.output.count("re-attached to Job") == 2
    assert len(cluster.started) == 2 and cluster.left() == []


def test_a_signal_ends_what_an_earlier_controller_left_as_well(cluster: Cluster, controller: Controller) -> None:
    controller.start("--config", "arms=a,b", "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    controller.start("--config", "arms=b", "seconds=60")
    controller.until(lambda: "re-attached to Job" in controller.output)
    controller.signal(signal.SIGTERM)
    assert controller.wait(20) == 1
    assert cluster.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_leaves_nothing(cluster: Cluster, controller: Controller, number: int) -> None:
    controller.start("--config", "arms=a,b", "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    controller.signal(number)
    assert controller.wait(20) == 1
    assert cluster.left() == []
    assert not cluster.running()


DROPS = """
import snakemake_executor_plugin_kubernetes_experiment as plugin

interrupt = plugin.Executor._interrupt


def drop(self, *_):
    try:
        interrupt(self)
    except KeyboardInterrupt:
        pass


plugin.Executor._interrupt = drop
"""


def test_a_signal_whose_exception_python_drops_as_in_a_destructor_ends_the_run_all_the_same(
    cluster: Cluster, controller: Controller
) -> None:
    snakefile = controller.work / "Snakefile"
    snakefile.write_text(DROPS + snakefile.read_text())
    controller.start("--config", "arms=a,b", "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    controller.signal(signal.SIGTERM)
    assert controller.wait(20) == 1
    assert "WorkflowError: interrupted" in " ".join(controller.output.split())
    assert cluster.left() == []


def test_a_planted_secret_appears_nowhere(cluster: Cluster, controller: Controller) -> None:
    secret = "hush-hush-4711"
    controller.environment["TOKEN"] = secret
    cluster.faults.append(lambda request: 500 if request.kind == "secrets" and len(cluster.requests) % 2 else None)
    assert controller.run("--verbose", "--envvars", "TOKEN", "--config", "arms=a,broken") == 1
    logs = list((controller.work / ".snakemake/auxiliary/kubernetes-logs").iterdir())
    assert "token ***" in logs[0].read_text()
    for path in controller.work.rglob("*"):
        if path.is_file():
            for value in (secret, controller.store.secret):
                assert value.encode() not in path.read_bytes(), path
    for request in cluster.requests:
        assert request.kind == "secrets" or secret not in str(request)


def test_a_dry_run_asks_the_cluster_nothing(cluster: Cluster, controller: Controller) -> None:
    controller.kubeconfig.unlink()
    assert controller.run("--dry-run", run=[], acknowledged=[], image=False) == 0, controller.output
    assert cluster.requests == []


REFUSED: dict[str, tuple[list[str], str]] = {
    "not acknowledged": (
        ["ack_serve=r1"],
        "training not acknowledged: would run 3 x train_rung with 12 GPUs, about 1.5 device-hours; "
        "to let it run, add ack_train=r1 to --config",
    ),
    "of another run": (["ack_train=r0"], "training is acknowledged for 'r0', not for this run: would run 3 x train_rung with 12 GPUs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_without_its_acknowledgement_nothing_is_created(cluster: Cluster, controller: Controller, case: str) -> None:
    acknowledged, message = REFUSED[case]
    assert controller.run(acknowledged=acknowledged, gpus=True) == 1
    assert message in controller.output
    assert cluster.requests == [] and controller.store.read() == {}


def test_serving_is_refused_when_only_training_is_acknowledged_and_training_is_kept(cluster: Cluster, controller: Controller) -> None:
    assert controller.run("--config", "arms=a", acknowledged=["ack_train=r1"]) == 1
    assert "to let it run, add ack_serve=r1 to --config" in controller.output
    assert controller.result("a/rung1.acc") == "a 1\n"
    assert not [name for name in cluster.created() if "measure" in name]
    assert cluster.left() == []


BAD: dict[str, tuple[dict[str, object], str]] = {
    "run id": ({"run": [f"{FLAG}run-id", "Run_1", f"{FLAG}workstream", "w"]}, "run id 'Run_1' cannot name Kubernetes objects"),
    "no run id": ({"run": [f"{FLAG}workstream", "w"]}, "run id not set: pass --kubernetes-experiment-run-id"),
    "no workstream": ({"run": [f"{FLAG}run-id", "r1"]}, "workstream not set: pass --kubernetes-experiment-workstream"),
    "no patch": ({"run": [*RUN, f"{FLAG}pod-patch", "absent.yaml"]}, "pod patch absent.yaml: No such file or directory"),
    "no pod patch": ({"run": [*RUN, f"{FLAG}pod-patch", "Snakefile"]}, "pod patch Snakefile: not "),
    "namespace": ({"run": [*RUN, f"{FLAG}namespace", "absent"]}, 'namespace missing: namespaces "absent" not found'),
    "GPUs": ({"run": [*RUN, f"{FLAG}gpus-per-node", "2"], "gpus": True}, "rule train_rung asks for 4 GPUs, more than a node has"),
    "image": ({"image": False}, "image not set for rule train_rung: pass --container-image, or set its resource image"),
}


EMULATED = {"namespace": pytest.mark.emulated("who may use one namespace need not be told that another is missing")}


@pytest.mark.parametrize("case", [pytest.param(case, marks=EMULATED.get(case, ())) for case in BAD])
def test_bad_input_is_one_clear_line_and_leaves_nothing(cluster: Cluster, controller: Controller, case: str) -> None:
    how, message = BAD[case]
    assert controller.run(*TWO_ARMS, **how) == 1
    assert message in controller.output
    assert "Traceback" not in controller.output
    assert cluster.left() == [] and controller.store.read() == {}


def test_without_a_kubeconfig_one_line_says_so(cluster: Cluster, controller: Controller) -> None:
    controller.kubeconfig.unlink()
    assert controller.run() == 1
    assert "no cluster: no usable kubeconfig in $KUBECONFIG or ~/.kube/config" in controller.output
    assert "Traceback" not in controller.output
    assert cluster.requests == [] and controller.store.read() == {}


@pytest.mark.parametrize(("verb", "kind"), [("list", "jobs"), ("create", "leases"), ("create", "secrets"), ("create", "jobs")])
def test_a_missing_permission_is_named_by_verb_and_resource(cluster: Cluster, controller: Controller, verb: str, kind: str) -> None:
    cluster.forbidden.add((verb, kind))
    assert controller.run(*TWO_ARMS) == 1
    assert "no permission" in controller.output
    assert f'cannot {verb} resource "{kind}"' in controller.output
    assert "Traceback" not in controller.output
    assert cluster.left() == []


@pytest.mark.parametrize("slug", ["sdt", "other"])
def test_a_run_id_of_another_workstream_is_refused(cluster: Cluster, controller: Controller, slug: str) -> None:
    lease = {"name": f"{slug}-r1", "labels": {"experiment": "r1", "workstream": "theirs"}}
    cluster.create("leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease, "spec": {}}, strict=True)
    try:
        assert controller.run(*TWO_ARMS) == 1
    finally:
        cluster.delete("leases", f"{slug}-r1")
    assert "run id r1 belongs to workstream theirs, not to tests" in controller.output
    assert cluster.created() == []


def test_a_place_in_the_bucket_of_another_workstream_is_refused(cluster: Cluster, controller: Controller) -> None:
    controller.store.write("run.owner", b"run r1 of workstream theirs")
    assert controller.run(*TWO_ARMS) == 1
    assert "run/ belongs to run r1 of workstream theirs, not to run r1 of workstream tests; use another" in controller.output
    assert "Traceback" not in controller.output
    assert not [name for name in cluster.created() if name.startswith("jobs/")] and cluster.left() == []
    assert controller.store.read().keys() == {"run.owner"}


@pytest.mark.emulated("its pods ask for devices and images that are nowhere")
def test_a_pod_patch_and_an_image_of_a_rule_reach_the_pod(cluster: Emulator, controller: Controller) -> None:
    cluster.security = "baseline"  # for RDMA's capability
    (controller.work / "pod.yaml").write_text(
        """
        metadata: {labels: {kueue.x-k8s.io/queue-name: gpus}}
        spec:
          priorityClassName: batch
          imagePullSecrets: [{name: registry}]
          volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 64Gi}}]
          resourceClaims: [{name: channel, resourceClaimTemplateName: compute-domain}]
          tolerations: [{operator: Exists}]
          containers:
          - name: snakemake
            volumeMounts: [{name: shm, mountPath: /dev/shm}]
            env: [{name: SPEC_DECODE_TUNE_ACK_TRAIN, value: other}]
            securityContext: {capabilities: {add: [IPC_LOCK]}}
            resources: {limits: {rdma/ib: 1}, requests: {rdma/ib: 1}, claims: [{name: channel}]}
        """
    )
    images = ("--set-resources", 'measure_serving:image="serve:2"', "train_rung:runtime=5")
    more = (*images, f"{FLAG}pod-patch", "pod.yaml", f"{FLAG}active-deadline", "77")
    assert controller.run("results/a/serving.txt", *TWO_ARMS, *more) == 0, controller.output
    assert cluster.left() == []
    jobs: dict[str, Object] = {labels(each.body or {})["rule"]: each.body or {} for each in cluster.requests if each.name and is_job(each)}
    train = jobs["train_rung"]
    pod = train["spec"]["template"]["spec"]
    assert labels(train)["kueue.x-k8s.io/queue-name"] == "gpus"
    assert [volume["name"] for volume in pod["volumes"]] == ["workdir", "shm"]
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/workdir", "/dev/shm"]
    assert pod["containers"][0]["resources"]["limits"].items() >= {"nvidia.com/gpu": "4", "rdma/ib": 1}.items()
    assert pod["resourceClaims"][0]["name"] == "channel"
    assert pod["containers"][0]["image"] == "tune:1"
    assert pod["activeDeadlineSeconds"] == 300 and "activeDeadlineSeconds" not in train["spec"]
    told = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"] if "value" in variable}
    assert told == {
        "SPEC_DECODE_TUNE_RUN_ID": "r1",
        "SPEC_DECODE_TUNE_ACK_TRAIN": "r1",
        "SPEC_DECODE_TUNE_ACK_SERVE": "r1",
    }
    assert jobs["measure_serving"]["spec"]["template"]["spec"]["containers"][0]["image"] == "serve:2"
    assert jobs["measure_serving"]["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 77


def is_job(request: Request) -> bool:
    return request.verb == "create" and request.kind == "jobs"


def test_teardown_is_refused_while_a_controller_lives_and_the_run_goes_on(cluster: Cluster, controller: Controller) -> None:
    controller.start(*RUNG_0, "seconds=15", lease=6)
    controller.until(lambda: len(cluster.started) >= 2)
    command = [sys.executable, "-m", "snakemake_executor_plugin_kubernetes_experiment.teardown", "--run-id", "r1"]
    command += ["--namespace", cluster.namespace, "--workstream", "tests"]
    done = subprocess.run(command, env=controller.environment, text=True, capture_output=True)
    assert done.returncode == 1
    assert re.search(r"error: run r1 is controlled by process (\d+) on \S+, which has just .* stop it \(kill \1 there\)", done.stderr)
    assert controller.wait() == 0, controller.output
    assert len(cluster.started) == 2 and cluster.left() == []


def test_teardown_removes_what_a_killed_controller_left_and_can_be_repeated(cluster: Cluster, controller: Controller) -> None:
    controller.start("--config", "arms=a,b", "seconds=60")
    controller.until(lambda: len(cluster.started) >= 2)
    controller.kill()
    command = [sys.executable, "-m", "snakemake_executor_plugin_kubernetes_experiment.teardown", "--run-id", "r1"]
    command += ["--namespace", cluster.namespace]

    def teardown(workstream: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--workstream", workstream], env=controller.environment, text=True, capture_output=True)

    refused = teardown("theirs")
    assert refused.returncode == 1
    assert "belongs to workstream tests, not to theirs: nothing was deleted" in refused.stderr
    assert len(cluster.items("jobs")) == 2
    done = teardown("tests")
    assert done.returncode == 0, done.stderr
    assert "secrets/sdt-r1-env" in done.stdout
    assert cluster.left() == []
    assert not cluster.running()
    assert teardown("tests").returncode == 0
