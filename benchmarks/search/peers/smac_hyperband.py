"""SMAC3: MultiFidelityFacade (random forest, Hyperband intensifier), by ask and tell.

SMAC asks for an arm at a budget and cannot resume from a smaller one, so `run` is charged every rung from zero.
`run_resumed` is charged as if the target function kept checkpoints itself.

Diverged: told as CRASHED with `crash_cost`, the cost of no correct token at all; its default of infinity cannot be learned from.
"""

import contextlib
import tempfile
from pathlib import Path

from ConfigSpace import ConfigurationSpace, Float, OrdinalHyperparameter
from smac import MultiFidelityFacade, Scenario
from smac.intensifier.hyperband_utils import get_n_trials_for_hyperband_multifidelity
from smac.runhistory import StatusType, TrialInfo, TrialValue

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome
from benchmarks.search.surface import GLOBAL_BATCHES, LR_HIGH, LR_LOW, WARMUPS, Config, Surface

WORST = 1.0


def run(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run SMAC, every rung from zero, until the budget is spent; promote the best proxy of the highest rung."""
    return _run(Meter(surface, budget_samples, seed, restarts=True), ladder, budget_samples, seed)


def run_resumed(surface: Surface, ladder: Ladder, budget_samples: int, seed: int) -> Outcome:
    """Run SMAC, arms resuming, until the budget is spent; promote the best proxy of the highest rung."""
    return _run(Meter(surface, budget_samples, seed), ladder, budget_samples, seed)


def _run(meter: Meter, ladder: Ladder, budget: int, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        smac = _facade(ladder, budget, seed, Path(folder))
        with contextlib.suppress(BudgetSpentError):
            while True:
                trial = smac.ask()
                smac.tell(trial, _evaluate(trial, meter), save=False)
    return meter.outcome(ladder.cap)


def _evaluate(trial: TrialInfo, meter: Meter) -> TrialValue:
    assert trial.budget is not None
    config: Config = {
        "global_batch": int(trial.config["global_batch"]),
        "lr": float(trial.config["lr"]),
        "warmup": float(trial.config["warmup"]),
    }
    acc0 = meter.train(config, round(trial.budget)).acc0
    return TrialValue(cost=WORST, status=StatusType.CRASHED) if acc0 is None else TrialValue(cost=1.0 - acc0)


def _never_called(config: object, seed: int, budget: float) -> float:
    """SMAC wants a function of this form even where it is only asked and told."""
    raise AssertionError(config, seed, budget)


def _facade(ladder: Ladder, budget: int, seed: int, folder: Path) -> MultiFidelityFacade:
    space = ConfigurationSpace(seed=seed)
    space.add(
        OrdinalHyperparameter("global_batch", list(GLOBAL_BATCHES)),
        Float("lr", (LR_LOW, LR_HIGH), log=True),
        OrdinalHyperparameter("warmup", list(WARMUPS)),
    )
    limits = {"min_budget": ladder.samples[0], "max_budget": ladder.cap}
    scenario = Scenario(
        space,
        **limits,
        n_trials=get_n_trials_for_hyperband_multifidelity(budget, **limits, eta=ladder.eta, print_summary=False),
        deterministic=True,
        crash_cost=WORST,
        seed=seed,
        output_directory=folder,
    )
    intensifier = MultiFidelityFacade.get_intensifier(scenario, eta=ladder.eta)
    return MultiFidelityFacade(scenario, _never_called, intensifier=intensifier, overwrite=True, logging_level=False)
