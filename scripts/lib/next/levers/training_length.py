"""Longer training, if the learning curve is still rising."""

import warnings
from contextlib import suppress

import numpy as np
from scipy import optimize, stats

from lib.next.finding import Curve, Finding, Found, Proposal

FOR_POWER_LAW = 3


def find(finding: Finding) -> Found:
    """Propose rungs that are eta times as long if the last rung gained more than the smallest effect."""
    arm, curve = finding.curve
    if not curve:
        return "no full arm was evaluated on two rungs, so there is no learning curve"
    (before, lower), (last, upper) = curve[-2:]
    rise = (upper - lower) * finding.per_chain
    if rise < finding.smallest_effect:
        return f"the learning curve is flat ({rise:+.3f} from {before:,} to {last:,} samples, below {finding.smallest_effect:g}, DRAFT)"
    rungs, eta = finding.space.rungs, finding.space.rungs.eta
    gain, fit = extrapolated(curve, eta, finding.draft_tokens + 1)
    samples = [cap * eta for cap in rungs.samples]
    prompts = finding.experiment.config.features.train_prompts
    return [
        Proposal(
            name="train-longer",
            title=f"Train {eta} times as long, to {samples[-1]:,} samples",
            why=f"The chain estimate (DRAFT) of {arm} is {_steps(curve)}. The last rung is worth {rise:+.2f}. "
            f"{samples[-1]:,} samples are {samples[-1] / prompts:.1f} epochs of {prompts:,} prompts ({last / prompts:.1f} now). "
            "No new data is needed.",
            expected=min(max(gain * finding.per_chain, 0.0), finding.headroom),
            at_most=finding.headroom,
            how=f"{fit}, times {finding.per_chain:.2f} accepted tokens measured per token of the estimate; optimistic if earlier rungs "
            "were evaluated before the learning rate had decayed",
            needs=finding.smallest_effect,
            space=finding.changed(rungs={"samples": samples}),
        )
    ]


def extrapolated(curve: Curve, factor: float, ceiling: float) -> tuple[float, str]:
    """Return the gain of the chain estimate when the last samples are multiplied by `factor`, and the name of the fit.

    The fit is a power law c - b n^-a that saturates below `ceiling` from three rungs on, and a line in log n for two.
    """
    samples, values = np.array(curve, dtype=float).T
    relative = samples / samples[-1]

    def power_law(n: np.ndarray, limit: float, scale: float, exponent: float) -> np.ndarray:
        return np.asarray(limit - scale * n**-exponent)

    if len(curve) >= FOR_POWER_LAW:
        start = (min(values[-1] + 0.5, ceiling - 1e-3), 0.5, 0.5)
        with warnings.catch_warnings(), suppress(RuntimeError):  # without convergence, use the line below
            warnings.simplefilter("ignore", optimize.OptimizeWarning)  # three rungs give no covariance, and it is not used
            best, _ = optimize.curve_fit(power_law, relative, values, start, bounds=([1, 0, 0.01], [ceiling, ceiling, 4]))
            return float(power_law(np.array(factor), *best) - power_law(np.array(1.0), *best)), f"power law through {len(curve)} rungs"
    slope = float(stats.linregress(np.log(relative), values).slope)
    return min(slope * float(np.log(factor)), ceiling - float(values[-1])), f"line in log samples through {len(curve)} rungs"


def _steps(curve: Curve) -> str:
    return " -> ".join(f"{value:.2f} ({samples:,} samples)" for samples, value in curve)
