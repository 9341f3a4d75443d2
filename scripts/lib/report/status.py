"""The state of a search, read from the results tree alone: it may be running, interrupted or finished."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lib.controller import Holder, holder
from lib.errors import UserError
from lib.files import read_whole_json
from lib.report.text import table
from lib.search.filed import Decisions, places
from lib.search.proxy import proxy_value
from lib.search.search import Search
from lib.verdict.champion import Champion
from lib.verdict.contest import Contest, make_contest
from lib.verdict.record import Measurement, ProxyRecord, ServingRecord, read_record
from lib.verdict.verdict import Verdict


@dataclass
class Jobs:
    """How the jobs of one cohort stand, by arm. `broken` ones ended with an error: neither a result nor under way."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def counts(self) -> list[str]:
        """Return the numbers of arms, for a row."""
        columns = (self.done, self.failed, self.running, self.broken, self.waiting)
        return [str(len(column)) for column in columns]


HEADS = ["bracket", "rung", "samples", "arms", "done", "failed", "running", "broken", "waiting"]


def status(root: Path) -> str:
    """Return for a terminal how the search under `root`/results/ stands: the one of the newest run's plan.

    Raises:
        UserError: no run has been started there, or a record is not whole.
    """
    if not (root / "results/plan.json").exists():
        raise UserError("results/plan.json does not exist: no search has been started here; start one with make tune")
    plan = read_whole_json(root / "results/plan.json", "delete it, the next run writes it again")
    try:
        return "\n".join(_lines(root, plan))
    except (KeyError, TypeError, ValidationError):
        raise UserError("results/plan.json is of another version; delete it, the next run writes it again") from None


def _lines(root: Path, plan: dict[str, Any]) -> Iterator[str]:
    search = Search.from_description(plan["search"])
    controller = holder(root / "results")
    taken = Decisions(search, root).taken()
    proxies: dict[tuple[str, int], ProxyRecord] = {}
    servings: dict[str, ServingRecord] = {}
    rows = []
    for place in places(search):
        folder, rung = place
        serving = folder == search.finalists_folder
        label = "finalists" if serving else folder.removesuffix(f"-{search.id}")
        cap = f"{search.space.rungs.samples[rung]:,}"
        if place not in taken:
            size = search.top_k if serving else search.bracket_of(folder).size(rung)
            rows.append([label, "" if serving else str(rung), cap, f"up to {size}", *[""] * 4, "undecided"])
            continue
        arms = taken[place]["arms"]
        jobs = Jobs()
        for arm in arms:
            record = _serving(root, arm) if serving else _proxy(root, arm, rung)
            log = f"measure_serving/{arm}.log" if serving else f"train_rung/{arm}.rung{rung}.log"
            getattr(jobs, _state(record, root / "results/logs" / log, controller)).append(arm)
            if isinstance(record, ServingRecord):
                servings[arm] = record
            elif isinstance(record, ProxyRecord):
                proxies[arm, rung] = record
        rows.append([label, "" if serving else str(rung), cap, str(len(arms)), *jobs.counts()])
    contest = _contest(root, plan, search)
    if contest:
        jobs = Jobs()
        for arm in contest.arms:
            record = _proxy(root, arm, search.top_rung)
            getattr(jobs, _state(record, root / f"results/logs/train_rung/{arm}.rung{search.top_rung}.log", controller)).append(arm)
            if record:
                proxies[arm, search.top_rung] = record
        rows.append(["verdict", str(search.top_rung), f"{search.space.rungs.samples[-1]:,}", str(len(contest.arms)), *jobs.counts()])
    standing = search.standing.id
    if record := _proxy(root, standing, search.top_rung):
        proxies[standing, search.top_rung] = record
    if measured := _serving(root, standing):
        servings[standing] = measured
    verdict = root / plan["files"]["verdict"]
    yield f"Search {search.id}, strategy {search.strategy}: {_stage(controller, finished=verdict.exists())}"
    yield ""
    yield from table(HEADS, rows)
    yield ""
    yield from _best(search, proxies, servings)
    if verdict.exists():
        yield read_record(verdict, Verdict).summary
    yield from _spent(plan, proxies, servings)


def _contest(root: Path, plan: dict[str, Any], search: Search) -> Contest | None:
    path = root / plan["files"]["champion"]
    if not path.exists():
        return None
    return make_contest(read_record(path, Champion).as_arm(), search.standing, plan["fresh_seeds"], search.id)


def _state(record: Measurement | None, log: Path, controller: Holder | None) -> str:
    if record is not None:
        return "done" if record.status == "ok" else "failed"
    if not log.exists():
        return "waiting"
    if "error: " in (text := log.read_text(errors="replace")) or "unexpected failure" in text:
        return "broken"
    return "running" if controller and log.stat().st_mtime >= controller.since else "waiting"


def _stage(controller: Holder | None, *, finished: bool) -> str:
    if finished:
        return "finished"
    return f"running, process {controller.pid}" if controller else "not running; the command that started it goes on from here"


def _best(search: Search, proxies: dict[tuple[str, int], ProxyRecord], servings: dict[str, ServingRecord]) -> Iterator[str]:
    proxy, k = search.space.proxy, search.space.objective.draft_tokens
    value = {place: proxy_value(proxy, record.accuracies, k) for place, record in proxies.items() if record.accuracies}
    if value:
        arm, rung = max(value, key=lambda place: (place[1], value[place]))
        yield f"Best proxy so far (DRAFT): {proxy} {value[arm, rung]:.4f} at rung {rung}, {arm}"
    for arm, record in sorted(servings.items(), key=lambda item: -(item[1].acceptance_length or 0)):
        what = "standing configuration" if arm == search.standing.id else "finalist"
        length = f"{record.acceptance_length:.3f}" if record.acceptance_length else f"{record.status}: {record.reason}"
        yield f"Acceptance length in vLLM (DRAFT): {length}, {what} {arm}"


def _spent(plan: dict[str, Any], proxies: dict[tuple[str, int], ProxyRecord], servings: dict[str, ServingRecord]) -> Iterator[str]:
    bound = plan["upper_bound"]
    samples = sum(record.samples - record.resumed_from_samples for record in proxies.values())
    seconds = sum(record.device_seconds for record in (*proxies.values(), *servings.values()))
    planned = f" of about {bound['device_hours']:.3g}" if bound["device_hours"] is not None else ""
    yield f"Spent: {samples:,} of at most {bound['samples']:,} samples, {seconds / 3600:.3g}{planned} device-hours"


def _proxy(root: Path, arm: str, rung: int) -> ProxyRecord | None:
    path = root / f"results/{arm}/rung{rung}.acc"
    return read_record(path, ProxyRecord) if path.exists() else None


def _serving(root: Path, arm: str) -> ServingRecord | None:
    path = root / f"results/{arm}/serving.json"
    return read_record(path, ServingRecord) if path.exists() else None
