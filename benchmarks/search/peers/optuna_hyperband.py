"""Optuna: TPESampler with HyperbandPruner, by ask and tell, one trial at a time.

Diverged: NaN is reported, on which the pruner prunes and which TPE ranks last among the arms of that length. Optuna's other way, the state
FAIL, would hide the arm from TPE.
"""

import contextlib
import math

import optuna
from optuna.trial import TrialState

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome
from benchmarks.search.surface import LR_HIGH, LR_LOW, WARMUPS, Config, Surface


def run(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run Optuna until the budget is spent; promote the best proxy of the highest rung."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.HyperbandPruner(min_resource=ladder.samples[0], max_resource=ladder.cap, reduction_factor=ladder.eta)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(study_name=f"run-{seed}", direction="maximize", sampler=sampler, pruner=pruner)
    meter = Meter(surface, budget_samples, seed)
    with contextlib.suppress(BudgetSpentError):
        while True:
            _climb(study, meter, ladder)
    return meter.outcome(ladder.cap)


def _climb(study: optuna.Study, meter: Meter, ladder: Ladder) -> None:
    trial = study.ask()
    config = _suggest(trial)
    for samples in ladder.samples:
        acc0 = meter.train(config, samples).acc0
        trial.report(math.nan if acc0 is None else acc0, step=samples)
        if samples < ladder.cap and acc0 is not None and not trial.should_prune():
            continue
        if samples == ladder.cap and acc0 is not None:
            study.tell(trial, acc0)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        return


def _suggest(trial: optuna.Trial) -> Config:
    """Ask for an arm. Batch and warmup are integers, so that TPE knows their order."""
    return {
        "global_batch": 2 ** trial.suggest_int("log2_batch", 2, 6),
        "lr": trial.suggest_float("lr", LR_LOW, LR_HIGH, log=True),
        "warmup": WARMUPS[trial.suggest_int("warmup", 0, len(WARMUPS) - 1)],
    }
