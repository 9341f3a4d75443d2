"""Syne Tune: ASHA and BOHB, by the calls its Tuner makes of a scheduler; one trial at a time.

Diverged: the worst value is reported. The documented call for a failed trial, `on_trial_error`, would hide the arm from ASHA and BOHB.
"""

import contextlib
import itertools
import logging
from datetime import datetime

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import loguniform, randint
from syne_tune.optimizer.baselines import ASHA, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision, TrialScheduler

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome
from benchmarks.search.surface import LR_HIGH, LR_LOW, WARMUPS, Config, Surface

SPACE = {"log2_batch": randint(2, 6), "lr": loguniform(LR_LOW, LR_HIGH), "warmup": randint(0, len(WARMUPS) - 1)}
"""Batch and warmup are integers, so that BOHB knows their order."""


def run_asha(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run ASHA until the budget is spent; promote the best proxy of the highest rung."""
    return _run(ASHA, surface, ladder, budget_samples, seed)


def run_bohb(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run BOHB until the budget is spent; promote the best proxy of the highest rung."""
    return _run(BOHB, surface, ladder, budget_samples, seed)


def _run(kind: type[ASHA] | type[BOHB], surface: Surface, ladder: Ladder, budget: int, seed: int) -> Outcome:
    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    np.random.seed(seed)  # brackets and BOHB's random arms come from the global generator
    scheduler = kind(
        config_space=SPACE,
        metric="acc0",
        time_attr="samples",
        do_minimize=False,
        max_t=ladder.cap,
        grace_period=ladder.samples[0],
        reduction_factor=ladder.eta,
        random_seed=seed,
    )
    meter = Meter(surface, budget, seed)
    with contextlib.suppress(BudgetSpentError):
        for number in itertools.count():
            _climb(scheduler, number, meter, ladder)
    return meter.outcome(ladder.cap)


def _climb(scheduler: TrialScheduler, number: int, meter: Meter, ladder: Ladder) -> None:
    trial = Trial(trial_id=number, config=scheduler.suggest().config, creation_time=datetime.now())
    config: Config = {
        "global_batch": 2 ** int(trial.config["log2_batch"]),
        "lr": float(trial.config["lr"]),
        "warmup": WARMUPS[int(trial.config["warmup"])],
    }
    scheduler.on_trial_add(trial)
    for samples in ladder.samples:
        acc0 = meter.train(config, samples).acc0
        decision = scheduler.on_trial_result(trial, {"samples": samples, "acc0": 0.0 if acc0 is None else acc0})
        if decision == SchedulerDecision.STOP or acc0 is None:
            scheduler.on_trial_remove(trial)
            return
