"""The settings of a measurement, an engine started with them, and records with the context that the engine reports."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.devices import node
from lib.records import context as of
from lib.records.measurement import EngineStart, ProxyRecord, ServingRecord
from lib.serving.acceptance import ready
from lib.serving.ceilings import Ceiling, hardware_token, load_ceiling, sol_percent
from lib.serving.engine import EngineSettings, RunningEngine, Speculation, load_engine
from lib.serving.workload import Workload
from lib.target.load import target_fingerprint

IMAGE = "SPEC_DECODE_TUNE_IMAGE"
"""Environment variable with the image name in a container."""


_OPTIONAL = (
    "attention_backend",
    "environment",
    "expert_parallel",
    "kv_cache_dtype",
    "max_num_batched_tokens",
    "prefix_caching",
    "quantization",
)


@dataclass(frozen=True)
class Bench:
    """The settings shared by all arms of a comparison.

    `model`: name of the target. `method`: vLLM's name of the method. `k`: tokens proposed per step. `asked`: the serving settings of the
    configuration.
    """

    target: Path
    model: str
    method: str
    k: int
    workload: Workload
    dataset: str
    asked: dict[str, Any]
    threads: int
    start_timeout_s: float
    ceiling: Ceiling | None


def make_bench(described: dict[str, Any], threads: int, repeats: int | None = None) -> Bench:
    """Return a bench from its plain description (`lib.experiment.describe_bench`). `repeats` overrides the configured number."""
    named = {name: described[name] for name in ("model", "method", "k", "dataset", "start_timeout_s")}
    asked, ceiling = described["asked"], described["ceiling"]
    return Bench(
        target=Path(described["target"]),
        workload=Workload({name: Path(path) for name, path in described["subsets"].items()}, **described["workload"]),
        asked=asked if repeats is None else asked | {"repeats": repeats},
        threads=threads,
        ceiling=load_ceiling(ceiling) if ceiling else None,
        **named,
    )


@contextmanager
def serving(bench: Bench, head: Path, log: Path) -> Iterator[RunningEngine]:
    """Start an engine with a head, and yield it when it is ready. Raises as `ready` does."""
    engine, speculation = load_engine(bench.asked["engine"]), Speculation(bench.method, head, bench.k)
    settings = engine_settings(bench.asked, bench.threads)
    with ready(engine, bench.target, speculation, settings, bench.workload, log, bench.start_timeout_s) as started:
        yield started


def serving_record(bench: Bench, trained: ProxyRecord, measured: dict[str, Any], seconds: float, engine: EngineStart) -> ServingRecord:
    """Return the record of what `measure` has returned for an arm's head after `seconds`."""
    return ServingRecord(
        arm=trained.arm,
        status="ok",
        reason=None,
        wall_seconds=seconds,
        device_seconds=seconds * engine_settings(bench.asked).devices,
        head_sha256=trained.head_sha256,
        asked=bench.asked,
        engine=engine,
        prompt_acceptance=measured["prompt_acceptance"],
        context=_context(bench, measured, trained),
        **{name: measured[name] for name in ServingRecord.numbers if name in measured},
    )


def failed_record(bench: Bench, trained: ProxyRecord) -> ServingRecord:
    """Return the record of an arm that failed in training and is not served."""
    return ServingRecord(
        arm=trained.arm,
        status=trained.status,
        reason=trained.reason,
        wall_seconds=0,
        device_seconds=0,
        context=trained.context,
        asked=bench.asked,
        prompt_acceptance=None,
        **dict.fromkeys(ServingRecord.numbers),
    )


def preflight(bench: Bench, head: Path, log: Path) -> dict[str, Any]:
    """Serve the target with an untrained head, send one prompt, and return a JSON-ready record of the success.

    Raises:
        UserError: bad input.
        EngineError: the engine cannot serve such a head. The message gives the reason.
    """
    started = time.monotonic()
    with serving(bench, head, log) as server:
        context = server.context()
    stack = load_engine(bench.asked["engine"]).installed()
    return {"asked": bench.asked, "context": context, "stack": stack, "wall_seconds": time.monotonic() - started}


