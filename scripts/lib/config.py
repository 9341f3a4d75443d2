"""The configuration: one field per key with its type, range, default, unit and meaning.

`config/config.yaml` and `config/schema.json` are held to this model by a test. Nothing here imports torch or Snakemake.
"""

import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from lib.errors import UserError

STRATEGIES = sorted(file.stem for file in (Path(__file__).parent / "search/strategies").glob("[a-z]*.py"))
"""Names of the search strategies, each a file."""

ENGINES = sorted(file.parent.name for file in (Path(__file__).parent / "serving").glob("*/engine.py"))
"""Names of the serving engines, each a folder."""

FIRST_FRESH_SEED = 1000
"""Seeds from here on are the verdict's: no search proposes, promotes or learns from an arm that carries one."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_none(cls, values: Any) -> Any:
        """Read an empty value of `--config 'section={key: }'`, which Snakemake hands on as text, as it is read in a file."""
        return {key: None if value in ("", "null") else value for key, value in values.items()} if isinstance(values, dict) else values


class TinyTarget(Section):
    """The target model that is trained on the spot when `target.path` is empty."""

    hidden: Positive = Field(128, description="hidden size")
    intermediate: Positive = Field(384, description="width of the feed-forward layer")
    layers: int = Field(4, ge=2, description="number of decoder layers")
    heads: Positive = Field(2, description="attention heads; hidden / heads must be 32 or 64 for vLLM on CPU")
    kv_heads: Positive = Field(1, description="key-value heads")
    vocab_size: int = Field(1024, ge=512, description="size of the byte-level BPE vocabulary")
    context: int = Field(256, ge=64, description="longest sequence, in tokens")
    steps: Positive = Field(600, description="optimizer steps")
    batch: Positive = Field(2, description="sequences per optimizer step")
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    seed: int = Field(0, ge=0, description="seed of initial weights and data order")

    @model_validator(mode="after")
    def _shapes_fit(self) -> "TinyTarget":
        if self.hidden % self.heads or self.hidden // self.heads not in (32, 64):
            raise ValueError(f"hidden / heads must be 32 or 64, not {self.hidden} / {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} and {self.kv_heads}")
        return self


class Target(Section):
    """The model that serves, and that verifies what the draft head proposes."""

    path: str | None = Field(None, min_length=1, description="directory of a Hugging Face model; empty: train the tiny target below")
    tiny: TinyTarget = Field(TinyTarget(), description="the tiny target, used when `path` is empty")


class Features(Section):
    """Offline training data: the target's own responses to prompts, and its hidden states along them."""

    prompts: str | None = Field(None, description='JSONL file with {"prompt": ...} per line; empty: the Python standard library')
    dataset: str | None = Field(
        None,
        min_length=1,
        description="directory of a speculators data set, whose rows are used in place of prompts and responses; empty: none",
    )
    train_prompts: Positive = Field(512, description="prompts whose responses the head is trained on; one prompt is one sample")
    heldout_prompts: Positive = Field(64, description="prompts on which the proxy is computed")
    serving_prompts: Positive = Field(64, description="prompts of the serving workload")
    prompt_tokens: Positive = Field(32, description="tokens per prompt (ISL)")
    response_tokens: Positive = Field(96, description="tokens per response in the training data")
    seed: int = Field(0, ge=0, description="seed of the split into train, held-out and serving prompts")

    @model_validator(mode="after")
    def _one_source(self) -> "Features":
        if self.prompts and self.dataset:
            raise ValueError("prompts and dataset are both given; name one of them")
        return self


class Training(Section):
    """The training recipe that every arm shares; what is searched stands in the space file."""

    ranks: Positive = Field(1, description="data-parallel ranks (processes, one per GPU)")
    micro_batch_limit: Positive = Field(4, description="largest micro-batch, in samples per rank, that fits in memory")
    beta1: Fraction = Field(0.9, description="AdamW beta1")
    beta2: Fraction = Field(0.95, description="AdamW beta2")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay")
    grad_clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    final_lr_fraction: float = Field(0.1, ge=0, le=1, description="learning rate at the horizon, as a fraction of the peak (cosine decay)")


