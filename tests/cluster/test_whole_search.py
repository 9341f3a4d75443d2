"""The embedded search through the shipped profile decides and trains the same as a local run."""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from lib.files import write_json
from lib.records import layout

from tests.cluster.controller import HERE_AS_WELL
from tests.cluster.front import Cluster, Server
from tests.s3 import Store
from tests.workflow.clones import Clone, clone, decisions, heads, jobs
from tests.workflow.conftest import PLANTED, SECRET, finished  # noqa: F401 - a fixture

ACKNOWLEDGED = ("--config", "ack_train=whole", "ack_serve=whole")
TWO_CORES = ("--jobs", "2", "--set-threads", "train_rung=1", "preflight=1", "measure_serving=1", "measure_contest=1")


@dataclass
class Controller:
    """A clone whose search runs by the shipped profile, with its blanks filled in, on the cluster."""

    clone: Clone
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the profile to its end; its output, both streams, is `stdout`."""
        command = [sys.executable, "-m", "snakemake", "--profile", "gb300", *arguments]
        return subprocess.run(
            command, cwd=self.clone.root, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )


@pytest.fixture
def controller(cluster: Cluster, server: Server, store: Store, tmp_path: Path) -> Controller:
    """Return a controller in a fresh clone, committed as a user's is: jobs are sent what git knows."""
    one = clone(tmp_path / "controller")
    profile = one.root / "gb300/config.yaml"
    text = profile.read_text().replace("config/gb300.yaml", "tests/configs/small.yaml")
    filled = {
        "run_id": "whole",
        "workstream": "tests",
        "namespace": cluster.namespace,
        "bucket": f"{store.bucket}/{store.folder}".strip("/"),
    }
    for name, value in (filled | {"train_image": cluster.image, "serve_image": cluster.image}).items():
        text, found = re.subn(rf"^  {name}: (null|default)(?=\s)", f"  {name}: {value}", text, flags=re.MULTILINE)
        assert found == 1, name
    if not cluster.here:  # no GPU, and a small machine's memory and disk
        text = re.sub(r"_mb: \d+", "_mb: 8000", text.replace("gpu: 4", "gpu: 0"))
    profile.write_text(text.replace("seconds-between-status-checks: 10", "seconds-between-status-checks: 1"))
    (one.root / "gb300/pod.yaml").write_text("spec: {containers: [{name: snakemake, env: [{name: OMP_NUM_THREADS, value: '1'}]}]}\n")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=one.root, check=True)
    environment = (
        store.environment
        | HERE_AS_WELL
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(one.root),
            "KUBECONFIG": str(server.write_kubeconfig(tmp_path / "kubeconfig")),
            "OMP_NUM_THREADS": "1",
        }
        | {name: value for name, value in PLANTED.items() if not name.startswith("AWS_")}
        | {"NO_PROXY": "127.0.0.1"}
    )
    return Controller(one, environment)


def assert_no_secret(cluster: Cluster, controller: Controller, store: Store) -> None:
    """Look for what is secret, plain and in base64, in all files that runs have left and all objects but the Secret.

    It is the keys of the bucket, the token of the kubeconfig, and what else stands in the environment and in URLs there.
    """
    secrets = (store.key, store.secret, cluster.token, SECRET)
    planted = [form for key in secrets for form in (key.encode(), base64.b64encode(key.encode()))]
    told = [json.dumps(request.body).encode() for request in cluster.requests if request.kind != "secrets"]
    told += store.read().values()
    for root in filter(None, (controller.clone.root, cluster.root)):
        written = (path for path in root.rglob("*") if path.is_file() and "tests" not in path.relative_to(root).parts)
        told += [path.read_bytes() for path in written]  # these tests themselves, which a clone and every pod hold, know the keys
    assert len(told) > 100
    assert not [text[:200] for text in told if any(key in text for key in planted)]


def report(one: Clone, environment: dict[str, str], profile: tuple[str, ...]) -> str:
    """Do what `make status` and `make report` do, and return what they print."""
    commands = (["scripts/status.py"], ["scripts/report.py"], ["-m", "snakemake", "draw_report", "--report", "report.html", *profile])
    done = [
        subprocess.run([sys.executable, *words], cwd=one.root, env=environment, text=True, capture_output=True, check=False)
        for words in commands
    ]
    assert [each.returncode for each in done] == [0, 0, 0], done
    assert "verdict.html" in (one.root / "report.html").read_text()
    (one.root / "report.html").unlink()
    return "".join(each.stdout + each.stderr for each in done)


def plan_lever(controller: Controller, path: Path) -> str:
    """Run the command of a lever as it stands, as a dry run, and return what it prints."""
    lever = json.loads(path.read_text())
    assert lever["command"] in (controller.clone.root / "results/HANDOFF.md").read_text()
    program, *words = shlex.split(lever["command"])
    assert program == ".venv/bin/snakemake" and words[:2] == ["--profile", "gb300"]
    assert {"ack_train=whole", "ack_serve=whole"} <= {*words} and "streaming" not in lever["command"]
    done = controller.run(*words[2:], "--dry-run")
    assert done.returncode == 0 and f"Plan of search {lever['search']}: " in done.stdout, done.stdout[-6000:]
    assert "refused" not in done.stdout
    return done.stdout


def plant(store: Store) -> None:
    """Put code into the bucket, newer than that of the clone, where the clone has its own; who runs it fails."""
    for path in ("Snakefile", "rules/common.smk", "scripts/train_rung.py", "scripts/lib/errors.py", "sitecustomize.py"):
        store.write(f"spec-decode-tune/whole/{path}", b"raise SystemExit('planted')\n")


