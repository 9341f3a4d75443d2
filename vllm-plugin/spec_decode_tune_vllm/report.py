"""The report of a worker about itself, requested through vLLM's own `/collective_rpc`."""

import contextlib
import enum
import platform
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import _version
from vllm.platforms import current_platform

from spec_decode_tune_vllm import repairs


class WorkerReport:
    """Mixed into vLLM's worker class."""

    vllm_config: Any

    def spec_decode_tune_report(self, *paths: str) -> dict[str, Any]:
        """Return the worker's versions, device, repairs and the values of the dotted `paths` into its configuration.

        A path that does not exist is left out. A path that leads through None has the value None. `commit` is None if the build has none.
        """
        config = {}
        for path in paths:
            with contextlib.suppress(AttributeError):
                config[path] = _plain(_follow(self.vllm_config, path))
        return {
            "commit": getattr(_version, "__commit_id__", None),
            "config": config,
            "device_type": current_platform.device_type,
            "device_name": _cpu_name() if current_platform.is_cpu() else current_platform.get_device_name(),
            "python": platform.python_version(),
            "repairs": list(repairs.applied) if repairs.checked else None,
            "torch": str(torch.__version__),
            "vllm": vllm.__version__,
        }


def _follow(value: Any, path: str) -> Any:
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _cpu_name() -> str:
    """Return the processor's marketing name if the kernel reports it (x86), otherwise the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