class Streaming(Section):
    """How the state of a rung in progress is kept, for a job that is killed to be taken up again. It changes no result."""

    every_s: float = Field(300, gt=0, description="seconds between states: what a killed job loses at most, besides the time to write one")
    url: str | None = Field(
        None, min_length=1, description="folder or URL (s3://bucket/folder) that states and logs are copied to; empty: beside the results"
    )


class WorkloadOptions(Section):
    """The prompts that are served while acceptance is measured, and how answers are sampled."""

    path: str | None = Field(
        None, min_length=1, description="JSONL file of prompts, or a directory of them, each a subset; empty: those set aside in features"
    )
    prompts_per_subset: Positive | None = Field(None, description="prompts taken from every subset; empty: all")
    output_tokens: Positive = Field(64, description="tokens generated per prompt (OSL)")
    concurrency: Positive = Field(16, description="requests in flight")
    temperature: float = Field(0.0, ge=0, description="sampling temperature; 0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="sample from the most likely tokens of this total probability; empty: all")
    top_k: Positive | None = Field(None, description="sample from so many most likely tokens; empty: all")


class Serving(Section):
    """The engine and the workload in which acceptance is measured."""

    engine: str = Field("vllm", description="serving engine", json_schema_extra={"enum": list(ENGINES)})
    top_k: Positive = Field(2, description="finalists that are measured in vLLM, besides the standing configuration")
    repeats: Positive = Field(2, description="times the workload is run against one started server")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="compute type of the engine")
    max_num_seqs: Positive = Field(16, description="sequences the engine batches")
    max_model_len: Positive = Field(256, description="longest sequence of the engine, in tokens")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the device's memory the engine may take")
    kv_cache_gib: float | None = Field(0.25, gt=0, description="KV cache in GiB; empty: what gpu_memory_utilization leaves")
    tensor_parallel: Positive = Field(1, description="tensor-parallel size of the engine")
    enforce_eager: bool = Field(True, description="run without graph capture and compilation")
    workload: WorkloadOptions = Field(WorkloadOptions(), description="what is sent")
    sol_ceiling: str | None = Field(
        None, min_length=1, description="key of config/sol-ceilings.yaml that bounds decoding at one request in flight; empty: no %SoL"
    )
    start_timeout_s: Positive = Field(300, description="seconds the server may take to become ready")


class VerdictOptions(Section):
    """How the champion is held against the standing configuration, on trainings and measurements of their own."""

    seeds: int = Field(3, le=100, description="fresh training seeds of the champion and of the standing configuration, at least 2")
    repeats: Positive = Field(2, description="times the workload is run against each of their servers")
    confidence: float = Field(0.95, ge=0.51, le=0.999, description="1 - the rate at which chance alone may pass for an improvement")
    smallest_effect: float = Field(0.02, ge=0, description="smallest gain in acceptance length that is worth calling an improvement")

    @model_validator(mode="after")
    def _replicated(self) -> "VerdictOptions":
        if self.seeds < 2:
            raise ValueError(f"seeds = {self.seeds} tells nothing of the scatter between trainings; set at least 2")
        return self


class Publish(Section):
    """Where an improvement is recorded, once `ack_publish` names it."""

    baselines: str = Field("baselines", min_length=1, description="folder of standing baselines")
    lake: str | None = Field(None, min_length=1, description="perf lake: path or fsspec URL of a Parquet data set; empty: none")


