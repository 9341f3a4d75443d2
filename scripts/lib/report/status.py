"""The state of a running, interrupted or finished search, read from the results tree only."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lib.controller import Holder
from lib.errors import UserError
from lib.records import layout
from lib.records.measurement import read_record
from lib.report.plan import planned_search, read_plan
from lib.report.survey import Cohort, Survey, survey
from lib.report.text import table
from lib.verdict.verdict import Verdict

HEADS = ["bracket", "rung", "samples", "arms", "done", "failed", "running", "broken", "waiting"]


def status(root: Path) -> str:
    """Return the state of the newest run's search under `root`/results/ as text for a terminal.

    Raises:
        UserError: no run has been started there, or a record cannot be read.
    """
    return "\n".join(_read(root, _lines))


def headline(root: Path) -> str:
    """Return the same in one line, with the time. Raises as `status` does."""
    return f"{time.strftime('%Y-%m-%d %H:%M')}: {'; '.join(_read(root, _headline))}."


def _read(root: Path, say: Callable[[Path, dict[str, Any], Survey], Iterator[str]]) -> list[str]:
    plan = read_plan(root)
    try:
        found = survey(root, planned_search(plan), plan["files"], plan["fresh_seeds"])
        return list(say(root, plan, found))
    except (KeyError, TypeError, AttributeError, ValidationError):
        raise UserError(f"{layout.PLAN} was written by another version; delete it, and the next run writes it again") from None


def _headline(root: Path, plan: dict[str, Any], found: Survey) -> Iterator[str]:
    verdict = root / plan["files"]["verdict"]
    yield f"search {found.search.id}, strategy {found.search.strategy}, {_stage(found.controller, finished=verdict.exists())}"
    yield found.tally(plan["fresh_seeds"])
    if best := found.best():
        arm, rung, value = best
        yield f"best {found.search.space.proxy} {value:.4f} at rung {rung} of {found.search.top_rung}, {arm}"


def _lines(root: Path, plan: dict[str, Any], found: Survey) -> Iterator[str]:
    verdict = root / plan["files"]["verdict"]
    yield f"Search {found.search.id}, strategy {found.search.strategy}: {_stage(found.controller, finished=verdict.exists())}"
    yield ""
    contest = [found.trainings[-1], found.measuring] if found.measuring else []
    yield from table(HEADS, [_row(cohort) for cohort in (*found.trainings[:-1], *found.servings, *contest)])
    yield ""
    if found.preparing:
        yield f"Being prepared for all arms: {', '.join(found.preparing)}"
    yield from _best(found)
    if verdict.exists():
        yield read_record(verdict, Verdict).summary
    yield from _spent(plan, found)


def _row(cohort: Cohort) -> list[str]:
    start = [f"{cohort.label}, served", "", ""] if cohort.rung is None else [cohort.label, str(cohort.rung), f"{cohort.cap:,}"]
    if cohort.jobs is None:
        return [*start, f"up to {cohort.size}", *[""] * 4, "undecided"]
    return [*start, str(cohort.size), *(str(count) for count in cohort.jobs.counts())]


def _stage(controller: Holder | None, *, finished: bool) -> str:
    if controller:
        return f"running, process {controller.pid}"
    return "finished" if finished else "not running; run the same command again to resume"


def _best(found: Survey) -> Iterator[str]:
    if best := found.best():
        arm, rung, value = best
        yield f"Best proxy so far (DRAFT): {found.search.space.proxy} {value:.4f} at rung {rung}, {arm}"
    for arm, record in sorted(found.served.items(), key=lambda item: -(item[1].acceptance_length or 0)):
        what = "standing configuration" if arm == found.search.standing.id else "finalist"
        length = f"{record.acceptance_length:.3f}" if record.acceptance_length else f"{record.status}: {record.reason}"
        yield f"Acceptance length in vLLM (DRAFT): {length}, {what} {arm}"


def _spent(plan: dict[str, Any], found: Survey) -> Iterator[str]:
    bound = plan["upper_bound"]
    samples = sum(record.samples - record.resumed_from_samples for record in found.proxies.values())
    planned = f" of about {bound['device_hours']:.3g}" if bound["device_hours"] is not None else ""
    yield f"Spent: {samples:,} of at most {bound['samples']:,} samples, {found.seconds() / 3600:.3g}{planned} device-hours"
