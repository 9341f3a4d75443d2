"""Serve the target with a head and read the acceptance length off the engine's counters."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import parse_config
from lib.script import running
from lib.serving.engine import EngineSettings, Method
from lib.serving.measure import measure
from lib.serving.workload import Workload
from lib.target.load import target_fingerprint
from lib.verdict.record import Context, ProxyRecord, ServingRecord, read_record, write_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

OF_THE_MODEL = ("target", "method", "draft", "quantization")
OF_THE_HARDWARE = ("device_type", "device_name", "workers")
OF_THE_STACK = ("python", "torch", "vllm", "repairs")


def measure_serving(
    trained: ProxyRecord,
    target: Path,
    head: Path,
    method: Method,
    workload: Workload,
    *,
    serving: dict[str, Any],
    k: int,
    start_timeout_s: float,
    threads: int,
    log: Path,
) -> ServingRecord:
    """Return the measurement of an arm's head, or of a failed arm the record of its failure."""
    asked = {**serving, "draft_tokens": k}
    if trained.status != "ok":
        return _failed(trained, asked)
    started = time.monotonic()
    settings = EngineSettings(
        dtype=serving["dtype"],
        max_model_len=serving["max_model_len"],
        max_num_seqs=serving["max_num_seqs"],
        enforce_eager=serving["enforce_eager"],
        tensor_parallel_size=serving["tensor_parallel"],
        gpu_memory_utilization=serving["gpu_memory_utilization"],
        kv_cache_gib=serving["kv_cache_gib"],
        threads=threads,
    )
    measured = measure(target, head, method, k, settings, workload, serving["repeats"], log, start_timeout_s)
    seconds = time.monotonic() - started
    return ServingRecord(
        arm=trained.arm,
        status="ok",
        reason=None,
        wall_seconds=seconds,
        device_seconds=seconds * serving["tensor_parallel"],
        head_sha256=trained.head_sha256,
        asked=asked,
        context=_context(measured, target, trained, threads),
        **{name: measured[name] for name in ServingRecord.numbers if name in measured},
    )


def _context(measured: dict[str, Any], target: Path, trained: ProxyRecord, threads: int) -> Context:
    engine = measured["context"]
    elsewhere = {*OF_THE_MODEL, *OF_THE_HARDWARE, *OF_THE_STACK}
    return Context(
        model={
            "target": engine["target"],
            "target_fingerprint": target_fingerprint(target),
            "method": engine["method"],
            "quantization": engine["quantization"],
            "draft": {"head": engine["draft"], "head_sha256": trained.head_sha256},
        },
        hardware={name: engine[name] for name in OF_THE_HARDWARE} | {"threads": threads},
        configuration={name: value for name, value in engine.items() if name not in elsewhere},
        workload=measured["workload"],
        stack={name: engine[name] for name in OF_THE_STACK},
    )


def _failed(trained: ProxyRecord, asked: dict[str, Any]) -> ServingRecord:
    numbers = dict.fromkeys(ServingRecord.numbers)
    return ServingRecord(
        arm=trained.arm,
        status=trained.status,
        reason=trained.reason,
        wall_seconds=0,
        device_seconds=0,
        context=trained.context,
        asked=asked,
        **numbers,
    )


if __name__ == "__main__":
    with running(snakemake.log[0]):
        serving = snakemake.params.serving
        record = measure_serving(
            read_record(Path(snakemake.input.acc), ProxyRecord),
            Path(snakemake.input.target),
            Path(snakemake.input.head),
            snakemake.params.method,
            Workload(Path(snakemake.input.prompts), serving["output_tokens"], serving["concurrency"], serving["temperature"]),
            serving=serving,
            k=snakemake.params.draft_tokens,
            start_timeout_s=parse_config(snakemake.config).serving.start_timeout_s,  # no param: waiting longer measures the same
            threads=snakemake.threads,
            log=Path(snakemake.log[0]).with_suffix(".server.log"),
        )
        write_record(Path(snakemake.output.serving), record)