def engine_settings(asked: dict[str, Any], threads: int | None = None) -> EngineSettings:
    """Return the engine settings for the serving settings of a configuration and a number of CPU threads."""
    return EngineSettings(
        dtype=asked["dtype"],
        max_model_len=asked["max_model_len"],
        max_num_seqs=asked["max_num_seqs"],
        enforce_eager=asked["enforce_eager"],
        tensor_parallel_size=asked["tensor_parallel"],
        trust_remote_code=asked.get("trust_remote_code", False),
        gpu_memory_utilization=asked["gpu_memory_utilization"],
        kv_cache_gib=asked["kv_cache_gib"],
        threads=threads,
        # Left out of `asked` at their defaults, as in a dump of the configuration.
        data_parallel_size=asked.get("data_parallel", 1),
        extra_args=tuple(asked.get("extra_args", ())),
        **{name: asked[name] for name in _OPTIONAL if name in asked},
    )


def replicated(lengths: list[float]) -> dict[str, Any]:
    """Return n, mean and sample standard deviation (None for one value) of acceptance lengths, keyed as in a grounding."""
    return {"n": len(lengths), "mean": statistics.fmean(lengths), "std": statistics.stdev(lengths) if len(lengths) > 1 else None}


def _context(bench: Bench, measured: dict[str, Any], trained: ProxyRecord) -> of.ServingContext:
    engine, sent = measured["context"], measured["workload"]
    assert trained.head_sha256 is not None
    device = hardware_token(engine["device_type"], engine["device_name"])
    latency = sent["concurrency"] == 1
    percent = None
    if bench.ceiling and latency:
        runs = [run for one in measured["repeats"] for run in one["subsets"].values()]
        tpot_ms = statistics.fmean(run["mean_tpot_ms"] for run in runs)
        percent = sol_percent(bench.ceiling, device, bench.target, engine, measured["acceptance_length"], tpot_ms)
    return of.ServingContext(
        identity=of.Identity(
            model=bench.model,
            hf_path=engine["target"],
            target_fingerprint=target_fingerprint(bench.target),
            head=of.Head(path=engine["draft"], sha256=trained.head_sha256),
            hardware=device,
            **_named(of.Identity, engine),
        ),
        parallelism=of.Parallelism(
            tensor=engine["tensor_parallel"],
            data=engine["data_parallel"],
            pipeline=engine["pipeline_parallel"],
            decode_context=engine["decode_context_parallel"],
            expert=engine["expert_parallel"],
            strategy=_strategy(engine),
            workers=engine["workers"],
        ),
        configuration=of.ServingConfiguration(
            threads=bench.threads,
            extra_args=tuple(bench.asked.get("extra_args", ())),
            **_named(of.ServingConfiguration, engine),
        ),
        workload=of.Workload(dataset=bench.dataset, **_named(of.Workload, sent)),
        regime=of.Regime(start="warm", tier="latency" if latency else "throughput"),
        stack=of.ServingStack(
            image=os.environ.get(IMAGE),
            vllm_commit=engine["commit"],
            **_named(of.ServingStack, engine),
        ),
        grounding=of.Grounding(
            level="L2" if bench.asked["repeats"] > 1 else "L1",
            node=node(),
            baseline=None,
            sol_percent=percent,
            sol_ceiling=bench.ceiling.key if bench.ceiling and percent is not None else None,
            **replicated([one["acceptance_length"] for one in measured["repeats"]]),
        ),
    )


def _named(section: type[of.Record], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values whose names are fields of a section of the context."""
    return {name: values[name] for name in section.model_fields if name in values}


def _strategy(engine: dict[str, Any]) -> str:
    sizes = {
        "TP": engine["tensor_parallel"],
        "PP": engine["pipeline_parallel"],
        "DP": engine["data_parallel"],
        "DCP": engine["decode_context_parallel"],
    }
    parts = [f"{name}{size}" for name, size in sizes.items() if size > 1] + (["EP"] if engine["expert_parallel"] else [])
    return "+".join(parts) or "single"