class SearchOptions(Section):
    """How a strategy is sized. Every strategy reads some of these keys and refuses the others."""

    bracket: int | None = Field(None, ge=0, description="hyperband: run only the bracket that drops arms so often; empty: all")
    arms: Positive | None = Field(
        None, description="random, tpe: arms to train in full; empty: as many as the samples of hyperband's brackets pay for"
    )
    round: Positive = Field(4, description="tpe: arms proposed at a time; they train side by side")


class Budget(Section):
    """What a search may use at most, standing configuration and verdict included. A search that may need more is refused."""

    samples: Positive | None = Field(None, description="training samples; empty: no bound")
    device_hours: float | None = Field(None, gt=0, description="device-hours of training and serving; empty: no bound")
    arms: Positive | None = Field(None, description="arms that are trained; empty: no bound")


class Cost(Section):
    """What work costs, for the plan. Measured seconds in the ledger replace the seconds given here."""

    seconds_per_sample: float | None = Field(None, gt=0, description="device-seconds per training sample; empty: not known before a run")
    seconds_per_serving: float | None = Field(None, gt=0, description="device-seconds of one serving measurement; empty: not known")
    price_per_device_hour: float | None = Field(None, ge=0, description="price of a device-hour; empty: the plan names no price")
    currency: str = Field("USD", description="currency of the price")


class Config(Section):
    """Everything a run is told, except the search space, which is a file of its own."""

    space: str = Field("config/spaces/eagle3-draft.yaml", description="the search space file")
    strategy: str = Field("hyperband", description="how arms are proposed and dropped", json_schema_extra={"enum": list(STRATEGIES)})
    search: SearchOptions = Field(SearchOptions(), description="the size of the search")
    seed_from: str | None = Field(None, min_length=1, description="arms measured before: prior-arms JSON, or a ledger.parquet; empty: none")
    budget: Budget = Field(Budget(), description="what the search may use at most")
    cost: Cost = Field(Cost(), description="what work costs, for the plan")
    seed: int = Field(0, ge=0, lt=FIRST_FRESH_SEED, description="seed of the search and of every arm's training; the verdict has its own")
    baseline: str | None = Field(
        None, min_length=1, description="file of `publish.baselines` that replaces `standing` of the space; empty: the space's own"
    )
    target: Target = Field(Target(), description="the target model")
    manifest: str | None = Field(
        None,
        min_length=1,
        description="what scripts/describe.py prints where target.path and features.dataset are mounted, as a file; empty: look there",
    )
    features: Features = Field(Features(), description="prompts and offline training data")
    training: Training = Field(Training(), description="the recipe every arm shares")
    streaming: Streaming = Field(Streaming(), description="the state of a rung in progress")
    serving: Serving = Field(Serving(), description="the serving measurement")
    verdict: VerdictOptions = Field(VerdictOptions(), description="champion against standing configuration, measured afresh")
    publish: Publish = Field(Publish(), description="where an improvement is recorded")
    ack_publish: str | None = Field(None, min_length=1, description="id of the verdict that may be recorded; empty: none")

    @model_validator(mode="after")
    def _dataset_is_complete(self) -> "Config":
        if self.features.dataset and not self.target.path:
            raise ValueError("features.dataset holds the hidden states of one target; name it with target.path")
        if self.features.dataset and not self.serving.workload.path:
            raise ValueError("features.dataset sets no prompts aside to be served; name some with serving.workload.path")
        return self

    @model_validator(mode="after")
    def _manifest_describes_something(self) -> "Config":
        if self.manifest and not self.target.path:
            raise ValueError("manifest describes a model of yours; name it with target.path, or leave manifest empty")
        return self

    @model_validator(mode="after")
    def _sequences_fit(self) -> "Config":
        workload = self.serving.workload
        if workload.output_tokens >= self.serving.max_model_len:
            raise ValueError(
                f"serving.workload.output_tokens = {workload.output_tokens} leaves no room for a prompt in "
                f"serving.max_model_len = {self.serving.max_model_len}; raise the latter"
            )
        served = self.features.prompt_tokens + workload.output_tokens
        if workload.path is None and served > self.serving.max_model_len:
            raise ValueError(
                f"serving.max_model_len = {self.serving.max_model_len} is shorter than features.prompt_tokens + "
                f"serving.workload.output_tokens = {served}; raise it"
            )
        return self


