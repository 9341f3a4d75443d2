"""Records of measurements. A number is filed with the context it was measured in, or not at all."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import UserError
from lib.files import write_json

Filled = Annotated[dict[str, Any], Field(min_length=1)]
Status = Literal["ok", "diverged", "oom"]
R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A frozen record that refuses unknown and missing fields, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Context(Record):
    """What a number depends on besides the thing measured. Every section is filled."""

    model: Filled = Field(description="target and draft head: names, fingerprints, architecture")
    hardware: Filled = Field(description="device, its name and count, threads")
    configuration: Filled = Field(description="of the trainer or, as the engine itself reports it, of the engine")
    workload: Filled = Field(description="data, its digest, numbers of prompts, lengths in tokens, concurrency, sampling")
    stack: Filled = Field(description="versions")


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
    context: Context

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

    rung: int
    cap_samples: int
    samples: int = Field(description="samples consumed, the most whole global batches within the cap")
    steps: int
    last_lr: float | None = Field(description="learning rate of the last step, after warmup and decay")
    train_loss: float | None
    acc0: float | None = Field(description="held-out accuracy of the first drafted token")
    accuracies: list[float] | None = Field(
        description="held-out accuracy per position, given that all before were right; as many positions as the head was trained for"
    )
    head_sha256: str | None
    resumed_from_samples: int
    kind: ClassVar = "proxy"
    numbers: ClassVar = ("acc0", "accuracies", "head_sha256", "train_loss", "last_lr")

    @property
    def file(self) -> str:
        """Where the record lies."""
        return f"results/{self.arm}/rung{self.rung}.acc"


class ServingRecord(Measurement):
    """`serving.json`: acceptance of an arm's head as vLLM counted it."""

    asked: Filled = Field(description="the serving settings of the configuration that asked for the measurement")
    acceptance_length: float | None = Field(description="mean accepted tokens per draft, plus one: 1 + accepted / drafts")
    per_position_acceptance: list[float] | None
    drafts: int | None
    draft_tokens: int | None
    accepted: int | None
    repeats: list[dict[str, Any]] | None = Field(description="counters, throughput and latencies of each run of the workload")
    head_sha256: str | None
    kind: ClassVar = "serving"
    numbers: ClassVar = ("acceptance_length", "per_position_acceptance", "drafts", "draft_tokens", "accepted", "repeats", "head_sha256")

    @property
    def file(self) -> str:
        """Where the record lies."""
        return f"results/{self.arm}/serving.json"


def write_record(path: Path, record: Record) -> None:
    """File a record, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record. Raises UserError when the file is missing, was cut off or edited, or lacks a field."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such record; run snakemake to make it") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise UserError(f"{path}: {where}: {fault['msg']}; delete the file, the next run makes it again") from None
