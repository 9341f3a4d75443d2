"""The speed of light is the fastest decoding that memory bandwidth allows. It is reported only when decoding is bandwidth-bound.

With one request in flight on a dense target, every verification step reads every weight once. A step takes at least
weight bytes / memory bandwidth, and a token at least that divided by the acceptance length. Reads of the draft head are not counted,
so the share is slightly low. With several requests in flight, or with experts read only in part, no share is reported.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from lib.errors import UserError
from lib.reading import read_yaml
from lib.section import Section, checked
from lib.target.weights import weight_bytes

CEILINGS = Path("config/sol-ceilings.yaml")


class Ceiling(Section):
    """One entry of the ceilings file."""

    hardware: str = Field(min_length=1, description="token of the device, as in records")
    memory_bandwidth_bytes_per_s: float = Field(gt=0, description="peak of one device")
    source: str = Field(min_length=1, description="publication of the peak")
    key: str = Field("", exclude=True)


def load_ceiling(key: str, path: Path = CEILINGS) -> Ceiling:
    """Return an entry of the ceilings file. Raises UserError when the file or the key is missing or malformed."""
    entries = read_yaml(path, str(path), "restore it, or leave serving.sol_ceiling empty")
    if key not in entries:
        known = ", ".join(entries)
        raise UserError(f"serving.sol_ceiling = {key!r} is not in {path} (known: {known}); add it with its source, or leave it empty")
    return checked(Ceiling, entries[key], f"{path}: {key}").model_copy(update={"key": key})


def sol_percent(ceiling: Ceiling, hardware: str, target: Path, engine: dict[str, Any], acceptance_length: float, tpot_ms: float) -> float:
    """Return the share of the speed of light in percent, as the smallest possible time per token over the measured one.

    Args:
        ceiling: the ceiling of one device.
        hardware: token of the device that served.
        target: directory of the target.
        engine: `dtype`, `quantization` and `tensor_parallel` as the engine reports them.
        acceptance_length: tokens per verification step.
        tpot_ms: mean time per output token in milliseconds, with one request in flight.

    Raises:
        UserError: the ceiling belongs to another device.
    """
    if ceiling.hardware != hardware:
        raise UserError(f"serving.sol_ceiling = {ceiling.key!r} is the ceiling of {ceiling.hardware}, but {hardware} served; name its own")
    devices: int = engine["tensor_parallel"]
    least_s = weight_bytes(target, engine) / (ceiling.memory_bandwidth_bytes_per_s * devices) / acceptance_length
    return 100 * least_s / (tpot_ms / 1000)


def hardware_token(device_type: str, device_name: str) -> str:
    """Return the token of a device, `cpu` or the model of a GPU, such as GB300 for `NVIDIA GB300`."""
    return "cpu" if device_type == "cpu" else device_name.removeprefix("NVIDIA ").split()[0]
