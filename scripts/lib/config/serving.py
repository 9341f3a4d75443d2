"""`serving`: the measurement in the serving engine."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lib.section import Positive, Section, Temperature, added

ENGINES = sorted(file.parent.name for file in (Path(__file__).parents[1] / "serving").glob("*/engine.py"))
"""Names of the serving engines, each a folder."""


class WorkloadOptions(Section):
    """The prompts that are served while acceptance is measured, and how answers are sampled."""

    path: str | None = Field(
        None,
        min_length=1,
        description="JSONL file of prompts or conversations, or a directory of them, each a subset; empty: those of features",
    )
    prompts_per_subset: Positive | None = Field(None, description="prompts taken from every subset; empty: all")
    output_tokens: Positive = Field(64, description="most tokens generated per prompt (OSL)")
    stop: Literal["eos", "fixed"] = Field(
        "eos", description="eos: an answer ends with the target's end-of-sequence tokens; fixed: every answer has output_tokens tokens"
    )
    concurrency: Positive = Field(16, description="requests in flight")
    temperature: Temperature = Field(0.0, description="sampling temperature; 0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="sample from the most likely tokens of this total probability; empty: all")
    top_k: Positive | None = Field(None, description="sample from so many most likely tokens; empty: all")


class Serving(Section):
    """The engine and the workload in which acceptance is measured."""

    engine: str = Field("vllm", description="serving engine", json_schema_extra={"enum": list(ENGINES)})
    top_k: Positive = Field(2, description="finalists that are measured in vLLM, besides the standing configuration")
    engines: Positive = Field(
        1, le=1000, description="engines that measure finalists and standing configuration at the same time, each a part of them"
    )
    repeats: Positive = Field(2, le=1000, description="times the workload is run with every head")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="compute type of the engine")
    max_num_seqs: Positive = Field(16, le=4096, description="sequences the engine batches")
    max_model_len: Positive = Field(256, description="longest sequence of the engine, in tokens")
    gpu_memory_utilization: float = Field(0.9, ge=0.01, le=1, description="share of the device's memory the engine may take")
    kv_cache_gib: float | None = Field(0.25, ge=0.001, le=10_000, description="KV cache in GiB; empty: what gpu_memory_utilization leaves")
    tensor_parallel: Positive = Field(1, description="tensor-parallel size of the engine")
    enforce_eager: bool = Field(True, description="run without graph capture and compilation")
    data_parallel: Positive = added(1, le=4096, description="copies of the model, among which requests are distributed")
    expert_parallel: bool = added(False, description="distribute the experts of a layer over the devices instead of splitting each")
    max_num_batched_tokens: Positive | None = added(None, le=2**20, description="most tokens of one step; empty: the engine's choice")
    prefix_caching: bool = added(
        False, description="reuse the KV cache of shared beginnings; it is emptied before every run of the workload"
    )
    kv_cache_dtype: str = added("auto", min_length=1, description="dtype of the KV cache, such as fp8; auto: the compute type")
    attention_backend: str | None = added(None, min_length=1, description="the engine's attention backend; empty: its choice")
    quantization: str | None = added(None, min_length=1, description="quantization method; empty: as the target's config.json says")
    extra_args: tuple[str, ...] = added(
        (), description="further arguments of the engine's server, one word each, filed with the numbers; keys that exist here are refused"
    )
    workload: WorkloadOptions = Field(WorkloadOptions(), description="what is sent")
    sol_ceiling: str | None = Field(
        None, min_length=1, description="key of config/sol-ceilings.yaml that bounds decoding at one request in flight; empty: no %SoL"
    )
    start_timeout_s: int = Field(300, ge=10, le=86_400, description="seconds the server may take to become ready")
    environment: dict[str, str] = added(
        {},
        description="environment variables of the engine, besides those that say what the machine is; filed with the numbers",
    )

    @model_validator(mode="after")
    def _requests_are_in_flight(self) -> "Serving":
        """Requests that wait in the engine would be measured as slow."""
        room = self.max_num_seqs * self.data_parallel
        if self.workload.concurrency > room:
            raise ValueError(
                f"workload.concurrency = {self.workload.concurrency} is more than max_num_seqs x data_parallel = {room}, the sequences "
                "that the engine batches; lower it, or raise max_num_seqs"
            )
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens = {self.max_num_batched_tokens} is less than max_num_seqs = {self.max_num_seqs}, and each "
                "sequence takes a token of a step; raise max_num_batched_tokens, or lower max_num_seqs"
            )
        return self

    @property
    def devices(self) -> int:
        """The number of devices of one engine."""
        return self.tensor_parallel * self.data_parallel
