"""What vLLM's worker class gets from this plugin. `/collective_rpc` calls its methods."""

from spec_decode_tune_vllm.exchange import HeadExchange
from spec_decode_tune_vllm.report import WorkerReport

WORKER_EXTENSION = f"{__name__}.WorkerExtension"


class WorkerExtension(WorkerReport, HeadExchange):
    """Mixed into vLLM's worker class by `--worker-extension-cls`."""
