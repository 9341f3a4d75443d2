"""The context of a measurement holds everything a number depends on. Every field is required, so None is always explicit."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """A frozen record that refuses unknown and missing fields, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Head(Record):
    """The draft head that was served."""

    path: str = Field(description="path given to the engine")
    sha256: str = Field(description="hash of the weights, as the trainer computes it")


class Identity(Record):
    """The measured model, head and device."""

    model: str = Field(description="name of the target")
    hf_path: str = Field(description="Hugging Face path or directory of the target, as given to the engine")
    target_fingerprint: str
    head: Head
    hardware: str = Field(description="token of the device for the ceilings file, such as `GB300` or `cpu`")
    device_type: str
    device_name: str
    dtype: str
    quantization: str | None
    kv_cache_dtype: str


class Parallelism(Record):
    """The parallel layout of the target."""

    tensor: int
    data: int
    pipeline: int
    decode_context: int
    expert: bool
    strategy: str = Field(description="short form, such as TP4 or TP4+EP; `single` for one device")
    workers: int


class ServingConfiguration(Record):
    """The engine's configuration as it reports it."""

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
    attention_backend: str | None = Field(description="None for the engine's choice")
    extra_args: tuple[str, ...] = Field(description="further words of the server's command")


class Subset(Record):
    """A part of the workload with its own counters."""

    prompts_sha256: str
    num_prompts: int
    input_tokens_mean: float = Field(description="ISL: mean prompt length, in tokens of the target")


class Workload(Record):
    """The requests that were sent."""

    dataset: str = Field(description="source of the prompts")
    subsets: dict[str, Subset] = Field(min_length=1)
    output_tokens: int = Field(description="OSL: most tokens generated per prompt, with stop = fixed the exact number")
    stop: Literal["eos", "fixed"] = Field(
        description="eos: an answer ends with the target's end-of-sequence tokens; fixed: they are ignored"
    )
    concurrency: int = Field(description="requests in flight")
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int


class Regime(Record):
    """The state of the engine during the measurement."""

    start: Literal["warm"] = Field(description="at least one request was answered before counting")
    tier: Literal["latency", "throughput"] = Field(description="latency: one request in flight; throughput: several")


class ServingStack(Record):
    """The software that served."""

    image: str | None = Field(description="container image, None outside a container")
    vllm: str
    vllm_commit: str | None = Field(description="None if the build does not report it")
    bench_backend: str = Field(description="the load driver")
    engine: str
    python: str
    torch: str
    repairs: list[str] = Field(description="faults of this build that were repaired at load")


class Grounding(Record):
    """The evidence behind a number.

    Levels: L1 one run of one training; L2 several runs of one training; L4 several trainings with fresh seeds, interleaved with the
    baseline on one node.
    """

    level: Literal["L1", "L2", "L4"]
    n: int = Field(ge=1, description="replicates: runs for L1 and L2, training seeds for L4")
    mean: float = Field(description="acceptance length over the replicates")
    std: float | None = Field(description="standard deviation over the replicates; None for one replicate")
    node: str = Field(description="host that served")
    baseline: str | None = Field(description="name of the baseline; None without a comparison")
    sol_percent: float | None = Field(description="share of the speed of light, only where decoding is bound by a named ceiling")
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
    """The model the head was trained for."""

    target_fingerprint: str


class TrainingHardware(Record):
    """The devices an arm trained on."""

    device_type: str
    device_name: str
    host: str
    devices: int
    threads: int


class TrainingConfiguration(Record):
    """Training settings that are not part of the arm."""

    compute_dtype: str = Field(description="dtype of forward and backward pass; weights and moments are fp32")


class DraftVocabulary(Record):
    """A draft vocabulary smaller than the target's."""

    size: int
    filler: int = Field(description="tokens that no answer in the training data holds")
    coverage: float = Field(description="share of the tokens of held-out answers that the head can draft, an upper bound of its accuracy")


class HeldOut(Record):
    """The data an arm trained on and was evaluated on."""

    features: str = Field(description="digest of the training data")
    train_samples: int
    heldout_samples: int
    heldout_tokens: int
    vocabulary: DraftVocabulary | None = Field(description="None for the target's whole vocabulary")


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
