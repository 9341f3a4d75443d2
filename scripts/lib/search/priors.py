"""Prior arms are observations from before the search, from a file written by hand or the ledger of an earlier search.

Samplers that learn use them. A prior arm whose samples match a rung also competes there for promotion. Arms of another context are never
used.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from lib.arm import lay_out, reachable
from lib.config import FIRST_FRESH_SEED, Point, Space, Training
from lib.errors import UserError
from lib.files import differing_keys
from lib.hyperparameters import HYPERPARAMETERS, Hyperparameter
from lib.reading import read_json
from lib.search.proxy import PROXIES, proxy_value
from lib.section import Positive, Section, checked
from lib.space import infeasible

Accuracy = Annotated[float, Field(ge=0, le=1)]
MEASURED_ON = ("stack.", "hardware.device_type", "hardware.device_name")
"""Dotted names of the versions and the device in a proxy's context."""


class PriorArm(Point):
    """One arm of a prior-arms file, with its hyperparameters, samples and result."""

    samples: Positive = Field(description="training samples consumed when it was evaluated")
    status: Literal["ok", "diverged", "oom"] = Field("ok", description="whether the arm trained, diverged or ran out of memory")
    reason: str | None = Field(None, description="why it failed")
    accuracies: Annotated[tuple[Accuracy, ...], Field(min_length=1)] | None = Field(
        None, description="held-out accuracy per drafted position, each where all before were right; empty for a failed arm"
    )
    source: str | None = Field(None, description="where this arm comes from, if not where the file says")

    @model_validator(mode="after")
    def _accuracies_or_failure(self) -> "PriorArm":
        if self.status == "ok" and self.accuracies is None:
            raise ValueError("accuracies is missing; add it, or set status to diverged or oom")
        return self


class PriorFile(Section):
    """A prior-arms file."""

    version: Literal[1] = Field(description="version of this format")
    source: str = Field(min_length=1, description="where the arms come from: a run, a paper, a colleague")
    context: dict[str, Any] = Field(description="the `context` of the plan.json of the search that trained them")
    measured_on: dict[str, Any] = Field(
        {}, description="versions and device, as `stack.torch` or `hardware.device_type`; compared if given"
    )
    arms: Annotated[tuple[PriorArm, ...], Field(min_length=1)] = Field(description="the arms")

    @model_validator(mode="after")
    def _known_places(self) -> "PriorFile":
        for key in self.measured_on:
            if not key.startswith(MEASURED_ON):
                raise ValueError(f"measured_on.{key} is unknown; use parts of {', '.join(MEASURED_ON)}")
        return self


class Prior(Section):
    """An observation this search can use. `rung` is None when its samples match no rung. It then teaches, but does not compete."""

    point: Point
    rung: int | None
    samples: int
    status: Literal["ok", "diverged", "oom"]
    value: float | None
    reason: str | None
    source: str
    measured_on: dict[str, Any]


class Refusal(BaseModel):
    """A prior arm that this search cannot use, and why."""

    arm: str
    source: str
    reason: str


def load_priors(path: Path, space: Space, training: Training, context: dict[str, Any]) -> tuple[tuple[Prior, ...], tuple[Refusal, ...]]:
    """Read prior arms from a JSON file or a ledger.parquet. Return the usable ones, and the refused ones with the reason.

    `context` is the recipe shared by all arms of this search (`Search.recipe`). An arm of another context is refused with the differing
    keys.

    Raises:
        UserError: the file is missing, malformed, lists an arm twice, or has no usable arm.
    """
    if not path.is_file():
        raise UserError(f"seed_from = {str(path)!r}: no such file; name a prior-arms JSON file or a ledger.parquet, or leave it empty")
    if path.resolve().is_relative_to(Path("results").resolve()):
        raise UserError(f"seed_from = {str(path)!r} is overwritten by this run; copy it out of results/ and name the copy")
    files = _from_ledger(path, space) if path.suffix == ".parquet" else [_from_json(path)]
    positions = min(PROXIES[space.proxy].reads(space.objective.draft_tokens), space.draft.positions)
    used: list[Prior] = []
    refused: list[Refusal] = []
    for file in files:
        others = differing_keys(file.context, json.loads(json.dumps(context)))
        for arm in file.arms:
            source = arm.source or file.source
            point = Point.model_validate(arm.model_dump(include=set(Point.model_fields)))
            reason = f"another context: {', '.join(others)}" if others else infeasible(point, space, training)
            if arm.accuracies and len(arm.accuracies) < positions:
                reason = f"{len(arm.accuracies)} accuracies, but proxy = {space.proxy} compares {positions}"
            if reason:
                refused.append(Refusal(arm=_name(arm), source=source, reason=reason))
                continue
            value = proxy_value(space.proxy, arm.accuracies, space.objective.draft_tokens) if arm.accuracies else None
            rung = next((rung for rung, cap in enumerate(space.rungs.samples) if reachable(cap, arm.global_batch) == arm.samples), None)
            used.append(
                Prior(
                    point=point,
                    rung=rung,
                    samples=arm.samples,
                    status=arm.status,
                    value=value if arm.status == "ok" else None,
                    reason=arm.reason or (None if arm.status == "ok" else "no reason given"),
                    source=source,
                    measured_on=file.measured_on,
                )
            )
    if not used:
        why = f"no arm can be used, the first because of {refused[0].reason}" if refused else "holds no arm"
        raise UserError(f"seed_from = {str(path)!r}: {why}; leave seed_from empty")
    _require_distinct(path, used, training)
    return tuple(used), tuple(refused)


