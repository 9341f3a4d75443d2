"""Who a process is, on whatever machine it runs: host, boot and namespace of its pids, pid."""

import os
import platform
from pathlib import Path


def identity() -> str:
    """Return who this process is."""
    return f"{platform.node()}/{_pid_space()}/{os.getpid()}"


def pid_here(process: str) -> int | None:
    """Return the pid of a process by its identity, None where that pid is another machine's, boot's or namespace's."""
    host, space, pid = (*process.split("/"), "", "")[:3]
    return int(pid) if pid.isdigit() and (host, space) == (platform.node(), _pid_space()) else None


def _pid_space() -> str:
    """Return what makes a pid unique: the boot of the machine and the namespace of its pids; nothing where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
