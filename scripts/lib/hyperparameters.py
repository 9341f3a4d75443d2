"""The hyperparameters. Each is declared once as a field of `Point`, and all code that lists them iterates over the fields."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import Field

from lib.section import Section


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(Interval):
    """The declaration of a hyperparameter beside its type. `gt`, `ge`, `lt` and `le` bound its values.

    Attributes:
        label: the name shown to users.
        short: the name in an arm id.
        scale: the scale of steps beyond the edge of a list and of slopes. `log` multiplies, `linear` adds.
        unit: the unit of a value.
        whole: whether values are whole numbers.
        layout: whether the layout of an arm holds the value. It is then not part of the arm's name and description.
        column: the column in the ledger and the lake, if it differs from the name.
        common: common values, which a lever proposes.
        root_of: the hyperparameter whose square root the best value grows with. TPE models the value relative to that root.
        name, description: name and description of the field.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    label: str
    short: str = ""
    scale: Literal["log", "linear"]
    unit: str = ""
    whole: bool = False
    layout: bool = False
    column: str = ""
    common: tuple[float, ...] = ()
    root_of: str = ""
    name: str = ""
    description: str = ""

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        bounds = {"above": self.gt, "at least": self.ge, "below": self.lt, "at most": self.le}
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        return f"a whole number of {said}" if self.whole else f"a {self.unit}, {said}" if self.unit else said

    def allows(self, value: float) -> bool:
        """Return whether `value` has the right kind and is within the bounds."""
        above = (self.gt is None or value > self.gt) and (self.ge is None or value >= self.ge)
        below = (self.lt is None or value < self.lt) and (self.le is None or value <= self.le)
        return above and below and (not self.whole or value == int(value))

    def typed(self, value: float) -> float:
        """Return `value` with this hyperparameter's type. A count is rounded to a whole number."""
        return round(value) if self.whole else value

    def text(self, value: float) -> str:
        """Return a value as text for users."""
        return str(value) if self.whole else f"{value:g}"


def absent(value: Any) -> bool:
    """Return whether an optional hyperparameter is empty. It is then omitted from dumps, so arms and searches keep their ids."""
    return value is None


class Point(Section):
    """One choice of the searched hyperparameters."""

    global_batch: Annotated[int, Hyperparameter(short="gb", label="global batch", unit="samples", whole=True, ge=1, scale="log")] = Field(
        description="samples per optimizer step, over all ranks"
    )
    lr: Annotated[float, Hyperparameter(short="lr", label="lr", gt=0, scale="log", root_of="global_batch")] = Field(
        description="peak learning rate"
    )
    warmup: Annotated[
        float,
        Hyperparameter(short="wu", label="warmup", unit="share of the horizon", ge=0, lt=1, scale="linear", common=(0.0, 0.02, 0.05, 0.1)),
    ] = Field(description="share of the horizon over which the learning rate rises")
    accum: Annotated[
        int | None,
        Hyperparameter(label="accumulation", unit="micro-batches", whole=True, ge=1, scale="log", layout=True, column="accumulation"),
    ] = Field(None, description="micro-batches per optimizer step; empty: the fewest that fit")
    weight_decay: Annotated[
        float | None, Hyperparameter(short="wd", label="weight decay", ge=0, scale="linear", common=(0.0, 0.01, 0.1))
    ] = Field(None, description="AdamW decoupled weight decay; empty: training.weight_decay", exclude_if=absent)

    @property
    def identity(self) -> dict[str, Any]:
        """The values that identify an arm, by name. Values held by the layout are excluded."""
        return {name: value for name in IDENTITY if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """Return the identity as text for users."""
        return ", ".join(f"{HYPERPARAMETERS[name].label} {HYPERPARAMETERS[name].text(value)}" for name, value in self.identity.items())


def _declared() -> Iterator[Hyperparameter]:
    for name, field in Point.model_fields.items():
        (one,) = (part for part in field.metadata if isinstance(part, Hyperparameter))
        yield replace(one, name=name, column=one.column or name, description=field.description or "")


HYPERPARAMETERS = {one.name: one for one in _declared()}
"""All hyperparameters by name."""

IDENTITY = tuple(name for name, one in HYPERPARAMETERS.items() if not one.layout)
"""The names of hyperparameters that the layout of an arm does not hold."""
