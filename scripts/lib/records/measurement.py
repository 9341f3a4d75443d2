"""Records of measurements. A number is filed with the context it was measured in, or not at all."""

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
    """What every measurement of an arm carries."""

    kind: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]]
    """Names of the fields that a sound measurement fills."""

    arm: str
    status: Status
    reason: str | None = Field(description="why the arm failed; null when it did not")
    rigor: Literal["DRAFT"] = "DRAFT"
    wall_seconds: float = Field(ge=0, description="of the job, from its first work on")
    device_seconds: float = Field(ge=0, description="wall seconds times the devices held")
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
    """`rung<r>.acc`: held-out accuracy of an arm after training to a rung."""

    context: TrainingContext
    configuration: Filled = Field(description="what the arm stands for, as plain data: hyperparameters, layout, recipe")
    rung: Count
    cap_samples: Count
    samples: Count = Field(description="samples consumed, the most whole global batches within the cap")
    steps: Count
    last_lr: float | None = Field(description="learning rate of the last step, after warmup and decay")
    train_loss: float | None
    acc0: Share | None = Field(description="held-out accuracy of the first drafted token")
    accuracies: Annotated[list[Share], Field(min_length=1)] | None = Field(
        description="held-out accuracy per position, given that all before were right; as many positions as the head was trained for"
    )
    counted: list[Count] | None = Field(None, description="drafts behind each accuracy; one of none says nothing")
    head_sha256: str | None
    resumed_from_samples: Count
    kind: ClassVar = "proxy"
    numbers: ClassVar = ("acc0", "accuracies", "head_sha256", "train_loss", "last_lr")

    @property
    def file(self) -> str:
        """Where the record lies."""
        return layout.acc(self.arm, self.rung)

    def as_arm(self) -> Arm:
        """Return the arm. Raises ValueError when the record was edited: its content no longer gives the name it carries."""
        return Arm.from_record(self.configuration)


class Acceptance(Record):
    """What the engine counted, and the acceptance that follows."""

    acceptance_length: float = Field(ge=1, description="mean accepted tokens per draft, plus one: 1 + accepted / drafts")
    per_position_acceptance: list[float] = Field(description="share of drafts accepted at least so far")
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
    """One run of one subset: also its speed. Latencies in milliseconds: to the first token, per token, between tokens, end to end."""

    duration_s: Measured
    input_tokens: Count
    output_tokens: Count
    request_throughput: Measured = Field(description="requests per second")
    output_throughput: Measured = Field(description="output tokens per second")
    total_token_throughput: Measured = Field(description="tokens per second, prompts included")
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
    """One run of the whole workload, its subsets pooled."""

    started_at: str = Field(description="UTC, ISO 8601")
    subsets: dict[str, Run] = Field(min_length=1)


class ServingRecord(Measurement):
    """`serving.json`: acceptance of an arm's head as vLLM counted it, all repeats and subsets pooled."""

    context: ServingContext | TrainingContext = Field(description="of the training, when the arm failed there and was never served")
    asked: Filled = Field(description="the serving settings of the configuration that asked for the measurement")
    acceptance_length: float | None = Field(description="mean accepted tokens per draft, plus one: 1 + accepted / drafts")
    per_position_acceptance: list[float] | None
    drafts: Count | None
    draft_tokens: Count | None
    accepted: Count | None
    subsets: dict[str, Acceptance] | None = Field(description="per subset of the workload, repeats pooled")
    repeats: Annotated[list[Repeat], Field(min_length=1)] | None = Field(description="each run of the workload")
    prompt_acceptance: dict[str, list[Length]] | None = Field(
        description="per subset the acceptance length of every prompt; None where the stream does not show it exactly"
    )
    head_sha256: str | None
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
            raise ValueError("context is not that of a serving engine")
        Acceptance(**{name: getattr(self, name) for name in Acceptance.model_fields})
        sent = {name: subset.num_prompts for name, subset in self.context.workload.subsets.items()}
        known = {name: len(lengths) for name, lengths in (self.prompt_acceptance or {}).items()}
        if (self.subsets or {}).keys() != sent.keys() or known not in ({}, sent):
            raise ValueError(f"subsets or prompt_acceptance are not of the workload's subsets and prompts, {sent}")
        return self

    @property
    def file(self) -> str:
        """Where the record lies."""
        return layout.serving(self.arm)


def write_record(path: Path, record: Record) -> None:
    """File a record, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record. Raises UserError when the file is missing, was cut off or edited, or lacks a field."""
    cure = "delete the file, the next run makes it again"
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
