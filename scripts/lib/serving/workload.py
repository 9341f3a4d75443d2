"""The fixed workload of a measurement, sent by vLLM's own load driver."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import digest
from lib.prompts import read_prompts
from lib.serving.engine import Server, ServerError

SUMMARIES = tuple(f"{statistic}_{what}_ms" for what in ("ttft", "tpot", "itl", "e2el") for statistic in ("mean", "median", "p99"))
"""Latencies kept, in milliseconds: time to first token, per output token, between tokens, end to end."""

THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
"""Throughputs kept: requests, output tokens, all tokens per second."""


@dataclass(frozen=True)
class Workload:
    """Which prompts, how many tokens for each, how many at once, sampled how.

    `prompts`: JSON lines `{"prompt": text}`, sent in order and without a chat template. `output_tokens`: exactly so many per request (the
    end-of-sequence token is ignored). `concurrency`: requests in flight. `temperature` 0 is greedy; `top_p` and `top_k` None leave the
    distribution whole. `seed`: every request's own seed follows from it and the request's place.
    """

    prompts: Path
    output_tokens: int
    concurrency: int
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0


def identity(workload: Workload) -> dict[str, Any]:
    """Return what makes two workloads the same, JSON-ready: every setting and the SHA-256 of the prompts. UserError for bad prompts."""
    if workload.prompts.suffix != ".jsonl":
        raise UserError(f"prompts={workload.prompts} is not named .jsonl, and vLLM's load driver reads no other file; rename it")
    prompts = read_prompts(workload.prompts, "prompts")
    return {
        "prompts_sha256": hashlib.sha256(workload.prompts.read_bytes()).hexdigest(),
        "num_prompts": len(prompts),
        "output_tokens": workload.output_tokens,
        "concurrency": workload.concurrency,
        "temperature": workload.temperature,
        "top_p": workload.top_p,
        "top_k": workload.top_k,
        "seed": workload.seed,
    }


def run(server: Server, workload: Workload, log: Path) -> dict[str, Any]:
    """Send the workload once to a ready `server` and return the driver's own result; what the driver prints is appended to `log`.

    The keys are those of `vllm bench serve --save-detailed`. ServerError if a request failed.
    """
    driver, parser = load_driver()
    sampling = {"temperature": workload.temperature, "top-p": workload.top_p, "top-k": workload.top_k}
    arguments = parser.parse_args(
        [
            *("--backend", "vllm", "--base-url", server.url, "--model", server.model),
            *("--dataset-name", "custom", "--dataset-path", str(workload.prompts), "--num-prompts", "-1"),
            *("--skip-chat-template", "--disable-shuffle", "--custom-output-len", str(workload.output_tokens), "--ignore-eos"),
            *("--max-concurrency", str(workload.concurrency), "--percentile-metrics", "ttft,tpot,itl,e2el"),
            *(word for name, value in sampling.items() if value is not None for word in (f"--{name}", str(value))),
            *("--save-detailed", "--disable-tqdm"),
        ]
    )
    with log.open("a") as output, contextlib.redirect_stdout(output), _seeding(driver, workload.seed):
        result: dict[str, Any] = driver.main(arguments)
    if result["failed"]:
        reason = next(error for error in result["errors"] if error).strip().splitlines()[-1]
        requests = result["failed"] + result["completed"]
        raise ServerError(f"{result['failed']} of {requests} requests failed, the first with: {reason}; {server.last_words()}")
    return result


def load_driver() -> tuple[Any, Any]:
    """Import vLLM's load driver and return its module and argument parser. Takes as long as a server's start: do it meanwhile."""
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    serve.add_cli_args(parser)
    return serve, parser


@contextlib.contextmanager
def _seeding(driver: Any, seed: int) -> Iterator[None]:
    """Give every request of the driver a seed of its own, a function of `seed` and its place.

    The driver's arguments know one seed for all. Requests that share a seed share their random numbers, so their acceptances rise and
    fall together and the mean of a workload scatters as if it had a handful of requests.
    """
    get_samples = driver.get_samples

    def with_seeds(*arguments: Any) -> Any:
        requests = get_samples(*arguments)
        for index, request in enumerate(requests):
            request.request_overrides = {"seed": int(digest([seed, index], length=8), 16)}
        return requests

    driver.get_samples = with_seeds
    try:
        yield
    finally:
        driver.get_samples = get_samples
