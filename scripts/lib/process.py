"""The identity of a process across machines: host, boot and pid namespace, pid."""

import os
import platform
from pathlib import Path


def identity() -> str:
    """Return the identity of this process."""
    return f"{platform.node()}/{_pid_space()}/{os.getpid()}"


def pid_here(process: str) -> int | None:
    """Return the pid of an identity, None if it is from another machine, boot or pid namespace."""
    host, space, pid = (*process.split("/"), "", "")[:3]
    return int(pid) if pid.isdigit() and (host, space) == (platform.node(), _pid_space()) else None


def _pid_space() -> str:
    """Return the boot of the machine and its pid namespace, which make a pid unique. Empty where they are unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
