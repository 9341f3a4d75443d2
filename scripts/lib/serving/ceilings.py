"""The speed of light: how near decoding comes to what the device's memory can feed it, where that is what binds it.

One request in flight on a dense target reads every weight once per verification step, so a step takes at least
weight bytes / memory bandwidth, and a token at least that divided by the acceptance length. The draft head's own reads are not
counted: the share given is at most a little low. With several requests in flight, or with experts of which a step reads some, other
ceilings bind and no share is given.
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

    hardware: str = Field(min_length=1, description="ceiling token of the device, as records name it")
    memory_bandwidth_bytes_per_s: float = Field(gt=0, description="peak of one device")
    source: str = Field(min_length=1, description="where the peak is published")
    key: str = Field("", exclude=True)


def load_ceiling(key: str, path: Path = CEILINGS) -> Ceiling:
    """Return an entry of the ceilings file. Raises UserError when the file or the key is missing or malformed."""
    entries = read_yaml(path, str(path), "restore it, or leave serving.sol_ceiling empty")
    if key not in entries:
        known = ", ".join(entries)
        raise UserError(f"serving.sol_ceiling = {key!r} is not in {path}, which knows {known}; add it with its source, or leave it empty")
    return checked(Ceiling, entries[key], f"{path}: {key}").model_copy(update={"key": key})


def sol_percent(ceiling: Ceiling, hardware: str, target: Path, engine: dict[str, Any], acceptance_length: float, tpot_ms: float) -> float:
    """Return the share of the speed of light, in percent: the least time per token over the measured one.

    Args:
        ceiling: of one device.
        hardware: token of the device that served.
        target: directory of the target.
        engine: what the engine said of itself: `dtype`, `quantization`, `tensor_parallel`.
        acceptance_length: tokens per verification step.
        tpot_ms: mean time per output token of one request in flight, in milliseconds.

    Raises:
        UserError: the ceiling is another device's.
    """
    if ceiling.hardware != hardware:
        raise UserError(f"serving.sol_ceiling = {ceiling.key!r} is the ceiling of {ceiling.hardware}, but {hardware} served; name its own")
    devices: int = engine["tensor_parallel"]
    least_s = weight_bytes(target, engine) / (ceiling.memory_bandwidth_bytes_per_s * devices) / acceptance_length
    return 100 * least_s / (tpot_ms / 1000)


def hardware_token(device_type: str, device_name: str) -> str:
    """Return the token of a device: `cpu`, or the model of a GPU, `NVIDIA GB300` as GB300."""
    return "cpu" if device_type == "cpu" else device_name.removeprefix("NVIDIA ").split()[0]
