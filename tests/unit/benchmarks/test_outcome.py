"""Every strategy is charged in the same way."""

import pytest

from benchmarks.search.outcome import BudgetSpentError, Ladder, Meter, Outcome, Trained, hyperband_budget, last_step
from benchmarks.search.peers import one_rung, optuna_hyperband, random_search
from benchmarks.search.surface import Config, Surface

GOOD: Config = {"global_batch": 16, "lr": 4e-3, "warmup": 0.1}
OTHER: Config = {"global_batch": 16, "lr": 1e-4, "warmup": 0.1}
WILD: Config = {"global_batch": 4, "lr": 0.1, "warmup": 0.0}
DIVERGES_LATER: Config = {"global_batch": 4, "lr": 0.06, "warmup": 0.2}
LADDER = Ladder((64, 192, 576))


def surface() -> Surface:
    return Surface(0, horizon=576)


def test_a_climbing_arm_is_charged_the_difference_and_a_second_look_nothing():
    meter = Meter(surface(), 1000, 0)
    for samples, used in ((64, 64), (192, 192), (192, 192), (576, 576)):
        meter.train(GOOD, samples)
        assert meter.used == used
    assert meter.trials == 1


def test_a_library_that_restarts_is_charged_in_full_every_time():
    meter = Meter(surface(), 1000, 0, restarts=True)
    for samples in LADDER.samples:
        meter.train(GOOD, samples)
    assert meter.used == 64 + 192 + 576


def test_a_diverged_arm_is_charged_and_never_ranked():
    meter = Meter(surface(), 1000, 0)
    assert meter.train(WILD, 64).status == "diverged"
    assert (meter.used, meter.trials, meter.ranked()) == (64, 1, [])
    assert meter.outcome(576) == Outcome(None, 64, 1)


def test_an_arm_that_diverges_on_the_way_up_loses_the_rank_it_had():
    meter = Meter(surface(), 10_000, 0)
    meter.train(DIVERGES_LATER, 64)
    assert [arm.config for arm in meter.ranked()] == [DIVERGES_LATER]
    meter.train(DIVERGES_LATER, 576)
    assert meter.ranked() == []


def test_what_does_not_fit_the_budget_is_neither_trained_nor_charged():
    meter = Meter(surface(), 600, 0)
    meter.train(GOOD, 576)
    with pytest.raises(BudgetSpentError):
        meter.train(OTHER, 64)
    assert (meter.used, meter.trials) == (576, 1)


def test_arms_are_ranked_by_rung_before_proxy():
    meter = Meter(surface(), 10_000, 0)
    meter.train(GOOD, 64)
    meter.train(OTHER, 192)
    assert [arm.config for arm in meter.ranked()] == [OTHER, GOOD]


def test_the_promoted_arm_is_trained_to_the_cap_and_that_is_charged():
    meter = Meter(surface(), 100, 0)
    meter.train(GOOD, 64)
    outcome = meter.outcome(576)
    assert (outcome.promoted, outcome.samples_consumed, outcome.top[0].samples) == (GOOD, 576, 576)


def test_a_promoted_arm_that_diverges_gives_way_to_the_next():
    meter = Meter(surface(), 1000, 0)
    meter.train(OTHER, 64)
    meter.train(DIVERGES_LATER, 64)
    outcome = meter.outcome(576)
    assert (outcome.promoted, outcome.samples_consumed) == (OTHER, 576 + 576)


@pytest.mark.parametrize(("restarts", "used"), [(False, 1000 + 576 - 64), (True, 1000 + 576)])
def test_the_last_step_promotes_the_best_measured_and_charges_what_was_not_yet_trained(restarts, used):
    outcome = Outcome(OTHER, 1000, 3, (Trained(OTHER, 576, 0.9), Trained(GOOD, 64, 0.8), Trained(WILD, 64, 0.7)), restarts)
    assert last_step(surface(), outcome, 576, 0) == (GOOD, used)


def test_the_last_step_without_finalists_leaves_the_outcome_as_it_is():
    assert last_step(surface(), Outcome(GOOD, 1000, 3), 576, 0) == (GOOD, 1000)


def test_the_budget_is_what_hyperband_consumes_on_the_ladder():
    assert hyperband_budget(LADDER) == (9 * 64 + 3 * 128 + 384) + (3 * 192 + 384) + 3 * 576
    halvings = (81 + 27 * 2 + 9 * 6 + 3 * 18 + 54) + (27 * 3 + 9 * 6 + 3 * 18 + 54) + (9 * 9 + 3 * 18 + 54) + (6 * 27 + 2 * 54) + 5 * 81
    assert hyperband_budget(Ladder((1, 3, 9, 27, 81))) == halvings


@pytest.mark.parametrize("strategy", [random_search.run, one_rung.run, optuna_hyperband.run])
def test_a_strategy_gives_the_same_outcome_twice_and_stays_within_its_budget(strategy):
    budget = hyperband_budget(LADDER)
    outcome = strategy(surface(), LADDER, budget, 1)
    assert outcome == strategy(surface(), LADDER, budget, 1)
    assert 0.8 * budget < outcome.samples_consumed <= budget
    assert outcome.promoted == outcome.top[0].config
    assert outcome.top[0].samples == 576


def test_random_search_pays_a_full_training_per_arm_and_one_rung_looks_at_many():
    budget = hyperband_budget(LADDER)
    every = random_search.run(surface(), LADDER, budget, 0)
    assert every.samples_consumed == every.trials * 576
    many = one_rung.run(surface(), LADDER, budget, 0)
    assert many.trials == budget // 2 // 64
    finalists = sum(arm.samples == 576 for arm in many.top)
    assert many.samples_consumed == many.trials * 64 + finalists * (576 - 64)
