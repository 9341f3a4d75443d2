"""The plan of a search and its maximum cost, as data and as the text that a dry run prints."""

import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import TypedDict

from lib.arm import Arm, reachable
from lib.config import Cost
from lib.controller import holder
from lib.errors import UserError
from lib.experiment import Experiment, verdict_files
from lib.files import read_json
from lib.hyperparameters import HYPERPARAMETERS, IDENTITY
from lib.records import layout
from lib.records.measurement import Measurement, ProxyRecord, ServingRecord, read_record
from lib.report.text import table
from lib.report.volume import describe_volume, volume_lines
from lib.search.decisions import Decisions
from lib.search.priors import Prior
from lib.search.search import Search
from lib.search.work import Pace, check_budget, upper_bound
from lib.space import feasible_grid

M = TypeVar("M", bound=Measurement)


class _Evidence(TypedDict):
    proxy: str
    evidence: str


class _Calibrated(TypedDict):
    """The keys read from calibration.json, which `lib.report.tables.write_ledger` writes."""

    recipe: dict[str, Any]
    draft_tokens: int
    proxies: list[_Evidence]
    recommended: str | None


ARMS_READ = 32
"""Largest number of arms whose records are read to estimate a pace."""


def make_plan(experiment: Experiment, root: Path) -> dict[str, Any]:
    """Return the plan as plain data, given the records under `root`/results/. Raises UserError when the plan exceeds the budget."""
    search, config = experiment.search, experiment.config
    seeds, engines = config.verdict.seeds, config.serving.engines
    pace = known_pace(experiment, root)
    decisions = Decisions(search, root)
    begun = bool(decisions.taken())
    # A search that has begun is not refused because its jobs take longer than estimated.
    check_budget(search, seeds, engines, config.budget.model_copy(update={"device_hours": None}) if begun else config.budget, pace)
    work = upper_bound(search, seeds, engines)
    hours = pace.device_hours(work) if pace else None
    price = config.cost.price_per_device_hour
    return {
        "search": search.describe(),
        "trusted": config.target.path if config.target.trust_remote_code else None,
        "id": search.id,
        "context": search.recipe,
        "rungs": list(search.space.rungs.samples),
        "brackets": [
            {"bracket": bracket.label, "arms": {str(rung): bracket.size(rung) for rung in bracket.rungs}} for bracket in search.brackets
        ],
        "arms": list(_arms(search, decisions)),
        "standing": _row(search.standing, "standing", search.top_rung),
        "calibration": known_calibration(search, root),
        "priors": [_prior(search, arm) for arm in search.priors],
        "refused": [refusal.model_dump() for refusal in experiment.refused],
        "upper_bound": {**asdict(work), "device_hours": hours, "cost": None if hours is None or price is None else hours * price},
        "currency": config.cost.currency,
        "pace": asdict(pace) if pace else None,
        "budget": config.budget.model_dump(),
        "fresh_seeds": seeds,
        "preflight": layout.preflight(experiment.preflight),
        "workload": _workload(experiment),
        "volume": describe_volume(experiment, root, work, next(_sound(search, root, ProxyRecord), None)),
        "files": asdict(verdict_files(experiment)),
        "in_full": _in_full(search, seeds),
    }


def read_plan(root: Path) -> dict[str, Any]:
    """Return the plan of the newest run under `root`. Raises UserError when there is none, or none yet."""
    path = root / layout.PLAN
    if not path.exists() and (controller := holder(root / layout.RESULTS)):
        raise UserError(f"process {controller.pid} is starting and has not written {path} yet; try again in a moment")
    if not path.exists():
        raise UserError(f"{path} does not exist: no search has been started here; start one with make tune")
    return read_json(path, "delete it, and the next run writes it again")


