"""Measure the acceptance length of a draft head in a real vLLM server."""

import operator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.prompts import read_prompts
from lib.serving import workload as load
from lib.serving.context import read_context
from lib.serving.counters import SpeculationCounters, parse_counters
from lib.serving.engine import Draft, EngineSettings, Method, Server, running
from lib.serving.workload import Workload


def measure(
    target: Path,
    head: Path,
    method: Method,
    k: int,
    settings: EngineSettings,
    workload: Workload,
    repeats: int,
    log: Path,
    start_timeout_s: float = 900,
) -> dict[str, Any]:
    """Serve `target` with `head` proposing `k` tokens, send the workload `repeats` times, and return a JSON-ready record.

    The record holds what `pooled` returns, and what the numbers belong to under `context` and `workload`. Repeat r samples with seed
    `workload.seed` + r, so at temperature 0 repeats differ in speed alone. UserError for bad input, ServerError (with the end of the
    server's log) if vLLM dies, RuntimeError if our counters and the driver's differ.
    """
    if repeats < 1:
        raise UserError(f"repeats={repeats}: measure at least once")
    identity = load.identity(workload)
    with running(target, Draft(method, head, k), settings, log) as server:
        load.load_driver()
        server.wait_until_ready(start_timeout_s)
        context = read_context(server)
        _warm_up(server, workload)
        runs = [_measure_once(server, replace(workload, seed=workload.seed + number), log) for number in range(repeats)]
    return {**pooled(runs), "context": context, "workload": identity}


def pooled(runs: list[tuple[SpeculationCounters, dict[str, Any]]]) -> dict[str, Any]:
    """Return the acceptance of the summed counters of all runs, and each run's own acceptance and speed under `repeats`."""
    return {
        **_acceptance(reduce(operator.add, (counters for counters, _ in runs))),
        "repeats": [_acceptance(counters) | speed for counters, speed in runs],
    }


def _acceptance(counters: SpeculationCounters) -> dict[str, Any]:
    return {
        "acceptance_length": counters.acceptance_length,
        "per_position_acceptance": counters.per_position_acceptance,
        "drafts": counters.drafts,
        "draft_tokens": counters.draft_tokens,
        "accepted": counters.accepted,
    }


def _measure_once(server: Server, workload: Workload, log: Path) -> tuple[SpeculationCounters, dict[str, Any]]:
    # Repeats send the same prompts: a prefix cache must not answer the second from the first.
    server.ask("/reset_prefix_cache", {})
    before = parse_counters(server.ask("/metrics"))
    result = load.run(server, workload, log)
    counters = parse_counters(server.ask("/metrics")).since(before)
    _require_agreement(counters, result)
    return counters, {
        "duration_s": float(result["duration"]),
        "input_tokens": int(result["total_input_tokens"]),
        "output_tokens": int(result["total_output_tokens"]),
        **{key: float(result[key]) for key in (*load.THROUGHPUTS, *load.SUMMARIES)},
    }


def _require_agreement(counters: SpeculationCounters, result: dict[str, Any]) -> None:
    """RuntimeError unless the driver, which scrapes by itself around its requests, counted the same."""
    ours = (counters.drafts, counters.draft_tokens, counters.accepted)
    drivers = tuple(result.get(f"spec_decode_{name}") for name in ("num_drafts", "draft_tokens", "accepted_tokens"))
    if ours != drivers:
        raise RuntimeError(
            f"drafts, draft tokens and accepted are {ours} by our scrapes, {drivers} by vLLM's driver: is the server shared?"
        )


def _warm_up(server: Server, workload: Workload) -> None:
    """Send one request before anything is counted: the first one pays for what the engine still has to allocate or compile."""
    prompt = read_prompts(workload.prompts, "prompts")[0]
    server.ask(
        "/v1/completions",
        {"model": server.model, "prompt": prompt, "max_tokens": workload.output_tokens, "ignore_eos": True},
        timeout_s=600,
    )
