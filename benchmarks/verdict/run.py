"""Simulate searches with and without a better arm, and count the verdicts of the gate.

    .venv/bin/python benchmarks/verdict/run.py

Writes result.json, results.md and power.svg beside this file. Nothing is trained or served; README.md states the assumptions.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import scipy

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))

from lib.devices import processor  # noqa: E402
from lib.verdict.gate import judge  # noqa: E402

Array = npt.NDArray[np.float64]

SERVING_SD = 0.03
"""Between serving repeats of one head, in acceptance length."""
TRAINING_SD = 0.02
"""Between training seeds of one configuration, in acceptance length."""
LENGTH = 2.5
"""True acceptance length of the standing configuration."""
REPEATS = 2
CONFIDENCE = 0.95
SMALLEST_EFFECT = 0.02
ARMS = (4, 8)
SEEDS = (2, 3, 5)
GAINS = (0.0, 0.05, 0.1)
"""True lead of one arm over the standing configuration and all other arms; 0 is the null."""
REPLICATES = 20_000
SEED = 0


def main() -> None:
    """Simulate every cell and write the three files."""
    started = time.monotonic()
    cells = []
    for gain in GAINS:
        for arms in ARMS:
            for seeds in SEEDS:
                cells.append(simulate(arms, seeds, gain, REPLICATES))
                print(cells[-1], flush=True)
    result = {"settings": settings(), "machine": machine(time.monotonic() - started), "cells": cells}
    (HERE / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    (HERE / "results.md").write_text(tables(result))
    figure(result).save(HERE / "power.svg")


def simulate(arms: int, seeds: int, gain: float, replicates: int) -> dict[str, Any]:
    """Search, choose, train again and judge `replicates` times; return how often each outcome occurred.

    Args:
        arms: number of arms; the one with the best selection score becomes the champion.
        seeds: fresh training seeds of the champion and of the standing configuration.
        gain: true lead of one arm over everything else, in acceptance length.
        replicates: number of independent searches.
    """
    rng = np.random.default_rng([SEED, arms, round(1000 * gain)])
    champion_gain, naive_win = search(rng, arms, gain, replicates)
    champion = measure(rng, LENGTH + champion_gain, seeds)
    standing = measure(rng, np.full(replicates, LENGTH), seeds)
    outcomes = np.array(
        [
            judge(ours, theirs, confidence=CONFIDENCE, smallest_effect=SMALLEST_EFFECT).outcome
            for ours, theirs in zip(champion.tolist(), standing.tolist(), strict=True)
        ]
    )
    improvement = outcomes == "improvement"
    better = champion_gain > 0
    return {
        "arms": arms,
        "seeds": seeds,
        "gain": gain,
        "naive_win": rate(naive_win),
        "improvement": rate(improvement),
        "improvement_of_the_better_arm": rate(improvement & better),
        "regression": rate(outcomes == "regression"),
        "better_arm_chosen": rate(better),
    }


def search(rng: np.random.Generator, arms: int, gain: float, replicates: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return the true lead of each search's champion, and whether its own selection score beat the standing configuration's.

    Every arm and the standing configuration are trained with one seed and served `REPEATS` times. The first arm is the better one.
    """
    leads = np.zeros((replicates, 1 + arms))
    leads[:, 1] = gain
    scores = measure(rng, LENGTH + leads, seeds=1).mean(axis=(-2, -1))
    champion = 1 + scores[:, 1:].argmax(axis=1)
    every = np.arange(replicates)
    return leads[every, champion], scores[every, champion] > scores[:, 0]


def measure(rng: np.random.Generator, true: Array, seeds: int) -> Array:
    """Return measured acceptance lengths: two more axes than `true`, training seeds and serving repeats."""
    heads = true[..., None] + TRAINING_SD * rng.standard_normal((*true.shape, seeds))
    lengths: Array = heads[..., None] + SERVING_SD * rng.standard_normal((*heads.shape, REPEATS))
    return lengths


def rate(happened: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the share of replicates and its exact binomial 95 % interval."""
    count = int(happened.sum())
    limits = scipy.stats.binomtest(count, happened.size).proportion_ci(0.95)
    return {"rate": count / happened.size, "low": round(float(limits.low), 5), "high": round(float(limits.high), 5)}


def settings() -> dict[str, Any]:
    """Return what the rates depend on besides the cell."""
    return {
        "serving_sd": SERVING_SD,
        "training_sd": TRAINING_SD,
        "distribution": "normal and independent",
        "length": LENGTH,
        "repeats": REPEATS,
        "confidence": CONFIDENCE,
        "smallest_effect": SMALLEST_EFFECT,
        "replicates": REPLICATES,
        "seed": SEED,
    }


def machine(seconds: float) -> dict[str, Any]:
    """Return what ran the simulation; no rate depends on its speed."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seconds": round(seconds),
    }


