"""One controller per experiment: a Lease that its holder renews, and that a dead holder loses."""

import os
import platform
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from .api import ApiError, Cluster, Object
from .names import WORKSTREAM, Experiment

DURATION = 30  # seconds for which a Lease holds without being renewed


class HeldError(Exception):
    """Another controller, or another workstream, has this experiment."""


def identity() -> str:
    """Return who this process is: host, the pids' namespace, pid."""
    return f"{platform.node()}/{_pid_space()}/{os.getpid()}"


def _pid_space() -> str:
    """Return what makes a pid unique: the boot of the machine and the namespace of its pids; nothing where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def surely_dead(holder: str) -> bool:
    """Return whether a holder was a process of this machine that is gone."""
    _, space, pid = (*holder.split("/"), "", "")[:3]
    return bool(space) and space == _pid_space() and pid.isdigit() and not Path(f"/proc/{pid}").exists()


class Lease:
    """The right to control an experiment, renewed in the background until it is released."""

    def __init__(self, cluster: Cluster, experiment: Experiment, on_loss: Callable[[str], None]):
        self._cluster = cluster
        self._experiment = experiment
        self._on_loss = on_loss
        self._identity = identity()
        self._released = threading.Event()
        self._body: Object | None = None

    @property
    def held(self) -> bool:
        """Return whether this process controls the experiment."""
        return self._body is not None

    def acquire(self) -> None:
        """Take the Lease, or raise HeldError with one line that says who has it."""
        name = self._experiment.prefix
        try:
            found = self._cluster.get("leases", name)
        except ApiError as error:
            if error.status != 404:
                raise
            body: Object = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "labels": self._experiment.labels},
                "spec": {},
            }
            self._body = self._write(self._cluster.create, body)
        else:
            self._refuse_if_held(found)
            self._body = self._write(self._cluster.replace, found)
        threading.Thread(target=self._renew, daemon=True).start()

    def _refuse_if_held(self, found: Object) -> None:
        theirs = found["metadata"].get("labels", {}).get(WORKSTREAM)
        if theirs != self._experiment.workstream:
            raise HeldError(f"run id {self._experiment.run_id} belongs to workstream {theirs}, not to {self._experiment.workstream}")
        spec = found["spec"]
        holder = spec.get("holderIdentity") or ""
        if not holder or holder == self._identity or surely_dead(holder):
            return
        age = (datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])).total_seconds()
        left = spec["leaseDurationSeconds"] - age
        if left > 0:
            raise HeldError(
                f"run {self._experiment.run_id} is controlled by process {holder.rsplit('/', 1)[-1]} on {holder.split('/')[0]}; "
                f"if it is dead, its hold ends in {left:.0f} s"
            )

    def _write(self, write: Callable[[str, Object], Object], body: Object) -> Object:
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            return write("leases", body | {"spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            found = self._cluster.get("leases", body["metadata"]["name"])
            if found["spec"].get("holderIdentity") == self._identity:  # an earlier attempt arrived, its answer did not
                return found
            raise HeldError(f"run {self._experiment.run_id} was taken by another controller just now") from None

    def _renew(self) -> None:
        while not self._released.wait(DURATION / 3):
            body = self._body
            if body is None:
                return
            try:
                self._body = self._write(self._cluster.replace, body)
            except (HeldError, ApiError) as error:
                if isinstance(error, ApiError) and error.status != 404:
                    continue  # nobody took it: next time
                if self._released.is_set():
                    return
                self._body = None
                self._on_loss(f"lost control of run {self._experiment.run_id}: {error}")
                return

    def release(self) -> None:
        """Give the Lease back."""
        self._released.set()
        if self._body is not None:
            self._body = None
            self._cluster.delete("leases", self._experiment.prefix)
