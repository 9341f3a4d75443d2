"""The interface of a serving engine. Each engine is a subfolder with a module `engine`, and is named after the folder."""

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from lib.config import ENGINES
from lib.errors import UserError
from lib.features.extractor import Extractor
from lib.serving.counters import SpeculationCounters
from lib.serving.workload import Workload


class EngineError(UserError):
    """The engine died, hung or refused. The message is one line with the event, the reason from its log, and the path of the log."""


@dataclass(frozen=True)
class Speculation:
    """The proposer of `k` tokens per step, an exported head or, for `draft_model`, a whole model at `path`."""

    method: str
    path: Path
    k: int


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine. None leaves the choice to the engine.

    `dtype`: PyTorch's name. `max_model_len`: tokens. `max_num_seqs`: requests in one batch. `gpu_memory_utilization`: fraction of the
    memory of the device (on CPU of the machine) for weights and cache. `kv_cache_gib`: GiB of the cache, which replaces the fraction and
    on CPU avoids zeroing gigabytes at start. `threads`: CPU threads. `trust_remote_code`: whether code of the target's directory may run.
    `extra_args`: further words of the server's command. `environment`: additional variables of the engine's processes.
    """

    dtype: str
    max_model_len: int
    max_num_seqs: int
    enforce_eager: bool = False
    prefix_caching: bool = False
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel: bool = False
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str = "auto"
    attention_backend: str | None = None
    quantization: str | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_gib: float | None = None
    seed: int = 0
    trust_remote_code: bool = False
    threads: int | None = None
    extra_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.tensor_parallel_size * self.data_parallel_size


@dataclass(frozen=True)
class Answers:
    """The result of a workload's subset, sent once.

    `requests`: counters of each request in prompt order, empty if the engine does not report them. `counted`: drafts, drafted tokens and
    accepted tokens by the load driver. `speed`: durations, throughputs and latencies, named as in `lib.records.measurement.Run`.
    `texts`: the answers.
    """

    requests: list[SpeculationCounters]
    counted: tuple[int | None, int | None, int | None]
    speed: dict[str, Any]
    texts: list[str]


class RunningEngine(Protocol):
    """An engine started by `Engine.running`. Every method raises EngineError when the engine does not answer."""

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until requests are answered. Raise EngineError when the engine dies or after `timeout_s` seconds."""

    def context(self) -> dict[str, Any]:
        """Return what the engine reports about itself, named as the fields of `lib.records.context`.

        In addition, `target` and `draft` are the paths given to the engine, `<kind>_parallel` the sizes, `commit` the engine's commit.
        """

    def counters(self) -> SpeculationCounters:
        """Return the engine's counters since its start. Raise ValueError when it does not speculate."""

    def warm_up(self, workload: Workload) -> None:
        """Answer one request, so that allocation and compilation at the first request are not measured."""

    def exchange(self, head: Path) -> None:
        """Serve another head in the place of the one given at the start. Nothing that the engine keeps of the old one may remain.

        Raises HeadDiffers, before the model is touched, for a head that the engine must be started with, and ExchangeFailed when the head
        did not arrive whole.
        """

    def send(self, workload: Workload, subset: str) -> Answers:
        """Send a subset once. Answers do not use a cache filled by earlier requests."""


class Engine(Protocol):
    """The functions of an engine's module."""

    def installed(self) -> dict[str, str]:
        """Return the versions of the installed distributions that serve, empty without one."""

    def check(self, settings: EngineSettings) -> None:
        """Raise UserError for settings that the engine does not take. Nothing is started."""

    def require_installed(self) -> None:
        """Raise UserError unless the engine can be started here."""

    def running(
        self, target: Path, speculation: Speculation | None, settings: EngineSettings, log: Path
    ) -> AbstractContextManager[RunningEngine]:
        """Start the engine, which is still loading when yielded, and stop it on exit. It never outlives this process."""

    def extracting(self, target: Path, layers: Sequence[int], settings: EngineSettings, log: Path) -> AbstractContextManager[Extractor]:
        """Start the engine to answer prompts and to yield outputs of the target's `layers`. Otherwise as `running`."""

    def serve_command(self, python: str, target: Path, speculation: Speculation, settings: EngineSettings) -> list[str]:
        """Return the shell-quoted words of a command that serves at `$HOST` and `$PORT` as `running` does."""


def load_engine(name: str) -> Engine:
    """Return the engine in the subfolder `name`. Raise UserError when there is none."""
    if name not in ENGINES:
        raise UserError(f"serving.engine = {name!r} is unknown; choose one of {', '.join(ENGINES)}")
    return cast("Engine", importlib.import_module(f"lib.serving.{name}.engine"))
