"""How much work a search can be at most, counted before anything runs, and whether a budget holds it."""

from dataclasses import dataclass, replace

from lib.config import Budget
from lib.errors import UserError
from lib.search.schedule import samples
from lib.search.search import Search


@dataclass(frozen=True)
class Work:
    """An upper bound of arms trained, of jobs, of training samples; `retrained` are those of prior arms, which come without a state."""

    arms: int
    training_jobs: int
    serving_jobs: int
    samples: int
    retrained: int


@dataclass(frozen=True)
class Pace:
    """Device-seconds of a training sample, of a training job besides its samples, and of a serving measurement. `source` says whence."""

    per_sample: float
    per_job: float
    per_serving: float
    source: str

    def device_hours(self, work: Work) -> float:
        """Return the device-hours that `work` takes."""
        seconds = self.per_sample * work.samples + self.per_job * work.training_jobs + self.per_serving * work.serving_jobs
        return seconds / 3600


def upper_bound(search: Search) -> Work:
    """Return the most that a search can use: every bracket full, every prior arm that competes promoted, the standing configuration."""
    caps = search.space.rungs.samples
    known = search.foreseen
    filled = tuple(
        replace(bracket, sizes=tuple(min(size, len(known.get(bracket.label, range(size)))) for size in bracket.sizes))
        for bracket in search.brackets
    )
    promoted = [
        (caps[rung - 1], min(bracket.size(rung), len(search.contenders(search.folder(bracket), rung))))
        for bracket in search.brackets
        for rung in bracket.rungs[1:]
    ]
    served = min(search.top_k, len(search.contenders(search.finalists_folder, search.top_rung)))
    promoted.append((caps[-1], served))
    retrained = sum(below * arms for below, arms in promoted)
    return Work(
        arms=sum(bracket.sizes[0] for bracket in filled) + sum(arms for _, arms in promoted) + 1,
        training_jobs=sum(sum(bracket.sizes) for bracket in filled) + served + 1,
        serving_jobs=search.top_k + 1,
        samples=samples(filled, caps) + retrained + caps[-1],
        retrained=retrained,
    )


def check_budget(search: Search, budget: Budget, pace: Pace | None) -> None:
    """Refuse a search that may use more than `budget`. Raises UserError that names the largest search of its kind that fits."""
    if budget.device_hours is not None and pace is None:
        raise UserError(
            f"budget.device_hours = {budget.device_hours:g} cannot be checked before any second is known; set cost.seconds_per_sample "
            "and cost.seconds_per_serving, or bound budget.samples"
        )
    if over := _over(search, budget, pace):
        raise UserError(f"{over}; {_largest_that_fits(search, budget, pace)}")


def _over(search: Search, budget: Budget, pace: Pace | None) -> str:
    work = upper_bound(search)
    hours = pace.device_hours(work) if pace else 0.0
    bounds = (("samples", budget.samples, work.samples), ("arms", budget.arms, work.arms), ("device_hours", budget.device_hours, hours))
    for name, bound, needed in bounds:
        if bound is not None and needed > bound:
            return f"budget.{name} = {bound:,g} is less than the {needed:,.6g} that this search may use"
    return ""


def _largest_that_fits(search: Search, budget: Budget, pace: Pace | None) -> str:
    """Return the cure: the largest single bracket, or the most arms, that the budget holds."""
    if "bracket" in search.reads:
        smaller = [("bracket", s) for s in reversed(range(len(search.space.rungs.samples)))]
    elif "arms" in search.reads:
        smaller = [("arms", arms) for arms in range(sum(bracket.sizes[0] for bracket in search.brackets), search.top_k - 1, -1)]
    else:
        return "raise it, or choose strategy = 'hyperband' or fewer values"
    fitting = [(name, value) for name, value in smaller if not _over(search.resized(**{name: value}), budget, pace)]
    if not fitting:
        return "raise it: not even the smallest search of this kind fits"
    name, value = max(fitting, key=lambda option: upper_bound(search.resized(**{option[0]: option[1]})).samples)
    needed = upper_bound(search.resized(**{name: value})).samples
    return f"raise it, or set search.{name} = {value}, the largest that fits, with {needed:,} samples"
