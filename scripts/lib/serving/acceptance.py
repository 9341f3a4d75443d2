"""Measure the acceptance length of a draft head in a serving engine."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.serving.counters import SpeculationCounters
from lib.serving.engine import Engine, EngineError, EngineSettings, RunningEngine, Speculation
from lib.serving.workload import Workload, identify, longest_prompts, require_room

_LONGER = "change its prompts, raise serving.workload.output_tokens above 1, or set serving.workload.stop to fixed"


@dataclass(frozen=True)
class Run:
    """One subset sent once, with the engine's counters, each request's share of them, and the driver's speed."""

    counters: SpeculationCounters
    requests: list[SpeculationCounters]
    speed: dict[str, Any]


@dataclass(frozen=True)
class Repeat:
    """All subsets sent once, by name. `started_at` is ISO 8601 in UTC."""

    started_at: str
    runs: Mapping[str, Run]


def measure(server: RunningEngine, workload: Workload, repeats: int) -> dict[str, Any]:
    """Send all subsets of a workload `repeats` times to an engine that is ready, and return a JSON-ready record.

    The record holds the result of `pooled`, and the keys `context` and `workload`. Repeat r samples with seed `workload.seed` + r, so at
    temperature 0 repeats differ only in speed.

    Raises:
        UserError: bad input.
        EngineError: the engine died. The message gives the reason.
        RuntimeError: the counters of the engine and of the load driver differ.
    """
    if repeats < 1:
        raise UserError(f"repeats={repeats}: measure at least once")
    identity = identify(workload)
    context = server.context()
    measured = [_repeat(server, replace(workload, seed=workload.seed + number)) for number in range(repeats)]
    for name, subset in identity["subsets"].items():
        subset["input_tokens_mean"] = measured[0].runs[name].speed["input_tokens"] / subset["num_prompts"]
    return {**pooled(measured), "context": context, "workload": identity}


@contextmanager
def ready(
    engine: Engine,
    target: Path,
    speculation: Speculation,
    settings: EngineSettings,
    workload: Workload,
    log: Path,
    start_timeout_s: float,
) -> Iterator[RunningEngine]:
    """Start an engine, wait for its first answer, and yield it.

    Raises UserError when a prompt and its answer do not fit, and EngineError when the engine fails.
    """
    require_room(longest_prompts(workload), workload.output_tokens, settings.max_model_len)
    with engine.running(target, speculation, settings, log) as server:
        server.wait_until_ready(start_timeout_s)
        server.warm_up(workload)
        yield server


def pooled(repeats: list[Repeat]) -> dict[str, Any]:
    """Return the acceptance of the summed counters, in total and by part.

    `subsets` has each subset over all repeats. `repeats` has each repeat over all subsets, and under its own `subsets` each run with its
    speed. For `prompt_acceptance` see that function.
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


def prompt_acceptance(repeats: list[Repeat]) -> dict[str, list[float | None]] | None:
    """Return the acceptance length of every prompt by subset, in file order and over all repeats.

    None unless the requests of every run add up to the engine's counters. None for a prompt without drafts, such as one whose answer ends
    with its first token. A subset's acceptance length is the mean over its other prompts weighted by drafts.
    """
    if not all(_is_explained(run) for repeat in repeats for run in repeat.runs.values()):
        return None
    return {
        name: [
            total.acceptance_length if (total := _total(counters)).drafts else None
            for counters in zip(*(repeat.runs[name].requests for repeat in repeats), strict=True)
        ]
        for name in repeats[0].runs
    }


def _is_explained(run: Run) -> bool:
    return bool(run.requests) and _total(run.requests) == run.counters


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


def _repeat(server: RunningEngine, workload: Workload) -> Repeat:
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Repeat(started_at, {name: _run(server, workload, name) for name in workload.subsets})


def _run(server: RunningEngine, workload: Workload, subset: str) -> Run:
    before = server.counters()
    answers = server.send(workload, subset)
    counters = server.counters().since(before)
    if not counters.drafts:
        if answers.speed["output_tokens"] <= len(answers.texts):  # the first token of an answer is never drafted
            raise UserError(f"every answer to {subset} ends with its first token, so nothing is drafted; {_LONGER}")
        raise EngineError(f"the engine answered the prompts of {subset} but drafted nothing, its counters did not move; see its log")
    ours = (counters.drafts, counters.draft_tokens, counters.accepted)
    if ours != answers.counted:
        raise RuntimeError(
            f"drafts, draft tokens and accepted are {ours} by our scrapes but {answers.counted} by the load driver; is the server shared?"
        )
    return Run(counters, answers.requests, answers.speed)