class Values(Section):
    """A hyperparameter that takes one of a few values."""

    values: Annotated[tuple[float, ...], Field(min_length=1)] = Field(description="the values, each once")

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        return {"values": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _distinct(self) -> "Values":
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"values {list(self.values)} repeat; list each once")
        return self


class Range(Section):
    """A hyperparameter that takes any value between two bounds."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    scale: Literal["log", "linear"] = Field(description="how values are spread between the bounds")
    steps: int | None = Field(None, ge=2, le=1000, description="take only this many evenly spread values, bounds included")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low = {self.low:g} must be above 0 on a log scale")
        return self


def _kind_of_domain(value: Any) -> str:
    listed = isinstance(value, list | tuple | Values) or (isinstance(value, dict) and "values" in value)
    return "values" if listed else "range"


Domain = Annotated[Annotated[Values, Tag("values")] | Annotated[Range, Tag("range")], Discriminator(_kind_of_domain)]


class Parameters(Section):
    """The hyperparameters that are searched."""

    global_batch: Domain = Field(description="samples per optimizer step, over all ranks")
    lr: Domain = Field(description="peak learning rate")
    warmup: Domain = Field(description="share of the horizon over which the learning rate rises")
    accum: Domain | None = Field(None, description="micro-batches per optimizer step; empty: the fewest that fit")

    @model_validator(mode="after")
    def _in_bounds(self) -> "Parameters":
        for name, domain in self.searched().items():
            bounds = domain.values if isinstance(domain, Values) else (domain.low, domain.high)
            for value in bounds:
                if name in ("global_batch", "accum") and (value < 1 or value != int(value)):
                    raise ValueError(f"{name} = {value:g} must be a whole number of at least 1")
                if name == "lr" and not 0 < value < math.inf:
                    raise ValueError(f"lr = {value:g} must be above 0")
                if name == "warmup" and not 0 <= value < 1:
                    raise ValueError(f"warmup = {value:g} must be a share of the horizon, at least 0 and below 1")
        return self

    def searched(self) -> dict[str, Values | Range]:
        """Return the domain of every hyperparameter that is searched, by name."""
        return {name: domain for name in type(self).model_fields if (domain := getattr(self, name)) is not None}


class Point(Section):
    """One choice of the searched hyperparameters."""

    global_batch: Positive = Field(description="samples per optimizer step, over all ranks")
    lr: float = Field(gt=0, description="peak learning rate")
    warmup: Fraction = Field(description="share of the horizon over which the learning rate rises")
    accum: Positive | None = Field(None, description="micro-batches per optimizer step; empty: the fewest that fit")


class Draft(Section):
    """The architecture of the draft head."""

    method: Literal["eagle3", "dflash"] = Field(description="kind of draft head")
    layers: Positive = Field(1, description="decoder layers of the head")
    aux_layers: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        description="target layers whose output the head reads; k is the output of k layers, 0 the embedding"
    )
    draft_vocab_size: Positive | None = Field(None, description="tokens the head can propose; empty: the target's whole vocabulary")
    ttt_steps: Positive = Field(3, description="EAGLE3: positions unrolled in training")
    block_size: int = Field(4, ge=2, description="DFlash: tokens per block, the first of which is the anchor")
    anchors: Positive = Field(32, description="DFlash: anchors drawn per sample in training")

    @property
    def positions(self) -> int:
        """How many tokens ahead the head is trained and evaluated."""
        return self.ttt_steps if self.method == "eagle3" else self.block_size - 1


class Objective(Section):
    """What the search is for."""

    metric: Literal["acceptance_length"] = Field("acceptance_length", description="1 + accepted / drafts, from the engine's counters")
    draft_tokens: Positive = Field(3, description="tokens the head proposes per step in serving (k)")


class Rungs(Section):
    """The ladder of training lengths on which arms compete."""

    samples: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(description="samples consumed at each rung, rising")
    eta: int = Field(3, ge=2, description="one arm in eta survives a rung")

    @model_validator(mode="after")
    def _rising(self) -> "Rungs":
        if any(upper <= lower for lower, upper in zip(self.samples, self.samples[1:], strict=False)):
            raise ValueError(f"samples = {list(self.samples)} must rise from rung to rung")
        return self


class Space(Section):
    """What is searched for one kind of draft head: hyperparameters, objective, proxy, rungs, standing configuration."""

    draft: Draft = Field(description="the draft head")
    parameters: Parameters = Field(description="the hyperparameters that are searched")
    objective: Objective = Field(description="what the search is for")
    proxy: Literal["acc0", "chain"] = Field("acc0", description="held-out accuracy by which arms are dropped")
    rungs: Rungs = Field(description="the ladder of training lengths")
    standing: Point = Field(description="the configuration in use today, measured beside the finalists")

    @model_validator(mode="after")
    def _head_can_draft(self) -> "Space":
        longest = self.draft.block_size - 1 if self.draft.method == "dflash" else self.objective.draft_tokens
        if self.objective.draft_tokens > longest:
            raise ValueError(
                f"objective.draft_tokens = {self.objective.draft_tokens} is more than a DFlash block of draft.block_size = "
                f"{self.draft.block_size} proposes; lower it to {longest}"
            )
        return self


def parse_config(values: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration as Snakemake merged it. Raises UserError, one line per fault."""
    return checked(Config, values, source)