def tables(result: dict[str, Any]) -> str:
    """Return the rates as Markdown: the null first, then power."""
    made, machine = result["settings"], result["machine"]
    lines = [
        "# What the gate calls simulated champions",
        "",
        f"A simulation: {made['replicates']} searches per row, seed {made['seed']}; {made['distribution']} noise of standard deviation",
        f"{made['serving_sd']} between serving repeats and {made['training_sd']} between training seeds; acceptance length",
        f"{made['length']}, {made['repeats']} repeats per seed; confidence {made['confidence']}, smallest effect",
        f"{made['smallest_effect']}. Shares of searches, in brackets their exact binomial 95 % interval.",
        f"Python {machine['python']}, numpy {machine['numpy']}, scipy {machine['scipy']}; {machine['cpu']}, {machine['seconds']} s.",
        "",
        "## No arm is better: every win is false",
        "",
        "| arms | seeds | naive: higher than standing when chosen | gate: `improvement` | gate: `regression` |",
        "|---:|---:|---:|---:|---:|",
    ]
    for cell in result["cells"]:
        if cell["gain"] == 0:
            rates = " | ".join(map(_cell, (cell["naive_win"], cell["improvement"], cell["regression"])))
            lines.append(f"| {cell['arms']} | {cell['seeds']} | {rates} |")
    lines += [
        "",
        "## One arm is better",
        "",
        "| lead | arms | seeds | better arm is the champion | gate: `improvement` | and of the better arm |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in result["cells"]:
        if cell["gain"] > 0:
            rates = " | ".join(map(_cell, (cell["better_arm_chosen"], cell["improvement"], cell["improvement_of_the_better_arm"])))
            lines.append(f"| {cell['gain']:+.2f} | {cell['arms']} | {cell['seeds']} | {rates} |")
    return "\n".join(lines) + "\n"


def _cell(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def figure(result: dict[str, Any]) -> alt.HConcatChart:
    """Return how often `improvement` is said against the number of seeds, one panel per number of arms, with the naive rate dashed."""
    names = {gain: f"{gain:+.2f}" if gain else "none" for gain in GAINS}
    colour = alt.Color(
        "gain:N",
        sort=list(names.values())[::-1],
        title="true lead of one arm",
        scale=alt.Scale(domain=list(names.values())[::-1], range=["#0b6fa4", "#56b4e9", "#d55e00"]),
        legend=alt.Legend(orient="top"),
    )
    panels = []
    for arms in ARMS:
        cells = [cell for cell in result["cells"] if cell["arms"] == arms]
        values = [{"seeds": cell["seeds"], "gain": names[cell["gain"]], **cell["improvement"]} for cell in cells]
        naive = next(cell["naive_win"]["rate"] for cell in cells if cell["gain"] == 0)
        marks = [
            {"rate": naive, "label": naive - 0.035, "text": f"naive false wins: {naive:.0%}"},
            {"rate": 1 - CONFIDENCE, "label": 1 - CONFIDENCE + 0.035, "text": f"error allowed: {1 - CONFIDENCE:.0%}"},
        ]
        base = alt.Chart(alt.Data(values=values), title=f"best of {arms} arms", width=260, height=240).encode(
            x=alt.X("seeds:Q", title="fresh training seeds a side", axis=alt.Axis(values=list(SEEDS)), scale=alt.Scale(domain=[1.8, 5.2])),
            color=colour,
        )
        share = alt.Y("rate:Q", title="share called improvement", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
        lines = alt.Chart(alt.Data(values=marks))
        panels.append(
            lines.mark_rule(strokeDash=[5, 4], color="#555555").encode(y="rate:Q")
            + lines.mark_text(align="right", x=225, color="#555555").encode(y="label:Q", text="text:N")
            + base.mark_line().encode(y=share)
            + base.mark_rule().encode(y="low:Q", y2="high:Q")
            + base.mark_point(filled=True, size=55, opacity=1).encode(y=share)
        )
    return alt.hconcat(*panels)


if __name__ == "__main__":
    main()
