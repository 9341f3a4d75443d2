"""A synthetic draft head: its training result as a function of hyperparameters and consumed samples.

Loss, acceptance and proxy are calibrated against four EAGLE3 arms that were trained and served for real (`ANCHORS`: tiny target,
global_batch 4, 1000 samples, three drafted tokens). `CENTRE` reproduces them to about 0.1 in acceptance and 0.05 in `acc0`. Four arms at
one batch, one warmup and one length give no information about the rest.

The rest is assumed without measurements:

- the best learning rate, which rises with the square root of the batch and falls with the length as a power
- the exponent of the learning curve, and the cost of batch and warmup
- where training diverges, and the size of every kind of noise
- the bias of the proxy. It is set so that a full-length arm's proxy has a rank correlation of 0.8 to 0.9 with its true acceptance, among
  arms within 0.4 of the best.

A learning-rate schedule belongs to the horizon, so an arm stopped on a low rung may still be warming up. Low rungs are therefore biased,
not only noisy. Noise is a hash of what is measured, so the order of calls does not change a result.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Literal, TypedDict

import numpy as np

GLOBAL_BATCHES = (4, 8, 16, 32, 64)
WARMUPS = (0.0, 0.05, 0.1, 0.2)
LR_LOW, LR_HIGH = 1e-5, 1e-1
DRAFTED = 3
REFERENCE_BATCH, REFERENCE_SAMPLES = 8, 1000
TRAINING_NOISE = 0.02
"""Standard deviation of the acceptance length between training seeds, at the horizon."""
SERVING_NOISE = 0.03
"""Standard deviation of the acceptance length between runs of a workload."""
PROXY_NOISE = 0.005
"""Standard deviation of `acc0` that a finite held-out set adds."""

ANCHORS = ((1e-4, 0.358, 1.831), (5e-4, 0.557, 2.231), (2e-3, 0.676, 2.683), (8e-3, 0.614, 2.500))
"""Learning rate, `acc0` and acceptance length of the arms that were trained and served for real."""


class Config(TypedDict):
    """The hyperparameters that a strategy chooses."""

    global_batch: int
    lr: float
    warmup: float


@dataclass(frozen=True)
class Measurement:
    """What training to some length gave. A diverged arm has no numbers."""

    status: Literal["ok", "diverged"]
    acc0: float | None
    acceptance: float | None


@dataclass(frozen=True)
class Shape:
    """What differs from surface to surface. The values here are the centre, which the anchors calibrate."""

    log_lr: float = -5.1
    """Logarithm of the best learning rate at the reference batch and length."""
    batch_exponent: float = 0.5
    length_exponent: float = 0.2
    log_batch: float = math.log(12)
    """Logarithm of the best batch at the reference length; it grows with the length."""
    floor: float = 0.245
    """Loss of the best arm after infinitely many samples."""
    learnable: float = 0.24
    learning_exponent: float = 0.4
    warmup_cost: float = 0.4
    proxy_slope: float = 0.0
    """By how much a higher learning rate flatters the proxy, in acceptance length per factor e."""
    proxy_batch: float = 0.0
    """The same for a bigger batch."""


CENTRE = Shape()


class Surface:
    """One instance of the domain, with its own best arm and its own noise. `horizon` is the cap of the top rung, in samples."""

    def __init__(self, seed: int, horizon: int = 5184, shape: Shape | None = None) -> None:
        self.seed = seed
        self.horizon = horizon
        self.shape = shape or _drawn(seed)

    def measure(self, config: Config, samples: int, seed: int = 0) -> Measurement:
        """Train to `samples` with training seed `seed`, read the proxy and serve: one noisy look, the same at every call."""
        if self.diverges(config, samples):
            return Measurement("diverged", None, None)
        key = (self.seed, *_key(config), samples, seed)
        trained = self.acceptance(config, samples) + self._training_noise(samples) * _gauss("train", *key)
        served = trained + SERVING_NOISE * _gauss("serve", *key)
        acc0 = proxy(trained + self.proxy_bias(config)) + PROXY_NOISE * _gauss("proxy", *key)
        return Measurement("ok", min(max(acc0, 0.0), 1.0), min(max(served, 1.0), 1.0 + DRAFTED))

    def true_acceptance(self, config: Config) -> float:
        """Return the noise-free acceptance length at the horizon; 1, nothing accepted, for an arm that diverges on the way."""
        return 1.0 if self.diverges(config, self.horizon) else self.acceptance(config, self.horizon)

    @cached_property
    def best_acceptance(self) -> float:
        """The largest `true_acceptance` of the space, from a grid of 0.5 % steps in the learning rate."""
        rates = np.geomspace(LR_LOW, LR_HIGH, 1843)
        return max(
            self.true_acceptance({"global_batch": batch, "lr": float(rate), "warmup": warmup})
            for batch in GLOBAL_BATCHES
            for warmup in WARMUPS
            for rate in rates
        )

    def acceptance(self, config: Config, samples: int) -> float:
        """Return the noise-free acceptance length after `samples`, as if the arm did not diverge."""
        return 1.0 + DRAFTED * math.exp(-self.loss(config, samples))

    def loss(self, config: Config, samples: int) -> float:
        """Return the loss: a floor, a learning curve, and what the arm's hyperparameters cost at this length."""
        shape = self.shape
        length = samples / REFERENCE_SAMPLES
        log_best_batch = shape.log_batch + 0.3 * math.log(length)
        cost = _rate_cost(self._off(config, samples), config["warmup"])
        cost += 0.02 * (math.log(config["global_batch"]) - log_best_batch) ** 2
        cost += 0.02 * math.exp(-config["warmup"] / 0.03) + shape.warmup_cost * config["warmup"] ** 2
        return shape.floor + shape.learnable * math.pow(length, -shape.learning_exponent) + cost

    def _off(self, config: Config, samples: int) -> float:
        """Return by how many factors of e an arm's rate is too high for its length. Warming up counts half: little moves early on."""
        so_far = 0.5 * math.log(mean_rate(samples / self.horizon, config["warmup"]))
        return math.log(config["lr"]) + so_far - self.best_log_lr(config["global_batch"], samples)

    def best_log_lr(self, global_batch: int, samples: int) -> float:
        """Return the logarithm of the mean learning rate that suits a batch and a length best."""
        shape = self.shape
        return (
            shape.log_lr
            + shape.batch_exponent * math.log(global_batch / REFERENCE_BATCH)
            - shape.length_exponent * math.log(samples / REFERENCE_SAMPLES)
        )

    def diverges(self, config: Config, samples: int) -> bool:
        """Tell whether training diverges before `samples`: the rate reached so far is more than batch and warmup let survive."""
        warmup = config["warmup"]
        reached = 1.0 if warmup == 0 else min(1.0, samples / self.horizon / warmup)
        limit = self.best_log_lr(config["global_batch"], REFERENCE_SAMPLES) + 1.2 + 1.2 * math.sqrt(warmup / 0.2)
        return math.log(config["lr"] * reached) > limit

    def proxy_bias(self, config: Config) -> float:
        """Return by how much the proxy flatters an arm, in acceptance length: always the same for the same arm."""
        off = math.log(config["lr"]) - self.best_log_lr(config["global_batch"], self.horizon)
        bias = self.shape.proxy_slope * math.tanh(off / 2) * 2
        bias += self.shape.proxy_batch * math.log(config["global_batch"] / 16)
        bias += 0.05 * math.sin(2.5 * off + math.tau * _uniform("phase", self.seed, config["global_batch"], config["warmup"]))
        return bias

    def _training_noise(self, samples: int) -> float:
        return TRAINING_NOISE * math.pow(self.horizon / samples, 0.35)


