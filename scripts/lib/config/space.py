"""The search space file: hyperparameters, draft head, objective, rungs, standing configuration."""

from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, create_model, model_validator
from pydantic.fields import FieldInfo

from lib.hyperparameters import HYPERPARAMETERS, Point
from lib.methods import Draft, heads
from lib.reading import read_yaml
from lib.section import Positive, Section, checked

if TYPE_CHECKING:
    AnyDraft = Draft
else:
    AnyDraft = Annotated[reduce(or_, heads().values()), Discriminator("method")]
    """The section of the method that `method` names."""


SMALLEST_LOG = 1e-100
"""Smallest bound of a log range. Below it, computed values underflow to 0."""


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
        if self.scale == "log" and self.low < SMALLEST_LOG:
            raise ValueError(f"low = {self.low:g} must be at least {SMALLEST_LOG:g} on a log scale")
        return self


def _kind_of_domain(value: Any) -> str:
    listed = isinstance(value, list | tuple | Values) or (isinstance(value, dict) and "values" in value)
    return "values" if listed else "range"


Domain = Annotated[Annotated[Values, Tag("values")] | Annotated[Range, Tag("range")], Discriminator(_kind_of_domain)]


def _domain_of(field: FieldInfo) -> tuple[Any, Any]:
    """Return type and default of a hyperparameter's key in the space file for `create_model`."""
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


class Objective(Section):
    """What the search is for."""

    metric: Literal["acceptance_length"] = Field("acceptance_length", description="1 + accepted / drafts, from the engine's counters")
    draft_tokens: Positive = Field(3, description="tokens the head proposes per step in serving (k)")


class Rungs(Section):
    """The ladder of training lengths on which arms compete."""

    samples: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)] = Field(
        description="samples consumed at each rung, rising"
    )
    eta: int = Field(3, ge=2, description="one arm in eta survives a rung")

    @model_validator(mode="after")
    def _rising(self) -> "Rungs":
        if any(upper <= lower for lower, upper in zip(self.samples, self.samples[1:], strict=False)):
            raise ValueError(f"samples = {list(self.samples)} must rise from rung to rung")
        return self


class Space(Section):
    """What is searched for one kind of draft head: hyperparameters, objective, proxy, rungs, standing configuration."""

    draft: AnyDraft = Field(description="the draft head")
    parameters: Parameters = Field(description="the hyperparameters that are searched")
    objective: Objective = Field(description="what the search is for")
    proxy: Literal["acc0", "chain"] = Field("acc0", description="held-out accuracy by which arms are dropped")
    rungs: Rungs = Field(description="the ladder of training lengths")
    standing: Point = Field(description="the configuration in use today, measured beside the finalists")

    @property
    def ahead(self) -> int:
        """Number of answer tokens that training and evaluation need after the start of a draft."""
        return max(self.objective.draft_tokens, self.draft.positions, self.draft.overhang)

    @model_validator(mode="after")
    def _head_can_draft(self) -> "Space":
        needed, _ = self.draft.for_tokens(self.objective.draft_tokens)
        if needed:
            key, value = next(iter(needed.items()))
            raise ValueError(
                f"objective.draft_tokens = {self.objective.draft_tokens} is more than the {self.draft.title} head proposes at once; set "
                f"draft.{key} to {value}, or lower objective.draft_tokens"
            )
        return self


def load_space(path: Path) -> Space:
    """Read and check a search space file. Raises UserError, one line per fault."""
    cure = "name a YAML file, such as those of config/spaces/"
    name = str(path) if path.exists() else f"space = {str(path)!r}"
    return checked(Space, read_yaml(path, name, cure), str(path))
