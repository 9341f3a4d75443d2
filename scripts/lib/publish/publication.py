"""Publication of an improvement: the champion as the new standing baseline, and the contest's measurements in the perf lake."""

import statistics
from pathlib import Path
from typing import Any

from lib.arm import Arm, reachable
from lib.config import Publish
from lib.errors import UserError
from lib.invocation import again
from lib.publish.baseline import bench_of, context_key, promote
from lib.publish.lake import append
from lib.records.context import ServingContext
from lib.records.measurement import ServingRecord, read_record
from lib.verdict.contest import Measurements, Side
from lib.verdict.verdict import Verdict


def require_acknowledged(verdict: Path, acknowledged: str) -> None:
    """Raise UserError for an acknowledgement of anything but the filed verdict."""
    if not verdict.exists():
        raise UserError(f"ack_publish = {acknowledged!r}, but this configuration has no verdict yet; run without it first")
    found = read_record(verdict, Verdict).id
    if found != acknowledged:
        raise UserError(f"ack_publish = {acknowledged!r} is not the id of this configuration's verdict; read it, and acknowledge {found}")


def publish(verdict: Verdict, measurements: Measurements, arms: list[Arm], options: Publish) -> dict[str, Any]:
    """Record an improvement and return what was done. Any other outcome is not recorded. Repeating it changes nothing.

    Args:
        verdict: the verdict, with a checked acknowledgement.
        measurements: the measurements of the contest.
        arms: the arms of the contest.
        options: where to record.

    Raises:
        UserError: the baseline was edited, or a place cannot be written.
    """
    if verdict.outcome != "improvement":
        return {"verdict": verdict.id, "published": False, "summary": f"Nothing recorded: the outcome is {verdict.outcome}."}
    rows = lake_rows(verdict, measurements, arms)
    folder, key = Path(options.baselines), baseline_key(verdict)
    baseline = str(folder / f"{key}.json")
    changed = promote(folder, key, _entry(verdict), _shared(verdict))
    files = append(options.lake, rows) if options.lake else []
    summary = f"{baseline} now holds the champion of verdict {verdict.id}" if changed else f"{baseline} already has verdict {verdict.id}"
    summary += f"; {len(files)} measurements are in {options.lake}." if options.lake else "; publish.lake is not set."
    return {"verdict": verdict.id, "published": True, "summary": summary, "baseline": baseline, "lake": files}


def would_publish(verdict: Verdict, options: Publish) -> str:
    """Return one sentence with the effect of acknowledging this verdict, and the command for it."""
    if verdict.outcome != "improvement":
        return "Nothing to record: only an improvement becomes the standing baseline."
    lake = f" and add {sum(one.n for one in (verdict.champion, verdict.standing))} measurements to {options.lake}" if options.lake else ""
    standing = f"{options.baselines}/{baseline_key(verdict)}.json"
    return f"Not recorded yet: {again([f'ack_publish={verdict.id}'])} would make it the standing baseline {standing}{lake}."


def baseline_key(verdict: Verdict) -> str:
    """Return the name of the context in which a verdict was measured."""
    context = _measured_in(verdict)
    return context_key(context.identity.model, context.configuration.method, context.identity.hardware, _shared(verdict))


def lake_rows(verdict: Verdict, measurements: Measurements, arms: list[Arm]) -> list[dict[str, Any]]:
    """Return the `ok` measurements of a contest as rows of the lake."""
    by_id = {arm.id: arm for arm in arms}
    return [
        _row(verdict, side, serving, by_id[serving.arm])
        for side, serving in zip(measurements.order, measurements.servings, strict=True)
        if serving.status == "ok"
    ]


def _row(verdict: Verdict, side: Side, serving: ServingRecord, arm: Arm) -> dict[str, Any]:
    assert isinstance(serving.context, ServingContext) and serving.repeats
    runs = [run for repeat in serving.repeats for run in repeat.subsets.values()]
    subsets = serving.context.workload.subsets.values()
    return {
        **serving.model_dump(mode="json"),
        "verdict": verdict.id,
        "outcome": verdict.outcome,
        "role": side,
        "target": serving.context.identity.model,
        "draft_kind": serving.context.configuration.method,
        "hardware": serving.context.identity.hardware,
        "recorded_at": serving.repeats[0].started_at,
        "point": arm.point.model_dump(),
        "layout": arm.record()["layout"],
        "seed": arm.seed,
        "samples": reachable(arm.recipe["rungs"][-1], arm.point.global_batch),
        "mean_output_tokens": sum(run.output_tokens for run in runs)
        / (len(serving.repeats) * sum(subset.num_prompts for subset in subsets)),
        "isl": statistics.fmean(subset.input_tokens_mean for subset in subsets for _ in range(subset.num_prompts)),
        "output_throughput": sum(run.output_tokens for run in runs) / sum(run.duration_s for run in runs),
    }


def _entry(verdict: Verdict) -> dict[str, Any]:
    keys = ("recipe", "asked", "outcome", "effect", "interval", "interval_level", "smallest_effect", "confidence", "champion", "standing")
    values = verdict.model_dump(mode="json")
    entry = {"verdict": verdict.id, "search": verdict.search, "point": values["champion"]["point"], **{key: values[key] for key in keys}}
    return entry | {"over": values["standing"]["point"], "asked": bench_of(values["asked"])}


def _measured_in(verdict: Verdict) -> ServingContext:
    assert verdict.context is not None, "an improvement has been measured"
    return verdict.context


def _shared(verdict: Verdict) -> dict[str, Any]:
    """Return the context without the keys that describe the champion."""
    return _measured_in(verdict).model_dump(mode="json", exclude={"grounding": True, "identity": {"head"}})
