"""An arm is one choice of hyperparameters with its layout on the machine. Its id is a hash of its content."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lib.files import digest
from lib.hyperparameters import HYPERPARAMETERS, IDENTITY, Point

TRAINING_VERSION = 1
"""Part of every arm's identity. Raise it when a code change changes the trained weights."""


class InfeasibleError(ValueError):
    """A point that cannot be trained with these settings. The message gives the reason."""


@dataclass(frozen=True)
class Layout:
    """The layout of a global batch on the machine. Global batch (samples) = ranks x micro-batch (samples) x accumulation."""

    ranks: int
    micro_batch: int
    accumulation: int


def lay_out(global_batch: int, *, ranks: int, micro_batch_limit: int, accumulation: int | None = None) -> Layout:
    """Split a global batch over ranks with the largest micro-batch within the limit, or with the given accumulation.

    Raises:
        InfeasibleError: no micro-batch within the limit gives the global batch.
    """
    per_rank, rest = divmod(global_batch, ranks)
    if rest or not per_rank:
        raise InfeasibleError(f"global batch {global_batch} is not a multiple of {ranks} ranks")
    if accumulation is None:
        micro_batch = next(size for size in range(min(per_rank, micro_batch_limit), 0, -1) if per_rank % size == 0)
        return Layout(ranks, micro_batch, per_rank // micro_batch)
    micro_batch, rest = divmod(per_rank, accumulation)
    if rest or not micro_batch:
        raise InfeasibleError(f"global batch {global_batch} over {ranks} ranks is not a multiple of accumulation {accumulation}")
    if micro_batch > micro_batch_limit:
        raise InfeasibleError(
            f"global batch {global_batch} over {ranks} ranks with accumulation {accumulation} needs a micro-batch of {micro_batch}, "
            f"above the limit of {micro_batch_limit}"
        )
    return Layout(ranks, micro_batch, accumulation)


@dataclass(frozen=True)
class Arm:
    """One trial of the search. `point` has an explicit accumulation. `recipe` is everything else that decides the weights."""

    point: Point
    seed: int
    layout: Layout
    recipe: dict[str, Any]
    training_version: int = TRAINING_VERSION

    @cached_property
    def id(self) -> str:
        """The arm's id, a readable prefix and a digest of the whole content. Nothing parses it."""
        values = (f"{HYPERPARAMETERS[name].short}{_short(value)}" for name, value in self.point.identity.items())
        return "-".join([*values, f"s{self.seed}", digest(self._content(), 8)])

    def record(self) -> dict[str, Any]:
        """Return the arm as plain data for its records."""
        return {"arm": self.id, **self._content()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Arm":
        """Read an arm back from `record()`. Raises ValueError when the id does not match the content."""
        layout = Layout(**record["layout"])
        point = {name: record[name] for name in IDENTITY if name in record} | {"accum": layout.accumulation}
        others = {key: value for key, value in record.items() if key not in (*IDENTITY, "arm", "layout")}
        arm = cls(point=Point.model_validate(point), layout=layout, **others)
        if arm.id != record["arm"]:
            raise ValueError(f"arm {record['arm']} was edited; its content has the id {arm.id}")
        return arm

    def _content(self) -> dict[str, Any]:
        return {
            **self.point.identity,
            "seed": self.seed,
            "layout": asdict(self.layout),
            "recipe": self.recipe,
            "training_version": self.training_version,
        }


def make_arm(point: Point, *, seed: int, ranks: int, micro_batch_limit: int, recipe: dict[str, Any]) -> Arm:
    """Return the arm of a point. Raises InfeasibleError when no layout fits."""
    layout = lay_out(point.global_batch, ranks=ranks, micro_batch_limit=micro_batch_limit, accumulation=point.accum)
    return Arm(point.model_copy(update={"accum": layout.accumulation}), seed, layout, recipe)


def reachable(cap: int, global_batch: int) -> int:
    """Return the samples an arm consumes at a rung, the most whole global batches within the cap."""
    return cap // global_batch * global_batch


def _short(number: float) -> str:
    """Return a short readable form of a number: 3e-4 for 0.0003, 0.05 for 0.05, a count in full."""
    if isinstance(number, int):
        return str(number)
    if number == 0 or 0.01 <= abs(number) < 1000:
        return f"{number:.4g}"
    mantissa, exponent = f"{number:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