def _from_json(path: Path) -> PriorFile:
    return checked(PriorFile, read_json(path, f"seed_from = {str(path)!r}", "see config/README.md for the format"), str(path))


def _from_ledger(path: Path, space: Space) -> list[PriorFile]:
    """Return the arms of a ledger, one prior-arms file per context. For an arm trained with several seeds, the lowest seed is used.

    The trainings of a verdict are excluded, because they must not influence the choice of a champion.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
        table = table.astype(object).where(table.notna(), None)  # one value for all missing ones
        table = table[(table["kind"] == "proxy") & (table["seed"] < FIRST_FRESH_SEED)].sort_values(["seed", "arm", "rung"])
        columns = [name for name in table.columns if name.removeprefix("context.").startswith(MEASURED_ON)]
        return [
            _ledger_file(json.loads(str(recipe)), dict(zip(columns, measured_on, strict=True)), rows.to_dict("records"), path, space)
            for (recipe, *measured_on), rows in table.groupby(["recipe", *columns], dropna=False)
        ]
    except (LookupError, TypeError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"seed_from = {str(path)!r} is not a ledger of this version ({error!r}); run make ledger to write one") from None


def _ledger_file(context: Any, measured_on: dict[str, Any], rows: list[dict[str, Any]], path: Path, space: Space) -> PriorFile:
    """Return rows of one context as a prior-arms file, with the first row of each arm at each number of samples."""
    distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
    for arm in (_ledger_arm(row, path, space) for row in rows):
        distinct.setdefault(tuple(arm[name] for name in (*HYPERPARAMETERS, "samples")), arm)
    values = {
        "version": 1,
        "source": str(path),
        "context": context,
        "measured_on": {name.removeprefix("context."): value for name, value in measured_on.items() if value == value},  # not NaN
        "arms": list(distinct.values()),
    }
    return checked(PriorFile, values, str(path))


def _ledger_arm(row: dict[str, Any], path: Path, space: Space) -> dict[str, Any]:
    sound = row["status"] == "ok"
    return {
        **{name: _ledger_value(row, one, space) for name, one in HYPERPARAMETERS.items()},
        "samples": int(row["samples"]),
        "status": row["status"],
        "reason": None if sound else " ".join(str(row["reason"]).split()),
        "accuracies": list(row["accuracies"]) if sound else None,
        "source": f"{path}: {row['arm']}, rung {row['rung']:.0f}",
    }


def _ledger_value(row: dict[str, Any], one: Hyperparameter, space: Space) -> float | None:
    """Return a hyperparameter of a row. None if it is empty, or if the layout holds it and this search does not set the layout."""
    value, free = row.get(one.column), one.layout and one.name not in space.parameters.searched()
    return None if free or value is None else one.typed(value)


def _require_distinct(path: Path, priors: list[Prior], training: Training) -> None:
    seen = set()
    for prior in priors:
        point = prior.point
        layout = lay_out(point.global_batch, ranks=training.ranks, micro_batch_limit=training.micro_batch_limit, accumulation=point.accum)
        key = (layout, *point.identity.items(), prior.samples)
        if key in seen:
            raise UserError(f"seed_from = {str(path)!r}: {_name(point)} at {prior.samples} samples is listed twice; keep one")
        seen.add(key)


def _name(point: Point) -> str:
    return str(point) if point.accum is None else f"{point}, accumulation {point.accum}"
