"""Records of measurements. A number is always filed with the context it was measured in."""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from lib.arm import Arm
from lib.errors import UserError
from lib.files import write_json
from lib.reading import LARGEST, shown
from lib.records import layout
from lib.records.context import Record, ServingContext, TrainingContext

Filled = Annotated[dict[str, Any], Field(min_length=1)]
Status = Literal["ok", "diverged", "oom"]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Measured = Annotated[float, Field(ge=0)]
Length = Annotated[float, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
R = TypeVar("R")


class Measurement(Record):
    """The fields of every measurement of an arm."""

    kind: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]]
    """Names of the fields that an `ok` measurement must have."""

    arm: str
    status: Status
    reason: str | None = Field(description="why the arm failed; null if it did not")
    rigor: Literal["DRAFT"] = "DRAFT"
    wall_seconds: float = Field(ge=0, description="seconds of the job, without imports")
    device_seconds: float = Field(ge=0, description="wall seconds times devices held")
    context: TrainingContext | ServingContext

    @property
    def file(self) -> str:
        """Where the record lies."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _numbers_or_reason(self) -> "Measurement":
        missing = [name for name in self.numbers if getattr(self, name) is None]
        if self.status == "ok" and missing:
            raise ValueError(f"status is ok but {', '.join(missing)} is missing")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status is {self.status} but no reason is given")
        return self


class ProxyRecord(Measurement):
    """`rung<r>.acc`, the held-out accuracy of an arm after training to a rung."""

    context: TrainingContext
    configuration: Filled = Field(description="the arm as plain data: hyperparameters, layout, recipe")
    rung: Count
    cap_samples: Count
    samples: Count = Field(description="samples consumed, the most whole global batches within the cap")
    steps: Count
    last_lr: float | None = Field(description="learning rate of the last step, after warmup and decay")
    train_loss: float | None
    acc0: Share | None = Field(description="held-out accuracy of the first drafted token")
    accuracies: Annotated[list[Share], Field(min_length=1)] | None = Field(
        description="held-out accuracy per trained position, given that all earlier positions were right"
    )
    counted: list[Count] | None = Field(None, description="drafts behind each accuracy; ignore an accuracy with zero drafts")
    head_sha256: str | None
    resumed_from_samples: Count
    kind: ClassVar = "proxy"
    numbers: ClassVar = ("acc0", "accuracies", "head_sha256", "train_loss", "last_lr")

    @property
    def file(self) -> str:
        """Where the record lies."""
        return layout.acc(self.arm, self.rung)

    def as_arm(self) -> Arm:
        """Return the arm. Raises ValueError when the record was edited, so that the id does not match the content."""
        return Arm.from_record(self.configuration)


class Acceptance(Record):
    """The engine's counts and the acceptance computed from them."""

    acceptance_length: float = Field(ge=1, description="mean accepted tokens per draft, plus one: 1 + accepted / drafts")
    per_position_acceptance: list[float] = Field(description="share of drafts accepted up to each position")
    drafts: Count
    draft_tokens: Count
    accepted: Count

    @model_validator(mode="after")
    def _follows_from_the_counts(self) -> "Acceptance":
        if self.drafts == 0 or not math.isclose(self.acceptance_length, 1 + self.accepted / self.drafts, abs_tol=1e-9):
            raise ValueError(
                f"acceptance_length = {self.acceptance_length} is not 1 + accepted / drafts = 1 + {self.accepted} / {self.drafts}"
            )
        return self


