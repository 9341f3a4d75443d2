"""The context of a measurement as reported by the running engine."""

import json
from typing import Any, Protocol

from lib.serving.engine import EngineError

CONFIG = {
    "target": "model_config.model",
    "dtype": "model_config.dtype",
    "quantization": "model_config.quantization",
    "max_model_len": "model_config.max_model_len",
    "seed": "model_config.seed",
    "enforce_eager": "model_config.enforce_eager",
    "cudagraph_mode": "compilation_config.cudagraph_mode",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "block_size": "cache_config.block_size",
    "gpu_memory_utilization": "cache_config.gpu_memory_utilization",
    "kv_cache_memory_bytes": "cache_config.kv_cache_memory_bytes",
    "prefix_caching": "cache_config.enable_prefix_caching",
    "tensor_parallel": "parallel_config.tensor_parallel_size",
    "pipeline_parallel": "parallel_config.pipeline_parallel_size",
    "data_parallel": "parallel_config.data_parallel_size",
    "decode_context_parallel": "parallel_config.decode_context_parallel_size",
    "attention_backend": "attention_config.backend",
    "expert_parallel": "parallel_config.enable_expert_parallel",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "async_scheduling": "scheduler_config.async_scheduling",
    "method": "speculative_config.method",
    "draft": "speculative_config.model",
    "num_speculative_tokens": "speculative_config.num_speculative_tokens",
    "draft_sample_method": "speculative_config.draft_sample_method",
    "rejection_sample_method": "speculative_config.rejection_sample_method",
}
"""Key of the context -> its path in a vLLM worker's configuration."""

ENGINE = {"engine": "vLLM V1", "bench_backend": "vllm.benchmarks.serve"}
"""Names of the engine and of the load driver."""

OF_THE_WORKER = ("device_type", "device_name", "python", "torch", "vllm", "commit", "repairs")
"""Keys added by the plugin's worker report (see vllm-plugin/)."""


class Askable(Protocol):
    """A vLLM server that answers requests."""

    def ask(self, path: str, body: Any = None, timeout_s: float = 60) -> str:
        """POST `body` to `path` and return the answer's text."""


def read_context(server: Askable) -> dict[str, Any]:
    """Return the context of a ready `server`, a flat dictionary of the keys of `CONFIG`, `OF_THE_WORKER` and `ENGINE`, plus `workers`.

    The context comes from the workers because they run the model. A value is None only where vLLM's value is None. Raises EngineError if a
    key is missing, if workers differ, or if the plugin is older or not loaded (`VLLM_PLUGINS` in `serving.environment` can exclude it).
    """
    answer = server.ask("/collective_rpc", {"method": "spec_decode_tune_report", "args": list(CONFIG.values())}, timeout_s=60)
    reports = json.loads(answer)["results"]
    first = reports[0]
    if any(report != first for report in reports):
        raise EngineError(f"the workers of this server differ: {reports}")
    if first["repairs"] is None:
        raise EngineError(
            "the vLLM plugin was not loaded in the worker; remove VLLM_PLUGINS from serving.environment, or add spec_decode_tune to it"
        )
    unreported = [key for key in OF_THE_WORKER if key not in first]
    if unreported:
        raise EngineError(
            f"the installed vLLM plugin is older than this repository and does not report {', '.join(unreported)}; run "
            "pip install --no-deps --no-build-isolation ./vllm-plugin"
        )
    missing = [f"{key} ({path})" for key, path in CONFIG.items() if path not in first["config"]]
    if missing:
        raise EngineError(f"vLLM {first['vllm']} does not report its {', '.join(missing)}")
    return {
        **{key: first["config"][path] for key, path in CONFIG.items()},
        **{key: first[key] for key in OF_THE_WORKER},
        "workers": len(reports),
        **ENGINE,
    }
