"""Progress of a search: its cohorts, their measurements and the work left, read from the results tree only."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lib.controller import Holder, holder
from lib.records import layout
from lib.records.measurement import Measurement, ProxyRecord, ServingRecord, read_record
from lib.script import fault
from lib.search.decisions import Decisions, places
from lib.search.proxy import proxy_value
from lib.search.search import Search
from lib.search.work import Work
from lib.verdict.champion import Champion
from lib.verdict.contest import Measurements, make_contest

M = TypeVar("M", bound=Measurement)


@dataclass
class Jobs:
    """The jobs of one cohort by state, as arm ids. `broken` jobs ended with an error and without a result."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def counts(self) -> list[int]:
        """Return the numbers of arms, in the order of the fields."""
        return [len(column) for column in (self.done, self.failed, self.running, self.broken, self.waiting)]


@dataclass
class Cohort:
    """Arms that train to one rung, or that are served. `jobs` is None until the arms are known; until then `size` is an upper bound."""

    label: str
    rung: int | None
    cap: int
    size: int
    jobs: Jobs | None
    samples_left: int = 0

    @property
    def ended(self) -> int:
        """The number of jobs with a result."""
        return len(self.jobs.done) + len(self.jobs.failed) if self.jobs else 0


@dataclass
class Survey:
    """The results tree of one search.

    `contest` holds the ids of the verdict's arms once they are known. `measuring` is their measurement in vLLM, one job, None until then.
    `preparing` lists files that are being made for all arms.
    """

    search: Search
    controller: Holder | None
    trainings: list[Cohort]
    servings: list[Cohort]
    contest: list[str]
    measuring: Cohort | None
    measured: bool
    engines: int
    proxies: dict[tuple[str, int], ProxyRecord]
    served: dict[str, ServingRecord]
    preparing: list[str]

    def best(self) -> tuple[str, int, float] | None:
        """Return arm, rung and proxy of the best arm at the highest rung reached. None before the first record."""
        proxy, k = self.search.space.proxy, self.search.space.objective.draft_tokens
        value = {place: proxy_value(proxy, record.accuracies, k) for place, record in self.proxies.items() if record.accuracies}
        if not value:
            return None
        arm, rung = max(value, key=lambda place: (place[1], value[place]))
        return arm, rung, value[arm, rung]

    def seconds(self) -> float:
        """Return the device-seconds of the selection's records and of the verdict's trainings, without the verdict's measurements."""
        return sum(record.device_seconds for record in (*self.proxies.values(), *self.served.values()))

    def tally(self, seeds: int) -> str:
        """Return how many of at most how many trainings and servings have ended, with `seeds` fresh seeds in the verdict."""
        left = self.left(seeds)
        trained, served = (sum(cohort.ended for cohort in cohorts) for cohorts in (self.trainings, self.servings))
        return f"{trained} of {trained + left.training_jobs} trainings, {served} of {served + left.serving_jobs} heads served"

    def left(self, seeds: int) -> Work:
        """Return an upper bound of the work left, with `seeds` fresh seeds in the verdict."""
        serving = sum(cohort.size - cohort.ended for cohort in self.servings)
        return Work(
            arms=0,
            training_jobs=sum(cohort.size - cohort.ended for cohort in self.trainings),
            serving_jobs=serving,
            contest_jobs=0 if self.measured else len(self.contest) or 2 * seeds,
            engine_starts=min(self.engines, serving) + (0 if self.measured else 1),
            samples=sum(cohort.samples_left for cohort in self.trainings),
            retrained=0,
        )


