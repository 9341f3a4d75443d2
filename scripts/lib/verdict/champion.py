"""The champion of a search is the finalist with the greatest acceptance length in vLLM. DRAFT, because that number selected it."""

from typing import Any, Literal

from pydantic import model_validator

from lib.arm import Arm
from lib.errors import UserError
from lib.records import layout
from lib.records.comparison import require_comparable
from lib.records.context import Record, ServingContext
from lib.records.measurement import Filled, Length, ServingRecord, Status


class Standing(Record):
    """The standing configuration beside the champion."""

    arm: str
    status: Status
    acceptance_length: Length | None


class Measured(Record):
    """An arm that was measured."""

    arm: str
    acceptance_length: Length


class Champion(Record):
    """`champion.json`."""

    summary: str
    arm: str
    configuration: Filled
    acceptance_length: Length
    rigor: Literal["DRAFT"] = "DRAFT"
    standing: Standing
    measured: list[Measured]
    failed: dict[str, str]
    head: str
    search: str
    asked: Filled
    context: ServingContext

    @model_validator(mode="after")
    def _is_its_arm(self) -> "Champion":
        try:
            named = self.as_arm().id
        except (KeyError, TypeError) as error:
            raise ValueError(f"configuration does not describe an arm ({error!r})") from None
        if named != self.arm:
            raise ValueError(f"configuration describes {named}, not {self.arm}")
        return self

    def as_arm(self) -> Arm:
        """Return the champion as an arm."""
        return Arm.from_record(self.configuration)


def choose_champion(servings: list[ServingRecord], finalists: list[Arm], standing: str, search: str, asked: dict[str, Any]) -> Champion:
    """Return the champion, the finalist with the greatest acceptance length. Ties go to the smaller arm id.

    The standing configuration is measured too. It is a candidate only if the search proposed it.

    Args:
        servings: the measurements of the finalists and of the standing configuration.
        finalists: the finalists of the search.
        standing: the arm id of the standing configuration.
        search: the id of the search.
        asked: the serving settings of the present configuration.

    Raises:
        UserError: no finalist could be measured, one was measured with other settings, or two in different contexts.
    """
    for serving in servings:
        other = [f"{key} = {serving.asked.get(key)!r}" for key in asked if serving.asked.get(key) != asked[key]]
        if other:
            raise UserError(
                f"{serving.file} was measured with {', '.join(other)}, but the configuration asks for other values; "
                "delete it, and the next run measures it again"
            )
    measured = sorted((serving for serving in servings if serving.status == "ok"), key=lambda serving: (-_length(serving), serving.arm))
    arms = {arm.id: arm for arm in finalists}
    candidates = [serving for serving in measured if serving.arm in arms]
    if not candidates:
        reasons = "; ".join(f"{serving.arm}: {serving.reason}" for serving in servings if serving.arm in arms)
        raise UserError(f"no arm could be measured ({reasons}); widen the space towards smaller learning rates")
    require_comparable(measured)
    best = candidates[0]
    baseline = next(serving for serving in servings if serving.arm == standing)
    assert isinstance(best.context, ServingContext)
    return Champion(
        summary=_summary(best, baseline),
        arm=best.arm,
        configuration=arms[best.arm].record(),
        acceptance_length=_length(best),
        standing=Standing(arm=standing, status=baseline.status, acceptance_length=baseline.acceptance_length),
        measured=[Measured(arm=serving.arm, acceptance_length=_length(serving)) for serving in measured],
        failed={serving.arm: f"{serving.status}: {serving.reason}" for serving in servings if serving.status != "ok"},
        head=layout.head(best.arm),
        search=search,
        asked=asked,
        context=best.context,
    )


def _summary(best: ServingRecord, standing: ServingRecord) -> str:
    measured = f"{best.arm}, measured in vLLM: acceptance length {_length(best):.3f}"
    caution = "DRAFT: best of its own selection, one training seed, not a verdict."
    if best.arm == standing.arm:
        return f"The search found nothing ahead of the standing configuration, {measured}. {caution}"
    if standing.status != "ok":
        return f"{measured}; the standing configuration failed ({standing.status}: {standing.reason}). {caution}"
    return f"{measured}, {_length(best) - _length(standing):+.3f} against the standing configuration. {caution}"


def _length(serving: ServingRecord) -> float:
    assert serving.acceptance_length is not None
    return serving.acceptance_length
