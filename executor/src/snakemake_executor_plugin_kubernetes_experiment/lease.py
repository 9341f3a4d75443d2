"""One controller per experiment. The holder renews a Lease; a dead holder loses it."""

import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from .api import ApiError, Cluster, Object
from .names import WORKSTREAM, Experiment

DURATION = 30  # seconds for which a Lease is valid without renewal
PAUSE = 1  # seconds between two reads of a Lease that another process holds


class HeldError(Exception):
    """Another controller, or another workstream, has this experiment."""


def _now() -> float:
    """Return seconds of a clock that is never set and that runs while the machine sleeps. Compare it with itself only."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def identity() -> str:
    """Return the identity of this process: host, PID space, PID."""
    return f"{platform.node()}/{_pid_space()}/{os.getpid()}"


def _pid_space() -> str:
    """Return boot id and PID namespace, in which a PID is unique; an empty string if they cannot be read."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def surely_dead(holder: str) -> bool:
    """Return whether a holder was a process of this machine and no longer exists."""
    _, space, pid = (*holder.split("/"), "", "")[:3]
    return bool(space) and space == _pid_space() and pid.isdigit() and not Path(f"/proc/{pid}").exists()


class Lease:
    """The right to control an experiment. It is renewed in the background until it is released.

    Args:
        cluster: The cluster that stores the Lease.
        experiment: The experiment that the Lease controls.
        on_loss: Called once, with the reason, when the Lease is lost.
        say: Called with a line for the user.
    """

    def __init__(self, cluster: Cluster, experiment: Experiment, on_loss: Callable[[str], None], say: Callable[[str], None]):
        self._cluster = cluster
        self._experiment = experiment
        self._on_loss = on_loss
        self._say = say
        self._identity = identity()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._body: Object | None = None
        self._renewed = -float(DURATION)

    @property
    def held(self) -> bool:
        """Return whether this process controls the experiment. Nobody else can take it for `DURATION` seconds after a renewal."""
        return self._body is not None and _now() - self._renewed < DURATION

    @property
    def owner(self) -> Object:
        """Return an owner reference; an object that has it is deleted with the Lease."""
        found = self._body or {}
        return {key: found[key] for key in ("apiVersion", "kind")} | {key: found["metadata"][key] for key in ("name", "uid")}

    def confirm(self, ask: bool = False) -> bool:
        """Return whether this process controls the experiment. Ask the server if the last renewal is too old, for example after a suspend.

        Raises:
            ApiError: the server does not answer.
        """
        if ask or not self.held:
            self._renew()
        return self.held

    def acquire(self) -> None:
        """Take the Lease, or raise HeldError with one line that names its holder.

        If the holder may be alive, the Lease is watched for its duration. It is free if it has not changed.
        """
        name = self._experiment.prefix
        found = self._look(name)
        if found and not self._is_free(found):
            holder = found["spec"]["holderIdentity"]
            held = f"run {self._experiment.run_id} is controlled by process {holder.rsplit('/', 1)[-1]} on {holder.split('/')[0]}"
            seconds = found["spec"].get("leaseDurationSeconds") or DURATION
            self._say(f"{held}; will see within {seconds} s whether it is alive")
            found = self._watch(found, seconds)
            if found and not self._is_free(found):
                raise HeldError(f"{held}, which has just renewed its hold; stop it (kill {holder.rsplit('/', 1)[-1]} there), or let it end")
        begun = _now()
        if found:
            self._body = self._write(self._cluster.replace, found)
        else:
            metadata = {"name": name, "labels": self._experiment.labels}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}}
            self._body = self._write(self._cluster.create, body)
        self._renewed = begun
        threading.Thread(target=self._keep, daemon=True).start()

    def _look(self, name: str) -> Object | None:
        """Return the Lease, or None if there is none. Raise HeldError for a Lease of another workstream."""
        try:
            found = self._cluster.get("leases", name)
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        theirs = found["metadata"].get("labels", {}).get(WORKSTREAM)
        if theirs != self._experiment.workstream:
            raise HeldError(f"run id {self._experiment.run_id} belongs to workstream {theirs}, not to {self._experiment.workstream}")
        return found

    def _is_free(self, found: Object) -> bool:
        holder = found["spec"].get("holderIdentity") or ""
        return not holder or holder == self._identity or surely_dead(holder)

    def _watch(self, found: Object, seconds: float) -> Object | None:
        """Return a Lease as soon as it changes, or None when it is gone. If it has not changed for `seconds`, return it without holder."""
        begun = _now()
        while _now() - begun < seconds:
            time.sleep(PAUSE)
            latest = self._look(found["metadata"]["name"])
            if latest is None or latest["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                return latest
        return found | {"spec": {}}

    def _write(self, write: Callable[[str, Object], Object], body: Object) -> Object:
        """Write the Lease with this process as holder, or raise HeldError if another process was faster."""
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
        if found["spec"].get("holderIdentity") != self._identity:
            raise HeldError(f"run {self._experiment.run_id} was taken by another controller just now")
        return self._write(self._cluster.replace, found)  # the server got an earlier attempt, but its answer was lost

    def _keep(self) -> None:
        """Renew until the Lease is released or lost. No error ends this loop."""
        told = False
        while not self._released.wait(DURATION / 3):
            try:
                self._renew()
            except Exception as error:
                if not told:
                    self._say(f"control of run {self._experiment.run_id} not renewed, will try again: {error or type(error).__name__}")
                told = True
            else:
                told = False
            if self._body is None:
                return

    def _renew(self) -> None:
        """Renew the Lease; call `on_loss` if it is lost."""
        with self._lock:
            if self._body is None or self._released.is_set():
                return
            begun = _now()
            try:
                self._body = self._write(self._cluster.replace, self._body)
                self._renewed = begun
                return
            except (HeldError, ApiError) as error:
                if isinstance(error, ApiError) and error.status != 404:
                    raise
                if self._released.is_set():
                    return
                self._body = None
                why = str(error)
        self._on_loss(f"lost control of run {self._experiment.run_id}: {why}")

    def release(self, keep: bool = False) -> None:
        """Delete the Lease. With `keep`, leave it without holder, so that the objects it owns stay. An expired Lease is left alone."""
        self._released.set()
        with self._lock:
            body, held = self._body, self.held
            self._body = None
        if body and held:
            if keep:
                self._cluster.replace("leases", body | {"spec": {}})
            else:
                self._cluster.delete("leases", self._experiment.prefix)
