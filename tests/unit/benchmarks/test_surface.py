"""The synthetic surface has the shape that its docstring states."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.search.surface import ANCHORS, CENTRE, GLOBAL_BATCHES, WARMUPS, Config, Surface, draw, proxy


def arm(global_batch: int = 16, lr: float = 2e-3, warmup: float = 0.1) -> Config:
    return {"global_batch": global_batch, "lr": lr, "warmup": warmup}


def arms(seed: int, count: int) -> list[Config]:
    rng = np.random.default_rng(seed)
    return [draw(rng) for _ in range(count)]


def best_lr(surface: Surface, global_batch: int, samples: int, warmup: float = 0.0) -> float:
    return min(np.geomspace(1e-5, 1e-1, 801), key=lambda lr: surface.loss(arm(global_batch, float(lr), warmup), samples))


def test_a_measurement_depends_on_surface_arm_length_and_seed_alone():
    calls = list(itertools.product(arms(0, 5), (64, 576, 5184), (0, 1)))
    forward = [Surface(3).measure(*call) for call in calls]
    surface = Surface(3)
    backward = [surface.measure(*call) for call in reversed(calls)]
    assert forward == backward[::-1]
    looks = {Surface(seed).measure(arm(), samples, training).acc0 for seed in (3, 4) for samples in (64, 576) for training in (0, 1)}
    assert len(looks) == 8


def test_the_centre_meets_the_arms_that_were_trained_and_served_for_real():
    surface = Surface(0, horizon=1000, shape=CENTRE)
    for lr, acc0, acceptance in ANCHORS:
        modelled = surface.true_acceptance(arm(4, lr, 0.1))
        assert modelled == pytest.approx(acceptance, abs=0.1)
        assert proxy(modelled) == pytest.approx(acc0, abs=0.05)


def test_the_best_learning_rate_rises_as_the_square_root_of_the_batch():
    surface = Surface(1)
    assert best_lr(surface, 64, 5184) / best_lr(surface, 4, 5184) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_learning_rate_falls_with_the_length_more_so_when_low_rungs_are_still_warming_up(seed):
    surface = Surface(seed)
    rates = [best_lr(surface, 16, samples) for samples in (64, 576, 5184)]
    assert rates == sorted(rates, reverse=True)
    assert best_lr(surface, 16, 64, warmup=0.2) > 2 * rates[0]


def test_a_low_rung_is_wrong_beyond_its_noise():
    surface = Surface(0)
    high, low = arm(16, 5 * best_lr(surface, 16, 5184), 0.2), arm(16, best_lr(surface, 16, 5184), 0.2)
    assert surface.acceptance(high, 64) > surface.acceptance(low, 64)
    assert surface.acceptance(high, 5184) < surface.acceptance(low, 5184)


def test_a_rate_that_diverges_gives_no_number_and_accepts_nothing():
    surface = Surface(0)
    measured = surface.measure(arm(4, 0.1, 0.0), 64)
    assert (measured.status, measured.acc0, measured.acceptance) == ("diverged", None, None)
    assert surface.true_acceptance(arm(4, 0.1, 0.0)) == 1.0


def test_warmup_and_batch_let_higher_rates_survive():
    def highest(global_batch: int, warmup: float) -> float:
        return max(lr for lr in np.geomspace(1e-4, 1, 400) if not Surface(0).diverges(arm(global_batch, lr, warmup), 5184))

    assert highest(16, 0.0) < highest(16, 0.05) < highest(16, 0.2)
    assert highest(4, 0.0) < highest(16, 0.0)


def test_an_arm_that_warms_up_can_diverge_after_a_low_rung():
    surface = Surface(0)
    assert surface.measure(arm(4, 0.1, 0.2), 64).status == "ok"
    assert surface.measure(arm(4, 0.1, 0.2), 5184).status == "diverged"


def test_noise_is_as_large_as_stated_and_larger_on_low_rungs():
    surface = Surface(0)
    spread = {
        samples: np.std([surface.measure(arm(), samples, seed).acceptance - surface.acceptance(arm(), samples) for seed in range(800)])
        for samples in (64, 5184)
    }
    assert spread[5184] == pytest.approx(math.hypot(0.02, 0.03), rel=0.1)
    assert spread[64] > 2 * spread[5184]


def test_the_bias_of_the_proxy_belongs_to_the_arm():
    surface = Surface(0)
    excess = [
        np.mean([surface.measure(one, 5184, seed).acc0 for seed in range(200)]) - proxy(surface.true_acceptance(one))
        for one in (arm(), arm(32))
    ]
    assert excess[0] != pytest.approx(excess[1], abs=0.003)
    assert proxy(surface.true_acceptance(arm()) + surface.proxy_bias(arm())) == pytest.approx(
        excess[0] + proxy(surface.true_acceptance(arm())), abs=0.003
    )


def test_no_arm_of_the_space_beats_the_best():
    surface = Surface(2)
    assert all(surface.true_acceptance(one) <= surface.best_acceptance for one in arms(0, 2000))
    assert 1 < surface.best_acceptance < 4


def test_the_proxy_ranks_good_arms_with_a_correlation_of_080_to_090_on_average_and_low_rungs_rank_worse():
    correlations: dict[int, list[float]] = {64: [], 576: [], 5184: []}
    for seed in range(8):
        surface = Surface(seed)
        candidates = arms(seed, 500)
        true = [surface.true_acceptance(one) for one in candidates]
        good = [(one, value) for one, value in zip(candidates, true, strict=True) if value > max(true) - 0.4]
        for samples, found in correlations.items():
            found.append(float(spearmanr([surface.measure(one, samples).acc0 for one, _ in good], [value for _, value in good])[0]))
    full, middle, low = (np.mean(correlations[samples]) for samples in (5184, 576, 64))
    assert 0.8 <= full <= 0.9
    assert low < middle < full


def test_surfaces_differ_in_where_the_best_arm_is():
    places = set()
    for seed in range(12):
        surface = Surface(seed)
        rates = {(batch, warmup): best_lr(surface, batch, 5184, warmup) for batch in GLOBAL_BATCHES for warmup in (WARMUPS[1], WARMUPS[2])}
        places.add(max(rates, key=lambda key: surface.true_acceptance(arm(key[0], float(rates[key]), key[1]))))
    assert len(places) >= 3
