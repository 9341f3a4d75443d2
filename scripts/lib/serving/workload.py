"""The fixed workload of a measurement, sent by vLLM's own load driver."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import digest
from lib.prompts import read_prompts
from lib.serving.counters import SpeculationCounters, request_counters
from lib.serving.engine import Server, ServerError
from lib.target.load import load_tokenizer

SUMMARIES = tuple(f"{statistic}_{what}_ms" for what in ("ttft", "tpot", "itl", "e2el") for statistic in ("mean", "median", "p99"))
"""Latencies kept, in milliseconds: time to first token, per output token, between tokens, end to end."""

THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
"""Throughputs kept: requests, output tokens, all tokens per second."""

COUNT_BY_REQUEST = ("--per-request-spec-decode-metrics", "summary")
"""Arguments of a speculating server that put each request's own counts into its response."""


@dataclass(frozen=True)
class Workload:
    """Which prompts, how many tokens for each, how many at once, sampled how.

    `subsets`: by name a file of JSON lines `{"prompt": text}`, sent in order and without a chat template; further keys are ignored.
    `prompts_per_subset`: the first so many of each file, None for all. `output_tokens`: exactly so many per request (the end-of-sequence
    token is ignored). `concurrency`: requests in flight. `temperature` 0 is greedy; `top_p` and `top_k` None leave the distribution
    whole. `seed`: every request's own seed follows from it, the subset's name and the request's place.
    """

    subsets: Mapping[str, Path]
    output_tokens: int
    concurrency: int
    prompts_per_subset: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0

    def prompts(self, subset: str) -> list[str]:
        """Return the prompts sent for `subset`. UserError if its file is not one of prompts or holds fewer than asked for."""
        path, asked = self.subsets[subset], self.prompts_per_subset
        prompts = read_prompts(path, "prompts")
        if asked is not None and not 1 <= asked <= len(prompts):
            raise UserError(
                f"prompts_per_subset={asked}, but prompts={path} holds {len(prompts)}; give 1 to {len(prompts)}, or nothing for all of them"
            )
        return prompts[:asked]


def find_subsets(path: Path, key: str) -> dict[str, Path]:
    """Return the prompt files at `path` by name, sorted: itself, or all of a directory. UserError naming `key` if there is none.

    The shape is that of RedHatAI's speculator_benchmarks, one `.jsonl` file per subset; vLLM's load driver reads no other suffix.
    """
    if not path.exists():
        raise UserError(f"{key}={path} does not exist; give a .jsonl file of prompts or a directory of such files")
    if path.is_dir():
        files = sorted(path.glob("[!.]*.jsonl"))
        if not files:
            raise UserError(f"{key}={path} holds no .jsonl file; put one there for each subset of prompts")
        return {file.stem: file for file in files}
    if path.suffix != ".jsonl":
        raise UserError(f"{key}={path} is not named .jsonl, and vLLM's load driver reads no other file; rename it")
    return {path.stem: path}


def identity(workload: Workload) -> dict[str, Any]:
    """Return what makes two workloads the same, JSON-ready: every setting and each file's SHA-256. UserError for bad prompts."""
    return {
        "subsets": {
            name: {"prompts_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_prompts": len(workload.prompts(name))}
            for name, path in workload.subsets.items()
        },
        "output_tokens": workload.output_tokens,
        "concurrency": workload.concurrency,
        "temperature": workload.temperature,
        "top_p": workload.top_p,
        "top_k": workload.top_k,
        "seed": workload.seed,
    }


def require_room(workload: Workload, target: Path, max_model_len: int) -> None:
    """Refuse a workload of which a prompt and its answer do not fit into `max_model_len` tokens. Raises UserError naming the file."""
    tokenizer = load_tokenizer(target)
    for name, path in workload.subsets.items():
        longest = max(len(tokenizer.encode(prompt)) for prompt in workload.prompts(name))
        if longest + workload.output_tokens > max_model_len:
            raise UserError(
                f"serving.max_model_len = {max_model_len} is too short for a prompt of {longest} tokens in {path} and "
                f"serving.workload.output_tokens = {workload.output_tokens}; raise it, or shorten one of the others"
            )