@pytest.mark.slow
def test_the_search_on_a_cluster_decides_and_trains_what_the_search_on_this_machine_does(
    cluster: Cluster,
    controller: Controller,
    store: Store,
    finished: Clone,  # noqa: F811
) -> None:
    remote, local = controller.clone, finished
    plant(store)
    done = controller.run(*ACKNOWLEDGED, *TWO_CORES)
    assert done.returncode == 0, done.stdout[-6000:]
    assert cluster.left() == []
    assert not [path for path in store.read() if "workflow-sources" in path]
    said = [done.stdout]
    for profile in ((), ("--profile", "gb300")):
        said.append(report(remote, controller.environment, profile))
    said += [plan_lever(controller, path) for path in sorted((remote.root / "results/levers").glob("*/lever.json"))]
    assert len(said) > 4
    (remote.root / "printed").write_text("\n".join(said))
    assert_no_secret(cluster, controller, store)

    names = ("champion.json", "verdict.json")
    mine, theirs = ({name: one.records(name)[name] for name in names} for one in (remote, local))
    if cluster.here:
        assert decisions(remote) == decisions(local)
        assert heads(remote) == heads(local)
        assert mine["champion.json"]["arm"] == theirs["champion.json"]["arm"]
    else:  # other processors round otherwise, so that heads, and with them the arms picked, may differ
        counts, expected = ({path: len(arms) for path, arms in decisions(one).items()} for one in (remote, local))
        assert counts == expected
    assert [path for path in store.read() if path.endswith(".safetensors")]
    assert not [*(remote.root / "results").rglob("*.safetensors")], "heads and states stay in the bucket"
    assert {path.name for path in (remote.root / "results/logs").rglob("*.log")} >= {"measure_contest.log", "train_target.log"}

    created = [name for name in cluster.created() if name.startswith("jobs/")]
    shutil.rmtree(remote.root / "results")
    shutil.rmtree(remote.root / ".snakemake")
    again = controller.run("--rerun-incomplete")  # nothing is left to spend
    assert again.returncode == 0, again.stdout[-6000:]
    assert [name for name in cluster.created() if name.startswith("jobs/")] == created
    assert {name: remote.records(name)[name] for name in names} == mine


@pytest.mark.parametrize("given", [(), ("--config", "ack_train=another")])
def test_without_the_acknowledgement_of_this_run_nothing_is_created(
    given: tuple[str, ...], cluster: Cluster, controller: Controller, store: Store
) -> None:
    plant(store)
    before = store.read()
    done = controller.run(*given)
    assert store.read() == before
    assert "no data of a run: 'Snakefile', " in done.stdout
    changed = subprocess.run(["git", "diff", "--name-only"], cwd=controller.clone.root, text=True, capture_output=True, check=True)
    assert changed.stdout == ""
    assert done.returncode != 0
    assert re.search(r"^error: .*to let it run, add ack_train=whole to --config", done.stdout.strip().splitlines()[-1])
    assert "1 x train_target" in done.stdout
    assert "Traceback" not in done.stdout
    assert not [request for request in cluster.requests if request.verb not in ("get", "list")]


def test_of_another_workstreams_place_nothing_is_taken(cluster: Cluster, controller: Controller, store: Store) -> None:
    store.write("spec-decode-tune/whole/results/search/s0-a/rung0.json", b"{}")
    store.write("spec-decode-tune/whole.owner", b"run whole of workstream theirs")
    before = store.read()
    done = controller.run(*ACKNOWLEDGED)
    assert done.returncode == 1 and store.read() == before and cluster.requests == []
    assert "whole/ belongs to run whole of workstream theirs, not to run whole of workstream tests" in done.stdout.strip().splitlines()[-1]
    assert [path.name for path in (controller.clone.root / "results").rglob("*")] == ["bucket.txt"]


def test_a_dry_run_asks_neither_the_cluster_nor_the_bucket(cluster: Cluster, controller: Controller) -> None:
    controller.environment["SNAKEMAKE_STORAGE_S3_EXPERIMENT_ENDPOINT_URL"] = "http://127.0.0.1:9"  # where nobody answers
    done = controller.run("--dry-run")
    assert done.returncode == 0, done.stdout
    assert "at most" in done.stdout
    assert cluster.requests == []
    assert not (controller.clone.root / "results").exists()


def test_a_new_image_is_tried_in_a_preflight_of_its_own(controller: Controller) -> None:
    """A record of an image stands for that image alone. Nothing is asked of the cluster or the bucket."""
    record = controller.clone.root / layout.preflight(controller.clone.experiment().preflight)
    profile = controller.clone.root / "gb300/config.yaml"
    image = re.search(r"^  serve_image: (\S+)", profile.read_text(), re.MULTILINE)
    assert image
    for stands, served in ((True, image[1]), (False, "registry/serve@sha256:1")):
        write_json(record, {"stack": {"vllm": "1"}, "image": served})
        done = controller.run("--dry-run")
        assert done.returncode == 0, done.stdout
        assert ("preflight" in jobs(done.stdout)) is not stands


def test_teardown_takes_its_workstream_from_the_profile(cluster: Cluster, controller: Controller) -> None:
    labels = {"experiment": "whole", "workstream": "tests"}
    for name, own in (("sdt-whole-env", labels), ("sdt-another-env", {"experiment": "another", "workstream": "tests"})):
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": name, "labels": own}}
        cluster.create("secrets", secret, strict=True)
    command, environment = [sys.executable, "scripts/teardown.py"], controller.environment | {"RUN_ID": "whole"}
    for _ in range(2):  # the second time there is nothing left, and that is no error
        done = subprocess.run(command, cwd=controller.clone.root, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert cluster.left() == ["secrets/sdt-another-env"]