def _rate_cost(off: float, warmup: float) -> float:
    """Return the loss that a rate `off` factors of e from the best costs: a parabola above, less so with warmup; below, it flattens out."""
    if off > 0:
        return 0.4 / (1 + 2 * warmup) * off * off
    return 0.27 * (math.sqrt(1 + off * off) - 1)


def proxy(acceptance: float) -> float:
    """Return the accuracy of the first drafted token that goes with an acceptance length, on average: the curve through the anchors."""
    return 1.0 - math.exp(-0.57 * max(acceptance - 1.0, 0.0) ** 1.3)


def mean_rate(progress: float, warmup: float) -> float:
    """Return the mean learning rate so far as a share of the peak, `progress` being the share of the horizon trained so far."""
    if warmup == 0:
        return 1.0
    if progress <= warmup:
        return progress / warmup / 2
    return 1.0 - warmup / progress / 2


def draw(rng: np.random.Generator) -> Config:
    """Draw an arm of the space: learning rate log-uniform, batch and warmup uniform over their values."""
    rate = math.exp(rng.uniform(math.log(LR_LOW), math.log(LR_HIGH)))
    return {"global_batch": int(rng.choice(GLOBAL_BATCHES)), "lr": rate, "warmup": float(rng.choice(WARMUPS))}


def _drawn(seed: int) -> Shape:
    rng = np.random.default_rng([seed, 20])
    return replace(
        CENTRE,
        log_lr=CENTRE.log_lr + rng.normal(0, 0.6),
        length_exponent=rng.uniform(0.1, 0.3),
        log_batch=CENTRE.log_batch + rng.normal(0, 0.6),
        floor=CENTRE.floor + rng.uniform(-0.08, 0.08),
        learnable=CENTRE.learnable * rng.uniform(0.8, 1.25),
        learning_exponent=rng.uniform(0.3, 0.5),
        warmup_cost=rng.uniform(0.1, 0.7),
        proxy_slope=rng.normal(0, 0.04),
        proxy_batch=rng.normal(0, 0.03),
    )


def _key(config: Config) -> tuple[int, str, str]:
    return int(config["global_batch"]), float(config["lr"]).hex(), float(config["warmup"]).hex()


def _uniform(*key: object) -> float:
    """Return a number in (0, 1) that depends on nothing but `key`."""
    hashed = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "big") + 0.5) / 2**64


def _gauss(*key: object) -> float:
    return NormalDist().inv_cdf(min(max(_uniform(*key), 1e-12), 1 - 1e-12))