class Run(Acceptance):
    """One run of one subset with its speed. Latencies are in milliseconds: to first token, per token, between tokens, end to end."""

    duration_s: Measured
    input_tokens: Count
    output_tokens: Count
    mean_output_tokens: Measured = Field(description="tokens per answer")
    p50_output_tokens: Measured
    p90_output_tokens: Measured
    p99_output_tokens: Measured
    request_throughput: Measured = Field(description="requests per second")
    output_throughput: Measured = Field(description="output tokens per second")
    total_token_throughput: Measured = Field(description="tokens per second, including prompts")
    mean_ttft_ms: Measured
    median_ttft_ms: Measured
    p99_ttft_ms: Measured
    mean_tpot_ms: Measured
    median_tpot_ms: Measured
    p99_tpot_ms: Measured
    mean_itl_ms: Measured
    median_itl_ms: Measured
    p99_itl_ms: Measured
    mean_e2el_ms: Measured
    median_e2el_ms: Measured
    p99_e2el_ms: Measured


class Repeat(Acceptance):
    """One run of the whole workload with pooled subsets."""

    started_at: str = Field(description="UTC, ISO 8601")
    subsets: dict[str, Run] = Field(min_length=1)


Check = Literal["none", "pending", "equal", "differs", "undecided"]
"""What the check of an engine's exchanges found. none: no head was exchanged. pending: not checked yet. equal: the first head had the same
counters again. differs: it had not, so this head was measured from a start of its own. undecided: the engine's counters do not repeat."""


class EngineStart(Record):
    """The start of the engine that measured a head."""

    started_at: str = Field(description="UTC, ISO 8601")
    start_seconds: float = Field(ge=0, description="seconds until the engine was ready, part of the wall seconds of exchange 0")
    exchange: Count = Field(description="exchanges of the head before this one; 0: the engine was started with it")
    check: Check


class ServingRecord(Measurement):
    """`serving.json`, the acceptance of an arm's head from vLLM's counters, pooled over repeats and subsets."""

    context: ServingContext | TrainingContext = Field(description="context of the training if the arm failed there and was not served")
    asked: Filled = Field(description="serving settings of the configuration")
    acceptance_length: float | None = Field(description="mean accepted tokens per draft, plus one: 1 + accepted / drafts")
    per_position_acceptance: list[float] | None
    drafts: Count | None
    draft_tokens: Count | None
    accepted: Count | None
    subsets: dict[str, Acceptance] | None = Field(description="per subset of the workload, repeats pooled")
    repeats: Annotated[list[Repeat], Field(min_length=1)] | None = Field(description="each run of the workload")
    prompt_acceptance: dict[str, list[Length | None]] | None = Field(
        description="acceptance length of every prompt by subset, None without drafts; None where the stream does not show it exactly"
    )
    head_sha256: str | None
    engine: EngineStart | None = Field(None, description="the start of the engine; None if the arm was not served")
    kind: ClassVar = "serving"
    numbers: ClassVar = (
        *("acceptance_length", "per_position_acceptance", "drafts", "draft_tokens", "accepted"),
        *("subsets", "repeats", "head_sha256"),
    )

    @model_validator(mode="after")
    def _was_served(self) -> "ServingRecord":
        if self.status != "ok":
            return self
        if not isinstance(self.context, ServingContext):
            raise ValueError("context does not describe a serving engine")
        Acceptance(**{name: getattr(self, name) for name in Acceptance.model_fields})
        sent = {name: subset.num_prompts for name, subset in self.context.workload.subsets.items()}
        known = {name: len(lengths) for name, lengths in (self.prompt_acceptance or {}).items()}
        if (self.subsets or {}).keys() != sent.keys() or known not in ({}, sent):
            raise ValueError(f"subsets or prompt_acceptance do not match the workload's subsets and prompts, {sent}")
        return self

    @property
    def file(self) -> str:
        """Where the record lies."""
        return layout.serving(self.arm)


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record. Raises UserError when the file is missing, truncated, edited, or lacks a field."""
    cure = "delete the file, and the next run makes it again"
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such record; run snakemake to make it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {cure}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        single = isinstance(fault["input"], str | float | None) and fault["type"] != "json_invalid"
        value = f" = {shown(fault['input'])}" if single else ""
        raise UserError(f"{path}: {where}{value}: {fault['msg']}; {cure}") from None
