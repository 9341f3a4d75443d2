"""The context of a measurement: everything a number depends on. Every field must be given; None is a statement, not an omission."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """A frozen record that refuses unknown and missing fields, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Head(Record):
    """The draft head that was served: what the measurement is of."""

    path: str = Field(description="as the engine was told")
    sha256: str = Field(description="of its weights, as the trainer hashed them")


class Identity(Record):
    """What was measured, on what."""

    model: str = Field(description="name of the target")
    hf_path: str = Field(description="Hugging Face path of the target, or its directory, as the engine was told")
    target_fingerprint: str
    head: Head
    hardware: str = Field(description="ceiling token: what a device can give at most is looked up under it, as `GB300` or `cpu`")
    device_type: str
    device_name: str
    dtype: str
    quantization: str | None
    kv_cache_dtype: str


class Parallelism(Record):
    """How the target lies on devices."""

    tensor: int
    data: int
    pipeline: int
    decode_context: int
    expert: bool
    strategy: str = Field(description="in short, as TP4 or TP4+EP; `single` for one device")
    workers: int


class ServingConfiguration(Record):
    """The engine, as it reports itself."""

    method: str
    num_speculative_tokens: int
    draft_sample_method: str | None
    rejection_sample_method: str | None
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    gpu_memory_utilization: float
    kv_cache_memory_bytes: int | None
    block_size: int
    enforce_eager: bool
    cudagraph_mode: str | None
    async_scheduling: bool
    chunked_prefill: bool
    prefix_caching: bool
    seed: int
    threads: int


class Subset(Record):
    """A part of the workload that is counted by itself."""

    prompts_sha256: str
    num_prompts: int
    input_tokens_mean: float = Field(description="ISL: mean prompt length, in tokens of the target")


class Workload(Record):
    """What was sent."""

    dataset: str = Field(description="where the prompts come from")
    subsets: dict[str, Subset] = Field(min_length=1)
    output_tokens: int = Field(description="OSL: tokens generated per prompt, exactly")
    concurrency: int = Field(description="requests in flight")
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int


class Regime(Record):
    """In what state the engine was measured."""

    start: Literal["warm"] = Field(description="at least one request was answered before anything was counted")
    tier: Literal["latency", "throughput"] = Field(description="latency: one request in flight; throughput: several")


class ServingStack(Record):
    """The software that served."""

    image: str | None = Field(description="container image, None outside a container")
    vllm: str
    vllm_commit: str | None = Field(description="None where the build does not say")
    bench_backend: str = Field(description="the load driver")
    engine: str
    python: str
    torch: str
    repairs: list[str] = Field(description="faults of this build that were repaired at load")


class Grounding(Record):
    """How well the number is founded.

    Levels: L1 one run of one training; L2 several runs of one training; L4 several trainings with fresh seeds, beside the baseline,
    interleaved on one node.
    """

    level: Literal["L1", "L2", "L4"]
    n: int = Field(ge=1, description="replicates: runs for L1 and L2, training seeds for L4")
    mean: float = Field(description="acceptance length over the replicates")
    std: float | None = Field(description="standard deviation over the replicates; None for a single one")
    node: str = Field(description="host that served")
    baseline: str | None = Field(description="what it is compared with, by name; None for a number by itself")
    sol_percent: float | None = Field(description="share of the speed of light, only where decoding is bound by a ceiling that is named")
    sol_ceiling: str | None = Field(description="key of config/sol-ceilings.yaml")

    @model_validator(mode="after")
    def _ceiling_is_named(self) -> "Grounding":
        if (self.sol_percent is None) != (self.sol_ceiling is None):
            raise ValueError("sol_percent and sol_ceiling go together")
        if (self.std is None) != (self.n == 1):
            raise ValueError(f"std = {self.std} does not go with n = {self.n}")
        return self


class ServingContext(Record):
    """The context of a measurement in the serving engine."""

    identity: Identity
    parallelism: Parallelism
    configuration: ServingConfiguration
    workload: Workload
    regime: Regime
    stack: ServingStack
    grounding: Grounding


class TrainedModel(Record):
    """What the head was trained for."""

    target_fingerprint: str


class TrainingHardware(Record):
    """What an arm trained on."""

    device_type: str
    device_name: str
    host: str
    devices: int
    threads: int


class TrainingConfiguration(Record):
    """How an arm was trained, besides what it stands for."""

    compute_dtype: str = Field(description="of forward and backward pass; weights and moments are fp32")


class HeldOut(Record):
    """The data an arm trained on and was evaluated on."""

    features: str = Field(description="digest of the training data")
    train_samples: int
    heldout_samples: int
    heldout_tokens: int


class TrainingStack(Record):
    """The software that trained."""

    python: str
    speculators: str
    torch: str
    transformers: str


class TrainingContext(Record):
    """The context of a proxy."""

    model: TrainedModel
    hardware: TrainingHardware
    configuration: TrainingConfiguration
    workload: HeldOut
    stack: TrainingStack