class _Tree:
    """The records of one search under a root."""

    def __init__(self, root: Path, search: Search) -> None:
        self.root, self.search = root, search
        self.controller = holder(root / layout.RESULTS)
        self.under_way = set(_under_way(root, self.controller.since)) if self.controller else set()
        self.proxies: dict[tuple[str, int], ProxyRecord] = {}
        self.served: dict[str, ServingRecord] = {}

    def training(self, label: str, rung: int, arms: dict[str, int]) -> Cohort:
        """Return the cohort of `arms`, which train to `rung`, each from the given rung (-1 is from scratch)."""
        jobs, caps = Jobs(), self.search.space.rungs.samples
        left = 0
        for arm, below in arms.items():
            record = _read(self.root / layout.acc(arm, rung), ProxyRecord)
            if record:
                self.proxies[arm, rung] = record
            else:
                left += caps[rung] - (caps[below] if below >= 0 else 0)
            getattr(jobs, self._state(record, layout.acc(arm, rung), f"train_rung/{arm}.rung{rung}.log")).append(arm)
        return Cohort(label, rung, caps[rung], len(arms), jobs, left)

    def serving(self, label: str, arms: dict[str, int], folder: str) -> Cohort:
        """Return the cohort of `arms`, each measured by the engine of the given number, whose job makes a `folder`."""
        jobs = Jobs()
        for arm, engine in arms.items():
            record = _read(self.root / layout.serving(arm), ServingRecord) or _read(self.root / layout.unfiled(arm), ServingRecord)
            if record:
                self.served[arm] = record
            getattr(jobs, self._state(record, folder.format(engine=engine), f"measure_serving.{engine}.log")).append(arm)
        return Cohort(label, None, self.search.space.rungs.samples[-1], len(arms), jobs)

    def measuring(self, arms: list[str], measurements: str) -> Cohort:
        """Return the cohort of the verdict's arms, which one job measures in vLLM into the file `measurements`."""
        jobs, path = Jobs(), self.root / measurements
        servings = {serving.arm: serving for serving in read_record(path, Measurements).servings} if path.exists() else {}
        for arm in arms:
            getattr(jobs, self._state(servings.get(arm), measurements, "measure_contest.log")).append(arm)
        return Cohort("verdict", None, self.search.space.rungs.samples[-1], len(arms), jobs)

    def _state(self, record: Measurement | None, output: str, log: str) -> str:
        if record is not None:
            return "done" if record.status == "ok" else "failed"
        if output in self.under_way:
            return "running"
        return "waiting" if fault(self.root / layout.LOGS / log) is None else "broken"


def _under_way(root: Path, since: float) -> Iterator[str]:
    """Yield the outputs of jobs that began after `since` and have not ended, as paths from the root.

    Snakemake marks each output of a submitted job with a file named by the base64 of the path, and removes it when the job ends.
    """
    for note in (root / ".snakemake/incomplete").glob("*"):
        with suppress(FileNotFoundError, ValueError):  # the job has just ended, or the name is too long for one file
            if note.stat().st_mtime >= since:
                yield re.sub("^.*(?=(?:results|resources)/)", "", urlsafe_b64decode(note.name).decode())


def survey(root: Path, search: Search, files: dict[str, Any], seeds: int) -> Survey:
    """Read the tree under `root`/results/.

    Args:
        root: the folder that holds results/.
        search: the search to survey.
        files: paths of its files after the finalists, and the number of its engines, keyed as in `VerdictFiles`.
        seeds: number of fresh seeds in the verdict.
    """
    tree, decisions = _Tree(root, search), Decisions(search, root)
    taken, top, caps = decisions.taken(), search.top_rung, search.space.rungs.samples
    trainings, servings = [], []
    finalists = taken[search.finalists_folder, top]["arms"] if (search.finalists_folder, top) in taken else None
    shares = search.shares(finalists or [], files["engines"])
    engines = {arm: engine for engine, share in enumerate(shares) for arm in share}
    for folder, rung in places(search):
        arms = taken[folder, rung]["arms"] if (folder, rung) in taken else None
        if folder == search.finalists_folder:
            servings.append(
                tree.serving("finalists", {arm: engines[arm] for arm in arms}, files["servings"])
                if arms is not None
                else Cohort("finalists", None, caps[-1], search.top_k, None)
            )
            continue
        label = folder.removesuffix(f"-{search.id}")
        if arms is not None:
            trainings.append(tree.training(label, rung, {arm: rung - 1 if rung > decisions.entry(arm)[1] else -1 for arm in arms}))
            continue
        bracket = search.bracket_of(folder)
        step = caps[rung] - (caps[rung - 1] if rung > bracket.first_rung else 0)
        trainings.append(Cohort(label, rung, caps[rung], bracket.size(rung), None, bracket.size(rung) * step))
    trainings.append(tree.training("standing", top, {search.standing.id: -1}))
    servings.append(tree.serving("standing", {search.standing.id: engines[search.standing.id]}, files["servings"]))
    champion, contest, measuring = root / files["champion"], [], None
    if champion.exists():
        contest = list(make_contest(read_record(champion, Champion).as_arm(), search.standing, seeds, search.id).arms)
        trainings.append(tree.training("verdict", top, dict.fromkeys(contest, -1)))
        measuring = tree.measuring(contest, files["measurements"])
    else:
        trainings.append(Cohort("verdict", top, caps[-1], 2 * seeds, None, 2 * seeds * caps[-1]))
    measured = (root / files["measurements"]).exists()
    preparing = sorted(path for path in tree.under_way if path.startswith("resources/"))
    return Survey(
        search, tree.controller, trainings, servings, contest, measuring, measured, files["engines"], tree.proxies, tree.served, preparing
    )


def _read(path: Path, kind: type[M]) -> M | None:
    return read_record(path, kind) if path.exists() else None
