"""Records made up for tests."""

from typing import Any

from lib.arm import Arm, make_arm
from lib.config import Point
from lib.records.measurement import ProxyRecord, ServingRecord

CONTEXT: dict[str, Any] = {
    "model": {"target_fingerprint": "t"},
    "hardware": {"device_type": "cpu", "device_name": "EPYC", "host": "one", "devices": 1, "threads": 1},
    "configuration": {"compute_dtype": "float32"},
    "workload": {
        **{"features": "f", "train_samples": 64, "heldout_samples": 8, "heldout_tokens": 640},
        **{"vocabulary": {"size": 256, "filler": 3, "coverage": 0.9}},
    },
    "stack": {"python": "3.11.7", "speculators": "0.9.0", "torch": "2.13.0", "transformers": "5.19.0"},
}
"""Of a proxy."""

SERVED: dict[str, Any] = {
    "identity": {
        "model": "tiny-llama",
        "hf_path": "resources/target/t",
        "target_fingerprint": "t",
        "head": {"path": "results/a/head", "sha256": "0"},
        "hardware": "cpu",
        "device_type": "cpu",
        "device_name": "EPYC",
        "dtype": "torch.float32",
        "quantization": None,
        "kv_cache_dtype": "auto",
    },
    "parallelism": {"tensor": 1, "data": 1, "pipeline": 1, "decode_context": 1, "expert": False, "strategy": "single", "workers": 1},
    "configuration": {
        "method": "eagle3",
        "num_speculative_tokens": 2,
        "draft_sample_method": "greedy",
        "rejection_sample_method": "standard",
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "max_model_len": 256,
        "gpu_memory_utilization": 0.9,
        "kv_cache_memory_bytes": 268435456,
        "block_size": 128,
        "enforce_eager": True,
        "cudagraph_mode": "NONE",
        "async_scheduling": False,
        "chunked_prefill": True,
        "prefix_caching": False,
        "seed": 0,
        "threads": 1,
        "attention_backend": None,
        "extra_args": (),
    },
    "workload": {
        "dataset": "mine",
        "subsets": {"qa": {"prompts_sha256": "0", "num_prompts": 2, "input_tokens_mean": 32.0}},
        "output_tokens": 64,
        "stop": "fixed",
        "concurrency": 16,
        "temperature": 0.0,
        "top_p": None,
        "top_k": None,
        "seed": 0,
    },
    "regime": {"start": "warm", "tier": "throughput"},
    "stack": {
        "image": None,
        "vllm": "0.32.0",
        "vllm_commit": None,
        "bench_backend": "vllm",
        "engine": "vLLM V1",
        "python": "3.11.7",
        "torch": "2.13.0",
        "repairs": [],
    },
    "grounding": {
        "level": "L1",
        "n": 1,
        "mean": 2.0,
        "std": None,
        "node": "one",
        "baseline": None,
        "sol_percent": None,
        "sol_ceiling": None,
    },
}
"""Of a measurement in serving."""

ASKED = {"engine": "vllm", "workload": {"output_tokens": 64}, "repeats": 1, "draft_tokens": 2}
SPEEDS = {
    **{"duration_s": 1.0, "input_tokens": 64, "output_tokens": 128},
    **{f"{statistic}_output_tokens": 64.0 for statistic in ("mean", "p50", "p90", "p99")},
    **{f"{what}_throughput": 1.0 for what in ("request", "output", "total_token")},
    **{f"{statistic}_{what}_ms": 1.0 for statistic in ("mean", "median", "p99") for what in ("ttft", "tpot", "itl", "e2el")},
}


def proxy(arm: Arm | str, status: str = "ok", accuracies: tuple[float, ...] = (0.5,), **sections: dict[str, Any]) -> ProxyRecord:
    """Return the record of an arm, with keys of its context's sections changed."""
    numbers = {"acc0": accuracies[0], "accuracies": list(accuracies), "head_sha256": "0", "train_loss": 1.0, "last_lr": 0.1}
    name = arm if isinstance(arm, str) else arm.id
    return ProxyRecord(
        arm=name,
        configuration={"arm": name} if isinstance(arm, str) else arm.record(),
        status=status,
        reason=None if status == "ok" else "loss is nan",
        context={name: values | sections.get(name, {}) for name, values in CONTEXT.items()},
        rung=0,
        cap_samples=8,
        samples=8,
        steps=1,
        wall_seconds=1.0,
        device_seconds=1.0,
        resumed_from_samples=0,
        **(numbers if status == "ok" else dict.fromkeys(numbers)),
    )


def serving_values(arm: str = "a", *lengths: float, context: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the fields of a sound measurement, one length per repeat (2.0 when none is given), with fields changed."""
    lengths = lengths or (2.0,)
    one, pooled = [_counted(length) for length in lengths], _counted(sum(lengths) / len(lengths), len(lengths))
    repeats = [
        counted | {"started_at": f"2026-01-01T00:0{number}:00+00:00", "subsets": {"qa": counted | SPEEDS}}
        for number, counted in enumerate(one)
    ]
    fields = {
        **{"arm": arm, "status": "ok", "reason": None, "wall_seconds": 1.0, "device_seconds": 1.0},
        **{"context": context or SERVED, "asked": ASKED, "head_sha256": "0"},
        **pooled,
        **{"subsets": {"qa": pooled}, "repeats": repeats, "prompt_acceptance": {"qa": [pooled["acceptance_length"]] * 2}},
    }
    return fields | changes


def serving(arm: str = "a", *lengths: float, **changes: Any) -> ServingRecord:
    """Return a sound measurement, as `serving_values` has its fields."""
    return ServingRecord.model_validate(serving_values(arm, *lengths, **changes))


def failed(arm: str) -> ServingRecord:
    """Return the record of an arm whose training failed, so that it was never served."""
    numbers = dict.fromkeys((*ServingRecord.numbers, "prompt_acceptance"))
    return serving(arm, status="diverged", reason="loss is nan", context=CONTEXT, **numbers)


RECIPE = {"target": "t", "draft": {"method": "eagle3", "aux_layers": [1, 2, 3]}, "training": {}, "rungs": [8, 24]}


def arm(lr: float = 1e-3, seed: int = 0) -> Arm:
    """Return an arm."""
    point = Point(global_batch=8, lr=lr, warmup=0.0)
    return make_arm(point, seed=seed, ranks=1, micro_batch_limit=4, recipe=RECIPE)


def _counted(length: float, runs: int = 1) -> dict[str, Any]:
    drafts = 10_000 * runs
    accepted = round((length - 1) * drafts)
    rate = accepted / drafts / 2
    return {
        "acceptance_length": 1 + accepted / drafts,
        "per_position_acceptance": [rate, rate],
        "drafts": drafts,
        "draft_tokens": 2 * drafts,
        "accepted": accepted,
    }
