"""A controller: a Snakemake process that runs the small search on the cluster."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.front import Server
from tests.s3 import Store

RUN = ["--kubernetes-experiment-run-id", "r1", "--kubernetes-experiment-workstream", "tests"]
ACKNOWLEDGED = ["ack_train=r1", "ack_serve=r1"]
HERE_AS_WELL = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
"""What of the tests' own environment controllers and emulated pods get: where the sources are that are tested, if not installed."""

LEASE = "snakemake_executor_plugin_kubernetes_experiment.lease"


class Controller:
    """Starts and ends Snakemake in one working directory, keeps what it prints."""

    def __init__(self, server: Server, work: Path, store: Store, kubeconfig: Path):
        self.cluster = server.cluster
        self.work = work
        self.store = store
        self.kubeconfig = kubeconfig
        self.environment = (
            store.environment
            | HERE_AS_WELL
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(work),
                "KUBECONFIG": str(kubeconfig),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
        )
        self.process: subprocess.Popen[str] | None = None
        self.printed = work / "controller.out"

    def beside(self) -> "Controller":
        """Return a second controller for the same experiment."""
        other = copy.copy(self)
        other.process, other.printed = None, self.work / "second.out"
        return other

    def start(
        self,
        *more: str,
        run: list[str] = RUN,
        acknowledged: list[str] = ACKNOWLEDGED,
        image: bool = True,
        gpus: bool = False,
        lease: float | None = None,
    ) -> None:
        """Start Snakemake, with an image or none, on a real cluster with the GPUs of rules or none, with Leases of so many seconds."""
        program = f"import {LEASE} as it; it.DURATION = {lease}; from snakemake.cli import main; main()"
        command = [sys.executable, *(["-c", program] if lease else ["-m", "snakemake"]), "--executor", "kubernetes-experiment"]
        command += ["--jobs", "20", "--keep-going", "--nolock"]
        command += ["--ignore-incomplete", "--seconds-between-status-checks", "1", "--scheduler", "greedy", "--latency-wait", "2"]
        command += ["--rerun-triggers", "input", "mtime", "params", "--kubernetes-experiment-namespace", self.cluster.namespace]
        command += ["--container-image", self.cluster.image] if image else []
        command += [] if gpus or self.cluster.here else ["--set-resources", "train_rung:gpu=0"]
        command += ["--default-storage-provider", "s3-experiment", "--default-storage-prefix", self.store.url("run/."), *run]
        told = [*more, *([] if "--config" in more or not acknowledged else ["--config"])]
        place = told.index("--config") + 1 if acknowledged else 0
        command += [*told[:place], *acknowledged, *told[place:]]
        self.process = subprocess.Popen(
            command, cwd=self.work, env=self.environment, text=True, stdout=self.printed.open("w"), stderr=subprocess.STDOUT
        )

    def wait(self, seconds: float = 120) -> int:
        """Return Snakemake's exit status, which takes an emulated cluster no longer."""
        assert self.process
        return self.process.wait(seconds * self.cluster.pace)

    def run(self, *more: str, **how: object) -> int:
        """Run Snakemake to its end."""
        self.start(*more, **how)  # type: ignore[arg-type]
        return self.wait()

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something is true while Snakemake runs, which takes an emulated cluster no longer."""
        assert self.process
        end = time.monotonic() + seconds * self.cluster.pace
        while not true():
            assert time.monotonic() < end and self.process.poll() is None, self.output
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to Snakemake."""
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill Snakemake the hard way."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    @property
    def output(self) -> str:
        """Return what Snakemake has printed."""
        return self.printed.read_text()

    def result(self, path: str) -> str:
        """Return a file of the search from the bucket."""
        return self.store.read()[f"run/results/{path}"].decode()

    def assert_champion(self, code: int) -> None:
        """Check that a search has run to its end and has left nothing."""
        assert code == 0, self.output
        assert self.result("champion.txt") == "a 1\n"
        assert self.cluster.left() == []