def planned_search(plan: dict[str, Any]) -> Search:
    """Return the search of a filed plan. Raises UserError when another version wrote the plan, or it was edited."""
    try:
        return Search.from_description(plan["search"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{layout.PLAN} was written by another version; delete it, and the next run writes it again") from None


def format_plan(plan: dict[str, Any]) -> str:
    """Return the plan for a terminal."""
    return "\n".join(_lines(plan))


def known_pace(experiment: Experiment, root: Path) -> Pace | None:
    """Return the pace measured from the records under `root`/results/, else the pace that the configuration states, else None.

    A measurement for the verdict is scaled by its number of repeats relative to the selection.
    """
    pace = measured_pace(experiment.search, root) or stated_pace(experiment.config.cost)
    ratio = experiment.config.verdict.repeats / experiment.config.serving.repeats
    return replace(pace, per_contest=pace.per_serving * ratio) if pace and ratio > 1 else pace


def stated_pace(cost: Cost) -> Pace | None:
    """Return the pace that the configuration states, None when it states none."""
    if cost.seconds_per_sample is None or cost.seconds_per_serving is None:
        return None
    source = "as cost.seconds_per_sample and cost.seconds_per_serving state"
    return Pace(cost.seconds_per_sample, 0.0, cost.seconds_per_serving, source, per_start=cost.seconds_per_start or 0.0)


def measured_pace(search: Search, root: Path) -> Pace | None:
    """Return the pace of the records under `root`/results/ with the same target, data and head. None when there are too few.

    The seconds of a training job are a constant plus a slope over its samples (least squares). The first head of an engine has the seconds
    of the start.
    """
    trained = [(record.samples - record.resumed_from_samples, record.device_seconds) for record in _sound(search, root, ProxyRecord)]
    served = list(_sound(search, root, ServingRecord))
    starts = [_start_seconds(record) for record in served]
    if len({samples for samples, _ in trained}) < 2 or not served:
        return None
    slope, constant = statistics.linear_regression(*zip(*trained, strict=True))
    if slope <= 0 or constant < 0:
        slope, constant = sum(seconds for _, seconds in trained) / sum(samples for samples, _ in trained), 0.0
    per_serving = statistics.mean(record.device_seconds - seconds for record, seconds in zip(served, starts, strict=True))
    source = f"measured on {len(trained)} rungs and {len(served)} servings under results/"
    return Pace(slope, constant, per_serving, source, per_start=statistics.mean(filter(None, starts)) if any(starts) else 0.0)


def _start_seconds(record: ServingRecord) -> float:
    """Return the device-seconds of the start of the engine that are part of a record's."""
    if record.engine is None or record.engine.exchange:
        return 0.0
    return record.engine.start_seconds * record.device_seconds / record.wall_seconds


def _sound(search: Search, root: Path, kind: type[M]) -> Iterator[M]:
    """Yield the `ok` records of up to about `ARMS_READ` arms that share this search's target, data and head."""
    arms: dict[str, list[Path]] = {}
    for path in layout.find_accs(root):
        arms.setdefault(path.parent.name, []).append(path)
    for arm in list(arms)[:: max(1, len(arms) // ARMS_READ)]:
        for path in arms[arm] if kind is ProxyRecord else [root / layout.serving(arm)]:
            with suppress(UserError, OSError, ValueError, KeyError, TypeError):  # a broken file is reported by the job that needs it
                record = read_record(path, kind)
                trained = record if isinstance(record, ProxyRecord) else read_record(arms[arm][0], ProxyRecord)
                recipe = trained.configuration["recipe"]
                if record.status == "ok" and all(recipe[key] == search.recipe[key] for key in ("target", "features", "draft")):
                    yield record


def known_calibration(search: Search, root: Path) -> dict[str, Any] | None:
    """Return the proxy calibration under `root`/results/. None when there is none or it is about other arms."""
    with suppress(UserError):  # `make ledger` writes it anew
        calibration = read_record(root / layout.CALIBRATION, _Calibrated)
        if calibration["recipe"] == search.recipe and calibration["draft_tokens"] == search.space.objective.draft_tokens:
            return {**calibration}
    return None


def _arms(search: Search, decisions: Decisions) -> Iterator[dict[str, Any]]:
    """Yield every arm that is known so far, proposed in a decision or foreseeable before it."""
    taken = decisions.taken()
    for bracket in search.brackets:
        first = taken.get((search.folder(bracket), bracket.first_rung))
        proposed = list(first["points"]) if first else []
        for arm in proposed:
            yield _row(decisions.entry(arm)[0], bracket.label, bracket.first_rung)
        if not first:
            for point in search.foreseen.get(bracket.label, {}).values():
                yield _row(search.arm(point), bracket.label, bracket.first_rung)


def _row(arm: Arm, bracket: str, first_rung: int) -> dict[str, Any]:
    caps = arm.recipe["rungs"]
    rungs = [
        {"rung": rung, "cap_samples": caps[rung], "samples": samples, "steps": samples // arm.point.global_batch}
        for rung in range(first_rung, len(caps))
        for samples in [reachable(caps[rung], arm.point.global_batch)]
    ]
    return {"arm": arm.id, "bracket": bracket, **arm.point.identity, **asdict(arm.layout), "rungs": rungs}


def _prior(search: Search, prior: Prior) -> dict[str, Any]:
    arm = search.arm(prior.point).id
    contests = [(bracket.label, search.folder(bracket), rung) for bracket in search.brackets for rung in bracket.rungs[1:]]
    contests.append(("finalists", search.finalists_folder, search.top_rung))
    entered = (f"{label}, for rung {rung}" for label, folder, rung in contests if search.contenders(folder, rung).get(arm) == prior)
    competes = next(entered, "no, it teaches only" if search.learns else "no")
    return {"arm": arm, **prior.model_dump(mode="json", exclude={"measured_on"}), "competes": competes}


def _workload(experiment: Experiment) -> dict[str, Any]:
    """Return what is sent. `cut`: conversations whose later turns are not sent."""
    options = experiment.config.serving.workload
    sent = [source.conversations[: options.prompts_per_subset] for source in experiment.sent.values()]
    own = options.prompts_per_subset or experiment.config.features.serving_prompts
    return {
        "subsets": len(experiment.subsets),
        "prompts": None if options.path and not sent else sum(map(len, sent)) or own,
        "cut": sum(one.cut for part in sent for one in part),
        **options.model_dump(include={"stop", "output_tokens"}),
    }


def _in_full(search: Search, seeds: int) -> dict[str, Any]:
    """Return the samples of training every point of the grid in full, or without a grid every arm that is proposed.

    Standing configuration and verdict are added, as in the upper bound.
    """
    grid = feasible_grid(search.space, search.training)
    arms = len(grid) if grid is not None else sum(len(search.foreseen.get(one.label, range(one.sizes[0]))) for one in search.brackets)
    return {"exhaustive": grid is not None, "arms": arms, "samples": (arms + 1 + 2 * seeds) * search.space.rungs.samples[-1]}


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    search, caps, bound = plan["search"], plan["rungs"], plan["upper_bound"]
    space = search["space"]
    head = f"{space['draft']['method'].upper()} head, k = {space['objective']['draft_tokens']}"
    how = f"strategy {search['strategy']}, eta {space['rungs']['eta']}, proxy {space['proxy']} (DRAFT)"
    yield f"Plan of search {plan['id']}: {head}, {how}"
    if plan["trusted"]:
        yield f"Jobs run code from the model directory {plan['trusted']}, because target.trust_remote_code is true"
    yield ""
    heads = [f"rung {rung}: {cap:,}" for rung, cap in enumerate(caps)]
    yield from table(
        ["bracket", *heads],
        [[row["bracket"], *(str(row["arms"].get(str(rung), "")) for rung in range(len(caps)))] for row in plan["brackets"]],
    )
    yield ""
    rows = [*plan["arms"], plan["standing"]]
    beside = {name: HYPERPARAMETERS[name] for name in IDENTITY if name != "global_batch" and any(name in row for row in rows)}
    labels = [one.label for one in beside.values()]
    yield from table(
        ["arm", "bracket", "batch = ranks x micro-batch x accumulation", *labels, "samples", "steps"],
        [
            [
                row["arm"],
                row["bracket"],
                f"{row['global_batch']} = {row['ranks']} x {row['micro_batch']} x {row['accumulation']}",
                *(one.text(row[name]) if name in row else "" for name, one in beside.items()),
                " / ".join(str(rung["samples"]) for rung in row["rungs"]),
                " / ".join(str(rung["steps"]) for rung in row["rungs"]),
            ]
            for row in rows
        ],
    )
    later = bound["arms"] - len(rows)
    if later > 0:
        yield f"and up to {later:,} arms chosen by later decisions"
    yield ""
    yield from _calibration_lines(plan)
    if plan["priors"]:
        yield f"Prior arms ({len(plan['priors'])}):"
        yield from table(
            ["arm", "samples", space["proxy"] + " (DRAFT)", "competes", "source"],
            [
                [
                    row["arm"],
                    str(row["samples"]),
                    row["status"] if row["value"] is None else f"{row['value']:.4f}",
                    row["competes"],
                    row["source"],
                ]
                for row in plan["priors"]
            ],
        )
        if bound["retrained"]:
            yield f"Prior arms have no checkpoint. Promoted ones train from scratch, at most {bound['retrained']:,} samples more."
        yield ""
    for refusal in plan["refused"]:
        yield f"Prior arm refused: {refusal['arm']} ({refusal['source']}): {refusal['reason']}"
    servings = f"{search['top_k']} finalists, 1 standing, {2 * plan['fresh_seeds']} for the verdict"
    yield f"Jobs: at most {bound['training_jobs']:,} trainings; {bound['serving_jobs'] + bound['contest_jobs']} servings ({servings})"
    yield f"Engine starts: {bound['engine_starts']} for all servings. A head that cannot be exchanged in a running engine takes one more"
    seconds = f"about {plan['pace']['per_start'] or plan['pace']['per_serving']:.3g} s" if plan["pace"] else "the time of one start"
    yield f"Preflight: one untrained head is served and answers one prompt before any training, {seconds} ({plan['preflight']})"
    yield _workload_line(plan["workload"])
    yield f"Samples: at most {bound['samples']:,}; {_saving(plan)}"
    contested = 2 * plan["fresh_seeds"] * caps[-1]
    yield f"Verdict: {2 * plan['fresh_seeds']} fresh trainings, {contested:,} samples, {contested / bound['samples']:.0%} of that"
    yield from volume_lines(plan["volume"])
    yield from _cost_lines(plan)
    yield ""
    yield "Snakemake's list of jobs ends at the next decisions, so it has fewer trainings and servings than this plan."


def _calibration_lines(plan: dict[str, Any]) -> Iterator[str]:
    calibration, proxy = plan["calibration"], plan["search"]["space"]["proxy"]
    if calibration is None:
        return
    for one in calibration["proxies"]:
        yield f"Proxy {one['evidence']}"
    if calibration["recommended"] not in (None, proxy):
        yield f"Measurements in vLLM favour proxy = {calibration['recommended']}; set it in the space file instead of {proxy}"
    yield ""


def _workload_line(workload: dict[str, Any]) -> str:
    prompts = "an unknown number of" if workload["prompts"] is None else f"{workload['prompts']:,}"
    most = "at most " if workload["stop"] == "eos" else ""
    cut = f"; only the first turn of {workload['cut']:,} conversation(s) is sent" if workload["cut"] else ""
    return f"Workload: {prompts} prompts in {workload['subsets']} subset(s), {most}{workload['output_tokens']:,} tokens per answer{cut}"


def _saving(plan: dict[str, Any]) -> str:
    full, used = plan["in_full"], plan["upper_bound"]["samples"]
    what = f"with an exhaustive grid of {full['arms']:,} arms" if full["exhaustive"] else f"with its {full['arms']:,} arms trained in full"
    difference = 1 - used / full["samples"]
    return f"{what} it would be {full['samples']:,}" + (f": {difference:.0%} saved" if difference > 0 else ": nothing saved")


def _cost_lines(plan: dict[str, Any]) -> Iterator[str]:
    bound, pace = plan["upper_bound"], plan["pace"]
    if pace is None:
        yield "Device-hours: not known before a run; set cost.seconds_per_sample and cost.seconds_per_serving to get an estimate"
        return
    detail = f"{pace['per_sample']:.3g} s a sample + {pace['per_job']:.3g} s a job, {pace['per_serving']:.3g} s a serving"
    detail += f" + {pace['per_start']:.3g} s an engine start, {pace['source']}" if pace["per_start"] else f", {pace['source']}"
    yield f"Device-hours: about {bound['device_hours']:.3g} for that ({detail})"
    if bound["cost"] is not None:
        yield f"Money: about {bound['cost']:,.2f} {plan['currency']} for that"