def run(server: Server, workload: Workload, subset: str, log: Path) -> tuple[dict[str, Any], list[SpeculationCounters]]:
    """Send a subset once to a ready `server`: return the driver's own result and the counters of the requests, in order.

    The result's keys are those of `vllm bench serve --save-detailed`. Without counters in every response, for which the server needs
    `COUNT_BY_REQUEST`, the list is empty. What the driver prints is appended to `log`. ServerError if a request failed.
    """
    driver, parser = load_driver()
    prompts = -1 if workload.prompts_per_subset is None else workload.prompts_per_subset
    sampling = {"temperature": workload.temperature, "top-p": workload.top_p, "top-k": workload.top_k}
    arguments = parser.parse_args(
        [
            *("--backend", "vllm", "--base-url", server.url, "--model", server.model),
            *("--dataset-name", "custom", "--dataset-path", str(workload.subsets[subset]), "--num-prompts", str(prompts)),
            *("--skip-chat-template", "--disable-shuffle", "--custom-output-len", str(workload.output_tokens), "--ignore-eos"),
            *("--max-concurrency", str(workload.concurrency), "--percentile-metrics", "ttft,tpot,itl,e2el"),
            *(word for name, value in sampling.items() if value is not None for word in (f"--{name}", str(value))),
            *("--request-id-prefix", "", "--save-detailed", "--disable-tqdm"),
        ]
    )
    with (
        log.open("a") as output,
        contextlib.redirect_stdout(output),
        _seeding(driver, [workload.seed, subset]),
        _listening() as heard,
    ):
        result: dict[str, Any] = driver.main(arguments)
    if result["failed"]:
        reason = next(error for error in result["errors"] if error).strip().splitlines()[-1]
        requests = result["failed"] + result["completed"]
        raise ServerError(f"{result['failed']} of {requests} requests failed, the first with: {reason}; {server.last_words()}")
    return result, [heard[place] for place in sorted(heard)] if len(heard) == result["completed"] else []


@functools.cache
def load_driver() -> tuple[Any, Any]:
    """Import vLLM's load driver, once, and return its module and argument parser.

    It takes as long as a server's start: do it meanwhile. A run leaves nothing in it for the next: each has its own event loop, its own
    connections, and takes its counters before and after.
    """
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    serve.add_cli_args(parser)
    return serve, parser


@contextlib.contextmanager
def _seeding(driver: Any, source: list[Any]) -> Iterator[None]:
    """Give every request of the driver a seed of its own, a function of `source` and its place.

    The driver's arguments know one seed for all. Requests that share a seed share their random numbers, so their acceptances rise and
    fall together and the mean of a workload scatters as if it had a handful of requests.
    """
    get_samples = driver.get_samples

    def with_seeds(*arguments: Any) -> Any:
        requests = get_samples(*arguments)
        for index, request in enumerate(requests):
            request.request_overrides = {"seed": int(digest([*source, index], length=8), 16)}
        return requests

    driver.get_samples = with_seeds
    try:
        yield
    finally:
        driver.get_samples = get_samples


@contextlib.contextmanager
def _listening() -> Iterator[dict[int, SpeculationCounters]]:
    """Yield the counters of the driver's requests by their place, filled while it runs.

    They are in the last message of each response, which the driver reads for the usage alone. The driver names a request by its place,
    and the server names the response after the request.
    """
    from vllm.benchmarks.lib.endpoint_request_func import StreamedResponseHandler

    heard: dict[int, SpeculationCounters] = {}
    handler: Any = StreamedResponseHandler
    add_chunk = handler.add_chunk

    def listening(self: Any, chunk: bytes) -> list[str]:
        messages: list[str] = add_chunk(self, chunk)
        for message in messages:
            if '"speculative_decoding":' in message:  # never in a generated text, where quotes are escaped
                response = json.loads(message.removeprefix("data: "))
                heard[int(response["id"].removeprefix("cmpl-"))] = request_counters(response["metrics"]["speculative_decoding"])
        return messages

    handler.add_chunk = listening
    try:
        yield heard
    finally:
        handler.add_chunk = add_chunk
