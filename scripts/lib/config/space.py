"""The search space file: hyperparameters, draft head, objective, rungs, standing configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, create_model, model_validator
from pydantic.fields import FieldInfo

from lib.hyperparameters import HYPERPARAMETERS, Point
from lib.reading import read_yaml
from lib.section import Positive, Section, checked


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


def _domain_of(field: FieldInfo) -> tuple[Any, Any]:
    """Return type and default of what the space file says of a hyperparameter, as `create_model` takes them."""
    if field.is_required():
        return Domain, Field(description=field.description)
    return Domain | None, Field(None, description=field.description, exclude_if=field.exclude_if)


if TYPE_CHECKING:
    Domains = Section
else:
    Domains = create_model("Domains", __base__=Section, **{name: _domain_of(field) for name, field in Point.model_fields.items()})


class Parameters(Domains):
    """The hyperparameters that are searched."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "Parameters":
        for name, domain in self.searched().items():
            for value in domain.values if isinstance(domain, Values) else (domain.low, domain.high):
                if not HYPERPARAMETERS[name].allows(value):
                    raise ValueError(f"{name} = {value:g} must be {HYPERPARAMETERS[name].allowed}")
        return self

    def searched(self) -> dict[str, Values | Range]:
        """Return the domain of every hyperparameter that is searched, by name."""
        return {name: domain for name in HYPERPARAMETERS if (domain := getattr(self, name)) is not None}


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


def load_space(path: Path) -> Space:
    """Read and check a search space file. Raises UserError, one line per fault."""
    cure = "name a YAML file, such as those of config/spaces/"
    name = str(path) if path.exists() else f"space = {str(path)!r}"
    return checked(Space, read_yaml(path, name, cure), str(path))