def load_space(path: Path) -> Space:
    """Read and check a search space file. Raises UserError, one line per fault."""
    if not path.is_file():
        raise UserError(f"space = {str(path)!r}: no such file; name a YAML file, such as those of config/spaces/")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert the file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}: not YAML{f' (line {mark.line + 1})' if mark else ''}; correct it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; see config/spaces/eagle3-draft.yaml for an example")
    return checked(Space, values, str(path))


def checked(model: type[M], values: dict[str, Any], source: str) -> M:
    """Return `values` as a `model`. Raises UserError, one line per fault, each opening with `source`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in _faults(model, error))) from None


def _faults(model: type[BaseModel], error: ValidationError) -> list[str]:
    faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]  # bad items do not count as items
    return list(dict.fromkeys(_fault(model, dict(fault)) for fault in faults))


def _fault(model: type[BaseModel], fault: dict[str, Any]) -> str:
    location = [part for part in fault["loc"] if part not in ("values", "range") or isinstance(part, int)]
    key = ".".join(str(part) for part in location)
    if not location and fault["type"] == "model_type":
        return "holds no keys; write {key: value}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}")
    if fault["type"] == "missing":
        return f"{key} is missing; add it"
    if fault["type"] == "model_type":
        example = "[1.0e-3, 3.0e-3] or {low: 1.0e-4, high: 1.0e-2, scale: log}" if location[0] == "parameters" else "{key: value}"
        return f"{key} = {fault['input']!r} is a single value; write {example}"
    if fault["type"] in ("tuple_type", "list_type"):
        return f"{key} = {fault['input']!r} is not a list; write [value, value]"
    if fault["type"] == "too_short":
        return f"{key} is empty; name at least one value"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {fault['input']!r}: {message[0].lower() + message[1:]}; correct it"


def _known_keys(model: type[BaseModel], location: list[Any]) -> list[str]:
    for part in location:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in reversed(get_args(annotation)):
        yield from _models_in(part)


def schema(model: type[BaseModel]) -> str:
    """Return the JSON schema of a model as the file that `config/` publishes for editors."""
    return json.dumps(model.model_json_schema(), indent=2) + "\n"
