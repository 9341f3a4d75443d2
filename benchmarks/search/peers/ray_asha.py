"""Ray Tune: ASHAScheduler, driven through its TrialScheduler interface, with arms drawn by Ray's own search space.

Ray's runtime is not used. It would start processes for each of hundreds of runs without changing the scheduler's decisions.
Of a trial the scheduler reads only `trial_id`. One trial runs at a time.

Diverged: the worst value is reported, as Ray's maintainers advise (ray-project/ray#11670); on NaN this scheduler lets a trial continue.
"""

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome
from benchmarks.search.surface import GLOBAL_BATCHES, LR_HIGH, LR_LOW, WARMUPS, Config, Surface

SPACE = {"global_batch": tune.choice(GLOBAL_BATCHES), "lr": tune.loguniform(LR_LOW, LR_HIGH), "warmup": tune.choice(WARMUPS)}


def run(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run ASHA until the budget is spent; promote the best proxy of the highest rung."""
    np.random.seed(seed)  # the scheduler draws brackets from the global generator
    rng = np.random.default_rng([seed, 3])
    scheduler = ASHAScheduler(
        time_attr="samples", metric="acc0", mode="max", max_t=ladder.cap, grace_period=ladder.samples[0], reduction_factor=ladder.eta
    )
    meter = Meter(surface, budget_samples, seed)
    with contextlib.suppress(BudgetSpentError):
        for number in itertools.count():
            _climb(scheduler, str(number), _sample(rng), meter, ladder)
    return meter.outcome(ladder.cap)


def _climb(scheduler: ASHAScheduler, name: str, config: Config, meter: Meter, ladder: Ladder) -> None:
    trial = SimpleNamespace(trial_id=name, config=config)
    scheduler.on_trial_add(None, trial)
    for samples in ladder.samples:
        acc0 = meter.train(config, samples).acc0
        result = {"samples": samples, "acc0": 0.0 if acc0 is None else acc0}
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP or acc0 is None:
            scheduler.on_trial_complete(None, trial, result)
            return


def _sample(rng: np.random.Generator) -> Config:
    drawn = {name: domain.sample(random_state=rng) for name, domain in SPACE.items()}
    return {"global_batch": int(drawn["global_batch"]), "lr": float(drawn["lr"]), "warmup": float(drawn["warmup"])}
