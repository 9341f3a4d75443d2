"""Measure the acceptance length of a draft head in a real vLLM server."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.serving import workload as load
from lib.serving.context import read_context
from lib.serving.counters import SpeculationCounters, parse_counters
from lib.serving.engine import Draft, EngineSettings, Method, Server, running
from lib.serving.workload import Workload


@dataclass(frozen=True)
class Run:
    """One subset sent once: what the engine counted, what of it each request says was its own, and the driver's speed."""

    counters: SpeculationCounters
    requests: list[SpeculationCounters]
    speed: dict[str, Any]


@dataclass(frozen=True)
class Repeat:
    """All subsets sent once, by name; `started_at` is ISO 8601 in UTC."""

    started_at: str
    runs: Mapping[str, Run]


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
    """Serve `target` with `head` proposing `k` tokens, send all subsets of the workload `repeats` times, and return a JSON-ready record.

    The record holds what `pooled` returns, and what the numbers belong to under `context` and `workload`. Repeat r samples with seed
    `workload.seed` + r, so at temperature 0 repeats differ in speed alone. Heads can be measured one after the other in one process: each
    has its own server, and vLLM's driver is loaded once. UserError for bad input, ServerError (with the end of the server's log) if vLLM
    dies, RuntimeError if our counters and the driver's differ.
    """
    if repeats < 1:
        raise UserError(f"repeats={repeats}: measure at least once")
    identity = load.identity(workload)
    counting = replace(settings, extra_args=(*settings.extra_args, *load.COUNT_BY_REQUEST))
    with running(target, Draft(method, head, k), counting, log) as server:
        load.load_driver()
        load.require_room(workload, target, settings.max_model_len)
        server.wait_until_ready(start_timeout_s)
        context = read_context(server)
        _warm_up(server, workload)
        measured = [_repeat(server, replace(workload, seed=workload.seed + number), log) for number in range(repeats)]
    for name, subset in identity["subsets"].items():
        subset["input_tokens_mean"] = measured[0].runs[name].speed["input_tokens"] / subset["num_prompts"]
    return {**pooled(measured), "context": context, "workload": identity}


def pooled(repeats: list[Repeat]) -> dict[str, Any]:
    """Return the acceptance of the summed counters of everything, and of its parts.

    `subsets`: each subset over all repeats. `repeats`: each repeat over all subsets and, under its own `subsets`, each run with its speed.
    `prompt_acceptance`: see there.
    """
    names = list(repeats[0].runs)
    return {
        **_acceptance(run.counters for repeat in repeats for run in repeat.runs.values()),
        "subsets": {name: _acceptance(repeat.runs[name].counters for repeat in repeats) for name in names},
        "repeats": [
            {
                "started_at": repeat.started_at,
                **_acceptance(run.counters for run in repeat.runs.values()),
                "subsets": {name: _acceptance([run.counters]) | run.speed for name, run in repeat.runs.items()},
            }
            for repeat in repeats
        ],
        "prompt_acceptance": prompt_acceptance(repeats),
    }


def prompt_acceptance(repeats: list[Repeat]) -> dict[str, list[float]] | None:
    """Return for each subset the acceptance length of its prompts, in file order and over all repeats.

    None unless the requests of every run add up to the engine's counters and each was drafted for (one that reaches the model's last
    position at its second token is not). The mean weighted with the prompts' drafts, not the plain one, is the subset's acceptance length.
    """
    if not all(_is_explained(run) for repeat in repeats for run in repeat.runs.values()):
        return None
    return {
        name: [_total(counters).acceptance_length for counters in zip(*(repeat.runs[name].requests for repeat in repeats), strict=True)]
        for name in repeats[0].runs
    }


def _is_explained(run: Run) -> bool:
    return bool(run.requests) and all(request.drafts for request in run.requests) and _total(run.requests) == run.counters


def _total(counters: Iterable[SpeculationCounters]) -> SpeculationCounters:
    return reduce(operator.add, counters)


def _acceptance(parts: Iterable[SpeculationCounters]) -> dict[str, Any]:
    counters = _total(parts)
    return {
        "acceptance_length": counters.acceptance_length,
        "per_position_acceptance": counters.per_position_acceptance,
        "drafts": counters.drafts,
        "draft_tokens": counters.draft_tokens,
        "accepted": counters.accepted,
    }


def _repeat(server: Server, workload: Workload, log: Path) -> Repeat:
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Repeat(started_at, {name: _run(server, workload, name, log) for name in workload.subsets})


def _run(server: Server, workload: Workload, subset: str, log: Path) -> Run:
    # Repeats send the same prompts: a prefix cache must not answer the second from the first.
    server.ask("/reset_prefix_cache", {})
    before = parse_counters(server.ask("/metrics"))
    result, requests = load.run(server, workload, subset, log)
    counters = parse_counters(server.ask("/metrics")).since(before)
    _require_agreement(counters, result)
    speed = {
        "duration_s": float(result["duration"]),
        "input_tokens": int(result["total_input_tokens"]),
        "output_tokens": int(result["total_output_tokens"]),
        **{key: float(result[key]) for key in (*load.THROUGHPUTS, *load.SUMMARIES)},
    }
    return Run(counters, requests, speed)


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
    prompt = workload.prompts(next(iter(workload.subsets)))[0]
    server.ask(
        "/v1/completions",
        {"model": server.model, "prompt": prompt, "max_tokens": workload.output_tokens, "ignore_eos": True},
        timeout_s=600,
    )
