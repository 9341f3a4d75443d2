"""The embedded search through the shipped profile: executor, pods, bucket. It decides and trains what a run on this machine does."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import KEY
from tests.cluster.emulator import Cluster, Server
from tests.workflow.clones import Clone, clone, decisions, heads

pytestmark = pytest.mark.slow

FILLED = {"run_id": "whole", "workstream": "tests", "namespace": "tune", "train_image": "train:1", "serve_image": "serve:1"}
ACKNOWLEDGED = ("--kubernetes-experiment-ack-train", "whole", "--kubernetes-experiment-ack-serve", "whole")
TWO_CORES = ("--jobs", "2", "--set-threads", "train_rung=1", "measure_serving=1", "measure_contest=1")


class Controller(Clone):
    """A clone whose search runs on the emulated cluster, by the shipped profile with its blanks filled in."""

    def prepare(self, bucket: str, endpoint: str, kubeconfig: Path) -> dict[str, str]:
        """Fill the profile in, make the clone a repository, and return the environment of a run."""
        profile = self.root / "gb300/config.yaml"
        text = profile.read_text().replace("config/gb300.yaml", "tests/configs/small.yaml")
        for name, value in (FILLED | {"bucket": bucket}).items():
            text, found = re.subn(rf"^  {name}: (\"\"|default)(?=\s)", f"  {name}: {value}", text, flags=re.MULTILINE)
            assert found == 1, name
        text = text.replace("kubernetes-experiment-gpus-per-node: 4\n", "")
        profile.write_text(text.replace("seconds-between-status-checks: 10", "seconds-between-status-checks: 1"))
        pod = self.root / "gb300/pod.yaml"
        pod.write_text("spec: {}\n")  # no volume, no node of a cluster here
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "KUBECONFIG": str(kubeconfig),
            "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ENDPOINT_URL": endpoint,
            "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ACCESS_KEY": KEY[0],
            "SNAKEMAKE_STORAGE_S3_EXPERIMENT_SECRET_KEY": KEY[1],
            "AWS_EC2_METADATA_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
        }


def run(one: Clone, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the shipped profile to its end."""
    command = [sys.executable, "-m", "snakemake", "--profile", "gb300", *ACKNOWLEDGED, *TWO_CORES, *arguments]
    return subprocess.run(command, cwd=one.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def test_the_search_on_a_cluster_decides_and_trains_what_the_search_on_this_machine_does(
    cluster: Cluster, server: Server, s3: tuple[str, Path], tmp_path: Path
) -> None:
    endpoint, folder = s3
    (folder / "whole" / "keep").mkdir(parents=True)
    (folder / "whole" / "keep" / "sentinel").write_text("")
    remote = Controller(clone(tmp_path / "remote").root)
    environment = remote.prepare("whole", endpoint, server.write_kubeconfig(tmp_path / "kubeconfig"))
    cluster.environment |= {"OMP_NUM_THREADS": "1"}
    done = run(remote, environment)
    assert done.returncode == 0, done.stdout[-6000:]
    assert cluster.left() == []

    local = clone(tmp_path / "local")
    local.snakemake()
    assert decisions(remote) == decisions(local)
    assert heads(remote) == heads(local)
    champion = remote.records("champion.json")["champion.json"]
    assert champion["arm"] == local.records("champion.json")["champion.json"]["arm"]

    shutil.rmtree(remote.root / "results")
    again = run(remote, environment, "--rerun-incomplete")
    assert again.returncode == 0, again.stdout[-6000:]
    assert len(cluster.created()) == len(set(cluster.created()))
    assert json.loads((remote.root / "results/champion.json").read_text()) == champion
