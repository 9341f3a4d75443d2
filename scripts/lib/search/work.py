"""Upper bounds of a search's work, counted before anything runs, and the check against the budget."""

import bisect
from dataclasses import dataclass

from lib.config import Budget
from lib.errors import UserError
from lib.search.search import Search


@dataclass(frozen=True)
class Work:
    """An upper bound of trained arms, jobs and training samples. `retrained` are samples of prior arms, which have no checkpoint.

    `serving_jobs` are the selection's measurements, `contest_jobs` the verdict's, and `engine_starts` the starts for both.
    """

    arms: int
    training_jobs: int
    serving_jobs: int
    contest_jobs: int
    engine_starts: int
    samples: int
    retrained: int


@dataclass(frozen=True)
class Pace:
    """Device-seconds per training sample, per training job without its samples, and per serving measurement, with their `source`."""

    per_sample: float
    per_job: float
    per_serving: float
    source: str
    per_contest: float | None = None
    """Device-seconds per measurement of the verdict, None if equal to `per_serving`."""
    per_start: float = 0.0
    """Device-seconds per start of the serving engine."""

    def device_hours(self, work: Work) -> float:
        """Return the device-hours that `work` takes."""
        per_contest = self.per_serving if self.per_contest is None else self.per_contest
        # Each engine measures one head again, to check the exchanges.
        starts = (self.per_start + self.per_serving) * work.engine_starts
        serving = self.per_serving * work.serving_jobs + per_contest * work.contest_jobs + starts
        return (self.per_sample * work.samples + self.per_job * work.training_jobs + serving) / 3600


def upper_bound(search: Search, seeds: int, engines: int) -> Work:
    """Return an upper bound for full brackets, with every competing prior arm promoted, and the standing configuration.

    Champion and standing configuration are added again for each of the verdict's fresh `seeds`. Samples are counted as if every global
    batch divided the caps. The finalists share `engines` starts, and the verdict takes one.
    """
    caps = search.space.rungs.samples
    arms = jobs = trained = retrained = 0
    for bracket in search.brackets:
        size = min(bracket.sizes[0], len(search.foreseen.get(bracket.label, range(bracket.sizes[0]))))
        arms += size
        for rung in bracket.rungs:
            entering = 0
            if rung > bracket.first_rung:
                contenders = len(search.contenders(search.folder(bracket), rung))
                size, entering = min(bracket.size(rung), size + contenders), min(bracket.size(rung), contenders)
            step = caps[rung] - caps[rung - 1] if rung > bracket.first_rung else caps[rung]
            jobs += size
            trained += size * step
            arms += entering
            retrained += entering * (caps[rung] - step)
    served = min(search.top_k, len(search.contenders(search.finalists_folder, search.top_rung)))
    return Work(
        arms=arms + served + 1 + 2 * seeds,
        training_jobs=jobs + served + 1 + 2 * seeds,
        serving_jobs=search.top_k + 1,
        contest_jobs=2 * seeds,
        engine_starts=min(engines, search.top_k + 1) + min(seeds, 1),
        samples=trained + retrained + (served + 1 + 2 * seeds) * caps[-1],
        retrained=retrained + served * caps[-1],
    )


def check_budget(search: Search, seeds: int, engines: int, budget: Budget, pace: Pace | None) -> None:
    """Raise UserError for a search that may exceed `budget`. The message names the largest search of its kind that fits."""
    if budget.device_hours is not None and pace is None:
        raise UserError(
            f"budget.device_hours = {budget.device_hours:g} cannot be checked without known seconds; set cost.seconds_per_sample "
            "and cost.seconds_per_serving, or use budget.samples"
        )
    if over := _over(search, seeds, engines, budget, pace):
        raise UserError(f"{over}; {_largest_that_fits(search, seeds, engines, budget, pace)}")


def _over(search: Search, seeds: int, engines: int, budget: Budget, pace: Pace | None) -> str:
    work = upper_bound(search, seeds, engines)
    hours = pace.device_hours(work) if pace else 0.0
    bounds = (("samples", budget.samples, work.samples), ("arms", budget.arms, work.arms), ("device_hours", budget.device_hours, hours))
    for name, bound, needed in bounds:
        if bound is not None and needed > bound:
            return f"budget.{name} = {bound:,} is less than the {round(needed, 3):,} that this search may use"
    return ""


def _largest_that_fits(search: Search, seeds: int, engines: int, budget: Budget, pace: Pace | None) -> str:
    """Return the cure, the largest single bracket or number of arms that fits the budget and can be searched."""
    if "bracket" in search.reads:
        fitting = [s for s in range(len(search.space.rungs.samples)) if _fits(search.resized(bracket=s), seeds, engines, budget, pace)]
        chosen = (
            [("bracket", max(fitting, key=lambda s: upper_bound(search.resized(bracket=s), seeds, engines).samples))] if fitting else []
        )
    elif "arms" in search.reads:
        most = sum(bracket.sizes[0] for bracket in search.brackets)
        fewer = bisect.bisect_left(
            range(most), True, key=lambda arms: bool(_over(search.resized(arms=arms + 1), seeds, engines, budget, pace))
        )
        chosen = [("arms", fewer)] if fewer and _fits(search.resized(arms=fewer), seeds, engines, budget, pace) else []
    else:
        return "raise it, or choose strategy = 'hyperband' or fewer values"
    if not chosen:
        return "raise it: not even the smallest search of this kind fits"
    ((name, value),) = chosen
    needed = upper_bound(search.resized(**{name: value}), seeds, engines).samples
    return f"raise it, or set search.{name} = {value}, the largest that fits, with {needed:,} samples"


def _fits(search: Search, seeds: int, engines: int, budget: Budget, pace: Pace | None) -> bool:
    try:
        search.check()
    except UserError:
        return False
    return not _over(search, seeds, engines, budget, pace)
