"""The verdict compares champion and standing configuration on measurements that neither was chosen by."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lib.config import Point, VerdictOptions
from lib.errors import UserError
from lib.files import digest
from lib.records.comparison import require_comparable
from lib.records.context import Grounding, Record, ServingContext
from lib.records.measurement import Filled, ProxyRecord, ServingRecord
from lib.serving.bench import replicated
from lib.verdict.contest import Contest, Measurements
from lib.verdict.gate import Ruling, judge, prompt_interval, seeds_to_tell

UNJUDGED = ("insufficient data", "not comparable")
"""Outcomes that settle nothing."""


class Contestant(Record):
    """One configuration over its fresh training seeds."""

    point: Point
    arms: list[str] = Field(description="one per fresh seed")
    failed: dict[str, str] = Field(description="arms that could not be measured, and why")
    acceptance_lengths: list[list[float]] = Field(description="per measured seed, one per repeat")
    mean: float | None = Field(description="acceptance length, over the means of the seeds")
    std: float | None = Field(description="between seeds")
    n: int = Field(description="measured seeds")
    per_position_acceptance: list[float] | None = Field(description="mean over seeds")
    heads: list[str] = Field(description="SHA-256 of the measured heads")


class SubsetEffect(Record):
    """Champion against standing configuration on one subset of the workload. For information: the verdict uses all subsets together."""

    champion: float
    standing: float
    effect: float
    interval: tuple[float, float] | None


class PromptEffect(Record):
    """Interval of the effect over prompts, from a paired bootstrap. For information: the verdict uses the seeds."""

    n: int = Field(description="prompts")
    interval: tuple[float, float]


class Verdict(Ruling):
    """`verdict.json`, the only record that is not a DRAFT, unless the contest could not be judged."""

    summary: str
    rigor: Literal["VERDICT", "DRAFT"] = Field(description="DRAFT where nothing could be judged")
    id: str
    search: str
    champion: Contestant
    standing: Contestant
    subsets: dict[str, SubsetEffect]
    seeds_to_tell: int | None = Field(
        description="fresh seeds a side at which this effect with this spread would pass; None when it passed, or more seeds do not help"
    )
    prompts: PromptEffect | None = Field(description="None where the engine's stream does not show acceptance per prompt exactly")
    recipe: Filled = Field(description="what all arms share")
    asked: Filled = Field(description="the serving settings of the configuration")
    context: ServingContext | None = Field(description="of the champion's measurements; None when there is none")


def give_verdict(
    contest: Contest, measurements: Measurements, proxies: Sequence[ProxyRecord], options: VerdictOptions, *, search: str
) -> Verdict:
    """Return the verdict on a contest. The id is a hash of the content, so an acknowledgement holds for exactly what was read.

    Args:
        contest: the arms of both sides.
        measurements: the measurements of these arms in vLLM, interleaved on one node.
        proxies: the training records of the same arms.
        options: confidence and smallest effect of interest.
        search: id of the search.

    Raises:
        UserError: a measured head is not the head that its training record names.
    """
    trained = {proxy.arm: proxy.head_sha256 for proxy in proxies}
    for serving in measurements.servings:
        if serving.head_sha256 != trained[serving.arm]:
            raise UserError(
                f"results/{serving.arm}/ was retrained after the contest measured its head; delete the folder and the results/search/*/"
                "contest-*.json that names it, and the next run trains and measures it again"
            )
    sides = {side: measurements.of(side) for side in ("champion", "standing")}
    champion = _contestant(contest.champion[0].point, sides["champion"])
    standing = _contestant(contest.standing[0].point, sides["standing"])
    judged = judge(
        champion.acceptance_lengths, standing.acceptance_lengths, confidence=options.confidence, smallest_effect=options.smallest_effect
    )
    ruling = judged.model_dump(exclude={"champion", "standing"})
    if champion.failed and judged.outcome != "insufficient data":
        said = f"{len(champion.failed)} of {len(champion.arms)} trainings of the champion failed, and a mean of the others would flatter it"
        ruling |= {"outcome": "insufficient data", "reason": said}
    sound = {side: [serving for serving in servings if serving.status == "ok"] for side, servings in sides.items()}
    subsets, prompts = {}, None
    try:
        require_comparable(measurements.servings)
        require_comparable(proxies)
    except UserError as error:
        numbers = ("effect", "relative_effect", "interval", "p_improvement", "p_regression", "hedges_g")
        ruling |= {"outcome": "not comparable", "reason": str(error), **dict.fromkeys(numbers)}
    else:
        subsets = _subsets(sound["champion"], sound["standing"], options)
        prompts = _prompts(sound["champion"], sound["standing"], judged.interval_level)
    return Verdict(
        **ruling,
        rigor="DRAFT" if ruling["outcome"] in UNJUDGED else "VERDICT",
        summary=_summary(Ruling(**ruling), champion, standing),
        id="v" + digest([measurements.model_dump(mode="json"), options.model_dump(), search]),
        search=search,
        champion=champion,
        standing=standing,
        seeds_to_tell=seeds_to_tell(judged) if ruling["effect"] is not None else None,
        subsets=subsets,
        prompts=prompts,
        recipe=contest.champion[0].recipe,
        asked=measurements.servings[0].asked,
        context=_context(sound["champion"], champion, measurements.standing),
    )


def _contestant(point: Point, servings: list[ServingRecord]) -> Contestant:
    sound = [serving for serving in servings if serving.status == "ok"]
    lengths = [[repeat.acceptance_length for repeat in serving.repeats or ()] for serving in sound]
    over_seeds = replicated([sum(one) / len(one) for one in lengths]) if lengths else {"n": 0, "mean": None, "std": None}
    positions = [serving.per_position_acceptance for serving in sound if serving.per_position_acceptance]
    return Contestant(
        point=point,
        arms=[serving.arm for serving in servings],
        failed={serving.arm: f"{serving.status}: {serving.reason}" for serving in servings if serving.status != "ok"},
        acceptance_lengths=lengths,
        per_position_acceptance=[sum(rates) / len(rates) for rates in zip(*positions, strict=True)] if positions else None,
        heads=[serving.head_sha256 for serving in sound if serving.head_sha256],
        **over_seeds,
    )


def _subsets(champion: list[ServingRecord], standing: list[ServingRecord], options: VerdictOptions) -> dict[str, SubsetEffect]:
    if not champion or not standing:
        return {}
    effects = {}
    for name in champion[0].subsets or {}:
        ours, theirs = ([[one.subsets[name].acceptance_length] for one in side if one.subsets] for side in (champion, standing))
        judged = judge(ours, theirs, confidence=options.confidence, smallest_effect=options.smallest_effect)
        assert judged.champion.mean is not None and judged.standing.mean is not None and judged.effect is not None
        effects[name] = SubsetEffect(
            champion=judged.champion.mean, standing=judged.standing.mean, effect=judged.effect, interval=judged.interval
        )
    return effects


def _prompts(champion: list[ServingRecord], standing: list[ServingRecord], level: float) -> PromptEffect | None:
    """Return the interval over prompts. None when a side has no measurement, one lacks acceptance per prompt, or there is one prompt."""
    ours, theirs = ([_prompt_lengths(one) for one in side if one.prompt_acceptance] for side in (champion, standing))
    if not ours or not theirs or len(ours) < len(champion) or len(theirs) < len(standing):
        return None
    drafted = [place for place, lengths in enumerate(zip(*ours, *theirs, strict=True)) if None not in lengths]
    if len(drafted) < 2:
        return None
    both = ([[length for place in drafted if (length := lengths[place])] for lengths in side] for side in (ours, theirs))
    return PromptEffect(n=len(drafted), interval=prompt_interval(*both, level=level))


def _prompt_lengths(serving: ServingRecord) -> list[float | None]:
    return [length for lengths in (serving.prompt_acceptance or {}).values() for length in lengths]


def _context(servings: list[ServingRecord], champion: Contestant, standing: str) -> ServingContext | None:
    """Return the context of the champion's first measurement, grounded on all its seeds."""
    if not servings or champion.mean is None:
        return None
    context = servings[0].context
    assert isinstance(context, ServingContext)
    grounding = Grounding.model_validate(
        context.grounding.model_dump()
        | {"level": "L4" if champion.n > 1 else "L1", "baseline": standing, "n": champion.n, "mean": champion.mean, "std": champion.std}
        | {"sol_percent": None, "sol_ceiling": None}
    )
    return context.model_copy(update={"grounding": grounding})


def _summary(ruling: Ruling, champion: Contestant, standing: Contestant) -> str:
    if ruling.outcome in UNJUDGED:
        failed = "; ".join(f"{arm}: {why}" for arm, why in (champion.failed | standing.failed).items())
        return f"DRAFT: {ruling.outcome}. {ruling.reason}" + (f" ({failed})" if failed else "")
    assert ruling.interval is not None and ruling.effect is not None
    low, high = ruling.interval
    small = ruling.outcome == "no improvement (within noise)" and not low <= 0 <= high
    bound = f", smaller than verdict.smallest_effect = {ruling.smallest_effect:g}" if small else ""
    return (
        f"VERDICT: {ruling.outcome}. {str(champion.point).capitalize()} gives acceptance length {_measured(champion)}, the standing "
        f"configuration ({standing.point}) {_measured(standing)}: {ruling.effect:+.3f}{bound}, "
        f"{ruling.interval_level:.0%} interval {low:+.3f} to {high:+.3f}; measured in vLLM on fresh trainings, in turn on one node."
    )


def _measured(side: Contestant) -> str:
    failed = f", {len(side.failed)} more failed" if side.failed else ""
    return f"{side.mean:.3f} ± {side.std:.3f} (n = {side.n} seeds{failed})"
