"""Progress of a running search in one line: decisions, arms done, best so far, time and cost left."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lib.experiment import Experiment
from lib.records import layout
from lib.records.layout import VerdictFiles
from lib.records.measurement import read_record
from lib.report.plan import known_pace
from lib.report.survey import Survey, survey
from lib.search.decisions import Decision
from lib.search.work import upper_bound
from lib.verdict.champion import Champion

SAID_AFTER = 0.1
"""Share of the device-seconds that must be done in this run before wall time left is estimated from them."""


class Progress:
    """Progress messages of a running search, from the tree under `root`/results/."""

    def __init__(self, experiment: Experiment, filed: VerdictFiles, root: Path) -> None:
        self._experiment, self._root = experiment, root
        self._search, self._seeds = experiment.search, experiment.config.verdict.seeds
        self._files = asdict(filed)
        self._begun: tuple[float, float] | None = None

    def opening(self) -> str:
        """Return the first line of a run."""
        work = upper_bound(self._search, self._seeds, self._files["engines"])
        return (
            f"Search {self._search.id}, strategy {self._search.strategy}: at most {work.training_jobs:,} trainings of {work.arms:,} arms "
            f"and {work.serving_jobs + work.contest_jobs} measurements in vLLM; the plan is in {layout.PLAN}, make status shows progress"
        )

    def decision(self, folder: str, rung: int) -> str:
        """Return the line on a decision: how many arms train to its rung, or which arms are served."""
        record = read_record(self._root / layout.decision(folder, rung), Decision)
        arms, dropped = record["arms"], len(record.get("dropped", {}))
        if folder == self._search.finalists_folder:
            return f"finalists: {', '.join(arms)}"
        label = folder.removesuffix(f"-{self._search.id}")
        if rung == self._search.bracket_of(folder).first_rung:
            return f"{label}: {len(arms)} arms proposed, to {record['cap_samples']:,} samples"
        return f"{label}: {len(arms)} of {len(arms) + dropped} arms go on, to {record['cap_samples']:,} samples"

    def champion(self) -> str:
        """Return the line on the choice of the champion."""
        champion = read_record(self._root / self._files["champion"], Champion)
        named = f"{champion.arm}, the standing configuration" if champion.arm == champion.standing.arm else champion.arm
        measured = f"acceptance length {champion.acceptance_length:.3f} (DRAFT)"
        return f"champion: {named}, {measured}, now retrained with {self._seeds} fresh seeds for the verdict"

    def standing(self) -> str:
        """Return how the search stands now."""
        found = survey(self._root, self._search, self._files, self._seeds)
        return " · ".join(self._parts(found))

    def _parts(self, found: Survey) -> Iterator[str]:
        left = found.left(self._seeds)
        yield found.tally(self._seeds)
        yield from self._best(found)
        if not left.training_jobs + left.serving_jobs + left.contest_jobs:
            return
        pace = known_pace(self._experiment, self._root)
        now, seconds = time.monotonic(), found.seconds()
        if self._begun is None and seconds:
            self._begun = now, seconds
        if pace is None or self._begun is None:
            yield "time left not known before the first measurement"
            return
        hours = pace.device_hours(left)
        price = self._experiment.config.cost.price_per_device_hour
        money = "" if price is None else f", {hours * price:,.2f} {self._experiment.config.cost.currency}"
        begun, done = self._begun[0], seconds - self._begun[1]
        # Parallel jobs count when they end, so the first ones say little about the wall time of all.
        wall = f"about {duration(hours * 3600 * (now - begun) / done)}, " if done > SAID_AFTER * (hours * 3600 + done) else ""
        yield f"{wall}{hours:.2g} device-hours{money} left at most"

    def _best(self, found: Survey) -> Iterator[str]:
        finalists = {arm: record.acceptance_length for arm, record in found.served.items() if arm != self._search.standing.id}
        lengths = {arm: length for arm, length in finalists.items() if length}
        if lengths:
            arm = max(lengths, key=lengths.__getitem__)
            yield f"best acceptance length so far {lengths[arm]:.3f} (DRAFT), {arm}"
        elif best := found.best():
            arm, rung, value = best
            named = f"{arm}, the standing configuration" if arm == self._search.standing.id else arm
            yield f"best {self._search.space.proxy} so far {value:.4f} (DRAFT), rung {rung} of {self._search.top_rung}, {named}"


def duration(seconds: float) -> str:
    """Return a duration in words, rounded to the minute from two minutes on."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
