"""vLLM's load driver, `vllm bench serve`, run in this process. It scrapes the counters before and after its requests."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib.files import digest
from lib.serving.counters import SpeculationCounters, request_counters
from lib.serving.engine import Answers, EngineError
from lib.serving.vllm.surroundings import inherited
from lib.serving.workload import Workload
from lib.target.load import trusts_code

SUMMARIES = tuple(f"{statistic}_{what}_ms" for what in ("ttft", "tpot", "itl", "e2el") for statistic in ("mean", "median", "p99"))
"""Latencies kept, in milliseconds: time to first token, per output token, between tokens, end to end."""

THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
"""Throughputs kept: requests, output tokens, all tokens per second."""

PERCENTILES = (50, 90, 99)
"""Percentiles kept of the lengths of answers."""

KEY = "OPENAI_API_KEY"
"""Environment variable from which the driver reads the API key."""

MODEL = "target"
"""Name of the model in requests and metrics. A path does not work, because the driver cannot read metrics of a name with a space."""

COUNT_BY_REQUEST = ("--per-request-spec-decode-metrics", "summary")
"""Arguments that make a speculating server put each request's counts into its response."""


def send(url: str, key: str, target: Path, model: str, workload: Workload, subset: str, log: Path) -> Answers:
    """Send a subset once to the server at `url`, which requires `key` and serves `target` as `model`, and return the answers.

    Without `COUNT_BY_REQUEST` among the server's arguments the counters of the requests are missing. The driver's output is appended to
    the server's `log`. Raises EngineError if a request failed.
    """
    driver, parser = load_driver()
    sampling = {"temperature": workload.temperature, "top-p": workload.top_p, "top-k": workload.top_k}
    arguments = parser.parse_args(
        [
            *("--backend", "vllm", "--base-url", url, "--model", str(target), "--served-model-name", model),
            *("--dataset-name", "custom", *(["--ignore-eos"] if workload.stop == "fixed" else [])),
            *("--max-concurrency", str(workload.concurrency), "--percentile-metrics", "ttft,tpot,itl,e2el"),
            *(word for name, value in sampling.items() if value is not None for word in (f"--{name}", str(value))),
            *("--save-detailed", "--disable-tqdm"),
            *(["--trust-remote-code"] if trusts_code() else []),
        ]
    )
    with (
        log.open("a") as output,
        contextlib.redirect_stdout(output),
        _sending(driver, workload, subset),
        _listening() as heard,
        _environment({KEY: key}),
    ):
        result: dict[str, Any] = driver.main(arguments)
    if result["failed"]:
        reason = next(error for error in result["errors"] if error).strip().splitlines()[-1]
        requests = result["failed"] + result["completed"]
        raise EngineError(f"{result['failed']} of {requests} requests failed, the first with: {reason}")
    speed = {
        "duration_s": float(result["duration"]),
        "input_tokens": int(result["total_input_tokens"]),
        "output_tokens": int(result["total_output_tokens"]),
        **_output_lengths(result["output_lens"]),
        **{key: float(result[key]) for key in (*THROUGHPUTS, *SUMMARIES)},
    }
    counted = (result.get(f"spec_decode_{name}") for name in ("num_drafts", "draft_tokens", "accepted_tokens"))
    drafts, draft_tokens, accepted = counted
    return Answers(
        requests=[heard[place] for place in sorted(heard)] if len(heard) == result["completed"] else [],
        counted=(drafts, draft_tokens, accepted),
        speed=speed,
        texts=result["generated_texts"],
    )


def _output_lengths(lengths: list[int]) -> dict[str, float]:
    """Return mean and percentiles of the tokens of the answers."""
    percentiles = np.percentile(lengths, PERCENTILES)
    return {"mean_output_tokens": float(np.mean(lengths))} | {
        f"p{rank}_output_tokens": float(value) for rank, value in zip(PERCENTILES, percentiles, strict=True)
    }


@functools.cache
def load_driver() -> tuple[Any, Any]:
    """Import vLLM's load driver once, and return its module and argument parser.

    The import takes as long as the start of a server, so do both at once. Runs share no state, because each has its own event loop and
    connections and scrapes the counters before and after.
    """
    with _environment({}):
        from vllm.benchmarks import serve
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser: Any = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
        serve.add_cli_args(parser)
    return serve, parser


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Limit the driver's environment to what a server inherits and `variables`. It excludes proxies, `VLLM_PORT` and `.netrc` passwords.

    The key is passed here because the driver prints its arguments.
    """
    before = dict(os.environ)
    _set_environment({**inherited(before), "NETRC": os.devnull, **variables})
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str]) -> None:
    """Make these the only variables of this process. Unchanged variables are not touched, because threads may read them."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


@contextlib.contextmanager
def _sending(driver: Any, workload: Workload, subset: str) -> Iterator[None]:
    """Make the driver send a subset's prompts as tokens, each with its own seed derived from subset and index.

    The server would add a BOS to a text that has one. The driver's own reader uses one seed for all requests. Requests with the same seed
    share random numbers, so their acceptances are correlated and the mean of a workload is as noisy as that of a few requests.
    """
    from vllm.benchmarks.datasets import SampleRequest

    get_samples = driver.get_samples
    driver.get_samples = lambda *_: [
        SampleRequest(
            prompt=list(prompt.token_ids),
            prompt_len=len(prompt.token_ids),
            expected_output_len=workload.output_tokens,
            request_id=str(place),
            request_overrides={"seed": int(digest([workload.seed, subset, place], length=8), 16)},
        )
        for place, prompt in enumerate(workload.prompts(subset))
    ]
    try:
        yield
    finally:
        driver.get_samples = get_samples


@contextlib.contextmanager
def _listening() -> Iterator[dict[int, SpeculationCounters]]:
    """Yield the counters of the driver's requests by index, filled while it runs.

    They are in the last message of each response, from which the driver reads only the usage. The driver names a request by its index, and
    the server names the response after the request.
    """
    from vllm.benchmarks.lib.endpoint_request_func import StreamedResponseHandler

    heard: dict[int, SpeculationCounters] = {}
    handler: Any = StreamedResponseHandler
    add_chunk = handler.add_chunk

    def listening(self: Any, chunk: bytes) -> list[str]:
        messages: list[str] = add_chunk(self, chunk)
        for message in messages:
            if '"speculative_decoding":' in message:  # cannot occur in generated text, where quotes are escaped
                response = json.loads(message.removeprefix("data: "))
                heard[int(response["id"].removeprefix("cmpl-"))] = request_counters(response["metrics"]["speculative_decoding"])
        return messages

    handler.add_chunk = listening
    try:
        yield heard
    finally:
        handler.add_chunk = add_chunk
