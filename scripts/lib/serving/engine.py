"""What a serving engine is to a measurement. Each engine is a folder of this package that holds a module `engine`, known by its name."""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from lib.config import ENGINES
from lib.errors import UserError
from lib.serving.counters import SpeculationCounters
from lib.serving.workload import Workload


class EngineError(UserError):
    """The engine died, hung or refused. The message is one line: what happened, the reason that its log tells, and where that log is."""


@dataclass(frozen=True)
class Speculation:
    """What proposes tokens: an exported head (or, for `draft_model`, a whole model) at `path`, `k` tokens at a time."""

    method: str
    path: Path
    k: int


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs. None leaves the choice to the engine.

    `dtype`: as PyTorch names it. `max_model_len`: tokens. `max_num_seqs`: requests in one batch.
    `gpu_memory_utilization`: fraction of the device's memory (on CPU of the machine's) for weights and cache; `kv_cache_gib`: the cache
    alone, GiB, which replaces the fraction and, on CPU, spares zeroing gigabytes at start. `threads`: CPU threads of the engine.
    `trust_remote_code`: code of the target's directory may run. `environment`: further variables for the engine's processes.
    """

    dtype: str
    max_model_len: int
    max_num_seqs: int
    enforce_eager: bool = False
    prefix_caching: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_gib: float | None = None
    seed: int = 0
    trust_remote_code: bool = False
    threads: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What came of a workload's subset, sent once.

    `requests`: the counters of each request in the order of the prompts, empty where the engine does not tell them.
    `counted`: drafts, drafted tokens and accepted tokens as the load driver counted them. `speed`: durations, throughputs and latencies,
    under the names of `lib.records.measurement.Run`. `texts`: the answers.
    """

    requests: list[SpeculationCounters]
    counted: tuple[int | None, int | None, int | None]
    speed: dict[str, Any]
    texts: list[str]


class RunningEngine(Protocol):
    """An engine that `Engine.running` has started. Every method raises EngineError when the engine does not answer."""

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when requests are answered. Raise EngineError when the engine dies or `timeout_s` seconds pass first."""

    def context(self) -> dict[str, Any]:
        """Return what the engine says of itself, under the names of the fields of `lib.records.context`.

        Other names: `target` and `draft` are paths as the engine was told, `<kind>_parallel` are the sizes, `commit` is that of the engine.
        """

    def counters(self) -> SpeculationCounters:
        """Return the engine's own counters since its start. Raise ValueError when it does not speculate."""

    def warm_up(self, workload: Workload) -> None:
        """Answer one request, so that what the engine allocates or compiles at its first one is not measured."""

    def send(self, workload: Workload, subset: str) -> Answers:
        """Send a subset once. No answer comes from a cache that an earlier one has filled."""


class Engine(Protocol):
    """The functions of an engine's module."""

    def require_installed(self) -> None:
        """Raise UserError unless the engine can be started here."""

    def running(
        self, target: Path, speculation: Speculation | None, settings: EngineSettings, log: Path
    ) -> AbstractContextManager[RunningEngine]:
        """Start the engine, which goes on loading, and stop it on the way out. It never outlives this process."""

    def serve_command(self, python: str, target: Path, speculation: Speculation, settings: EngineSettings) -> list[str]:
        """Return the words of a command that serves as `running` does, at `$HOST` and `$PORT`, quoted for a shell."""


def load_engine(name: str) -> Engine:
    """Return the engine of the folder `name` of this package. Raise UserError when there is none."""
    if name not in ENGINES:
        raise UserError(f"serving.engine = {name!r} is unknown; choose one of {', '.join(ENGINES)}")
    return cast("Engine", importlib.import_module(f"lib.serving.{name}.engine"))
