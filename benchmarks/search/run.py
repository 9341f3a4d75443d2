"""Run search strategies on the same synthetic surfaces and record the regret of each.

    python -m benchmarks.search.run --peer-python /path/to/peers/bin/python
    python -m benchmarks.search.run --only random one-rung
    python -m benchmarks.search.run --only

From the root of the repository. Writes outcomes.json, the numbers of every run, and from it result.json, results.md and regret.svg.
`--only` keeps the outcomes of all other strategies; with no name after it, nothing is run.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import scipy

from benchmarks.search.outcome import Ladder, hyperband_budget
from benchmarks.search.surface import Surface, draw

HERE = Path(__file__).parent
CAP = 5184
LADDERS = tuple(Ladder(tuple(CAP // 3**step for step in reversed(range(rungs)))) for rungs in (3, 4, 5))
NEAR = 0.05
"""Regret up to which an arm counts as good as the best, in acceptance length."""
LAST_STEP = " + last step"
PROMOTED_BY = ("the strategy itself", "acceptance of the top 2")
SEEDS = 100
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1", "PYTHONHASHSEED": "0"}
"""One core per worker; and SMAC, seeded or not, chooses by the order of sets."""
Outcomes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """Where a strategy is, which distributions it runs on, and whether those are in an environment of their own."""

    target: str
    distributions: tuple[str, ...]
    peer: bool = False


PEERS = "benchmarks.search.peers"
OURS = "benchmarks.search.ours"
METHODS = {
    "ours: hyperband": Method(f"{OURS}:hyperband", ("numpy",)),
    "ours: hyperband_tpe": Method(f"{OURS}:hyperband_tpe", ("optuna", "numpy")),
    "ours: hyperband_tpe, lr not rescaled": Method(f"{OURS}:hyperband_tpe_correlated", ("optuna", "numpy")),
    "ours: tpe": Method(f"{OURS}:tpe", ("optuna", "numpy")),
    "ours: tpe, lr not rescaled": Method(f"{OURS}:tpe_correlated", ("optuna", "numpy")),
    "random": Method(f"{PEERS}.random_search:run", ("numpy",)),
    "one-rung": Method(f"{PEERS}.one_rung:run", ("numpy",)),
    "optuna-tpe-hyperband": Method(f"{PEERS}.optuna_hyperband:run", ("optuna", "numpy")),
    "ray-asha": Method(f"{PEERS}.ray_asha:run", ("ray", "numpy"), peer=True),
    "syne-tune-asha": Method(f"{PEERS}.syne_tune_schedulers:run_asha", ("syne-tune", "numpy"), peer=True),
    "syne-tune-bohb": Method(f"{PEERS}.syne_tune_schedulers:run_bohb", ("syne-tune", "statsmodels", "numpy"), peer=True),
    "smac-hyperband": Method(f"{PEERS}.smac_hyperband:run", ("smac", "ConfigSpace", "scikit-learn", "numpy"), peer=True),
    "smac-hyperband, resumed": Method(f"{PEERS}.smac_hyperband:run_resumed", ("smac", "ConfigSpace", "scikit-learn", "numpy"), peer=True),
}


def main() -> None:
    """Run what was asked for, keep the rest, and write the four files."""
    options = _options()
    path = HERE / "outcomes.json"
    outcomes: Outcomes = json.loads(path.read_text()) if path.exists() else {}
    for name in METHODS if options.only is None else options.only:
        python = options.peer_python if METHODS[name].peer else sys.executable
        if python is None:
            print(f"{name}: not run, for want of --peer-python")
            continue
        outcomes[name] = run_method(METHODS[name], python, options.seeds)
        print(f"{name}: {outcomes[name]['seconds']:.0f} s", flush=True)
        path.write_text(compact(outcomes))
    result = summarise(outcomes, options.reference) | {"surface": surface_facts(), "machine": machine()}
    (HERE / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    (HERE / "results.md").write_text(tables(result))
    figure(result).save(HERE / "regret.svg")


def run_method(method: Method, python: str, seeds: int) -> dict[str, Any]:
    """Ask a worker for every surface and ladder; return its versions and one column per number and ladder."""
    started = time.monotonic()
    command = [python, "-W", "ignore", "-m", "benchmarks.search.worker", method.target, *method.distributions]
    environment = os.environ | WORKER_ENVIRONMENT
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        versions = _answer(worker, None)
        columns: dict[str, dict[str, list[float]]] = {}
        for ladder in LADDERS:
            column = columns.setdefault(str(len(ladder.samples)), {})
            for seed in range(seeds):
                for key, value in _answer(worker, {"rungs": ladder.samples, "eta": ladder.eta, "seed": seed}).items():
                    column.setdefault(key, []).append(value)
    return {"versions": versions, "seconds": round(time.monotonic() - started, 1), "ladders": columns}


def _answer(worker: subprocess.Popen[str], question: dict[str, Any] | None) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    if question is not None:
        print(json.dumps(question), file=worker.stdin, flush=True)
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"the worker ended early with status {worker.wait()}; it was {worker.args!r}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def summarise(outcomes: Outcomes, reference: str) -> dict[str, Any]:
    """Return means with 95 % intervals per strategy, last step and ladder, and the paired difference to the row named `reference`."""
    lengths = {name: len(method["ladders"][str(len(LADDERS[0].samples))]["regret"]) for name, method in outcomes.items()}
    if len(set(lengths.values())) > 1:
        raise SystemExit(f"error: numbers of surfaces differ, {lengths}; run the strategies that have other than --seeds again")
    rows = []
    for ladder in LADDERS:
        rungs = str(len(ladder.samples))
        regrets = _regrets(outcomes, rungs)
        if reference not in regrets:
            raise SystemExit(f"error: --reference {reference!r} is no row; there are {', '.join(regrets)}")
        for row, regret in regrets.items():
            name = row.removesuffix(LAST_STEP)
            column = outcomes[name]["ladders"][rungs]
            samples = column["last_samples" if row != name else "samples"]
            rows.append(
                {
                    "row": row,
                    "method": name,
                    "last_step": row != name,
                    "rungs": len(ladder.samples),
                    "n": len(regret),
                    "regret": interval(regret),
                    "regret_median": round(float(np.median(regret)), 4),
                    "difference": None if row == reference else interval(regret - regrets[reference]),
                    "near_best_share": round(float(np.mean(regret <= NEAR)), 4),
                    "samples_mean": round(float(np.mean(samples)), 1),
                    "budget_share": round(float(np.mean(samples)) / hyperband_budget(ladder), 4),
                    "trials_mean": round(float(np.mean(column["trials"])), 2),
                }
            )
    return {
        "reference": reference,
        "surfaces": next(iter(lengths.values())),
        "near": NEAR,
        "budgets": [{"rungs": ladder.samples, "eta": ladder.eta, "samples": hyperband_budget(ladder)} for ladder in LADDERS],
        "versions": {name: method["versions"] for name, method in outcomes.items()},
        "seconds": {name: method["seconds"] for name, method in outcomes.items()},
        "rows": rows,
    }


def _regrets(outcomes: Outcomes, rungs: str) -> dict[str, np.ndarray]:
    regrets = {}
    for name in sorted(outcomes, key=list(METHODS).index):
        column = outcomes[name]["ladders"][rungs]
        regrets[name] = np.array(column["regret"])
        if len(column.get("last_regret", [])) == len(column["regret"]):
            regrets[name + LAST_STEP] = np.array(column["last_regret"])
    return regrets


def surface_facts(surfaces: int = 20, arms: int = 500, good: float = 0.4) -> dict[str, Any]:
    """Return how well the proxy of one training ranks random arms by their true acceptance, on average over surfaces, rung by rung.

    Diverged arms rank last. Good arms are those within `good` of the best.
    """
    correlations: dict[int, list[list[float]]] = {samples: [] for samples in LADDERS[-1].samples}
    for seed in range(surfaces):
        surface = Surface(seed, CAP)
        rng = np.random.default_rng([seed, 4])
        drawn = [draw(rng) for _ in range(arms)]
        true = np.array([surface.true_acceptance(arm) for arm in drawn])
        near = true > surface.best_acceptance - good
        for samples, found in correlations.items():
            proxies = np.array([surface.measure(arm, samples).acc0 or 0.0 for arm in drawn])
            found.append([float(scipy.stats.spearmanr(proxies[some], true[some])[0]) for some in (np.full(arms, True), near)])
    means = {samples: np.mean(found, axis=0).round(3).tolist() for samples, found in correlations.items()}
    return {
        "surfaces": surfaces,
        "arms": arms,
        "good_within": good,
        "rank_correlation": {str(samples): {"all": every, "good": best} for samples, (every, best) in means.items()},
    }


def interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean and its 95 % interval: bias-corrected bootstrap over surfaces, 9999 resamples, a fixed seed."""
    mean = float(np.mean(values))
    low = high = mean
    if np.ptp(values) > 0:
        limits = scipy.stats.bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
        low, high = float(limits.low), float(limits.high)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def tables(result: dict[str, Any]) -> str:
    """Return the result as Markdown, one table per budget."""
    machine, reference = result["machine"], result["reference"]
    versions = {name: version for method in result["versions"].values() for name, version in method.items()}
    listed = ", ".join(f"{name} {versions[name]}" for name in sorted(versions.keys() - {"numpy", "python"}))
    lines = [
        "# Regret of search strategies on the synthetic surface",
        "",
        f"{result['surfaces']} surfaces, the same for every strategy. *Regret*: acceptance length of the surface's best arm minus",
        "that of the promoted arm, both noise-free at full length; lower is better. Means, in brackets their 95 % bootstrap interval.",
        f"*Against {reference}*: paired difference of regrets; below 0 is better than {reference}.",
        f"*Near best*: share of surfaces on which the promoted arm is within {result['near']:g} of the best.",
        f"Versions: {listed}; Python {machine['python']}; {machine['cpu']}.",
        "",
        *_surface_table(result["surface"]),
    ]
    for budget in result["budgets"]:
        rungs = len(budget["rungs"])
        lines += [
            f"## {rungs} rungs: {budget['samples']} samples",
            "",
            f"Rungs at {', '.join(map(str, budget['rungs']))} samples, eta {budget['eta']}; the budget pays for"
            f" {budget['samples'] / budget['rungs'][-1]:.1f} full trainings.",
            "",
            f"| strategy | regret | median | against {reference} | near best | samples used | arms |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in result["rows"]:
            if row["rungs"] == rungs:
                difference = "" if row["difference"] is None else _cell(row["difference"], "+")
                lines.append(
                    f"| {row['row']} | {_cell(row['regret'])} | {row['regret_median']:.3f} | {difference} | {row['near_best_share']:.0%} "
                    f"| {row['budget_share']:.0%} | {row['trials_mean']:.0f} |"
                )
        lines.append("")
    return "\n".join(lines)


def _surface_table(surface: dict[str, Any]) -> list[str]:
    correlations = surface["rank_correlation"]
    return [
        "## What a rung is worth on these surfaces",
        "",
        f"Rank correlation of the proxy of one training with the true acceptance at full length, mean of {surface['surfaces']} surfaces,",
        f"{surface['arms']} random arms each. Good arms: within {surface['good_within']:g} of the best.",
        "",
        f"| samples | {' | '.join(correlations)} |",
        "|---|" + "---:|" * len(correlations),
        f"| all arms | {' | '.join(format(value['all'], '.2f') for value in correlations.values())} |",
        f"| good arms | {' | '.join(format(value['good'], '.2f') for value in correlations.values())} |",
        "",
    ]


def _cell(interval: dict[str, float], sign: str = "") -> str:
    return f"{interval['mean']:{sign}.3f} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


def figure(result: dict[str, Any]) -> alt.HConcatChart:
    """Return the regrets as points with their intervals, one panel per budget."""
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    ends = [row["regret"][end] for row in result["rows"] for end in ("low", "high")]
    scale = alt.Scale(type="log", nice=False, domain=[min(ends) * 0.95, max(ends) * 1.05])
    axis = alt.Axis(values=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], format="~g")
    panels: list[alt.LayerChart] = []
    for budget in result["budgets"]:
        rungs = len(budget["rungs"])
        values = [
            {"method": row["method"], "promoted by": PROMOTED_BY[row["last_step"]]} | row["regret"]
            for row in result["rows"]
            if row["rungs"] == rungs
        ]
        base = alt.Chart(
            alt.Data(values=values), title=f"{budget['samples']} samples, {rungs} rungs", width=230, height=alt.Step(13)
        ).encode(
            y=alt.Y("method:N", sort=methods, title=None, axis=None if panels else alt.Axis(labelLimit=200)),
            yOffset=alt.YOffset("promoted by:N", sort="descending"),
            color=alt.Color(
                "promoted by:N",
                sort="descending",
                scale=alt.Scale(domain=list(PROMOTED_BY), range=["#0b6fa4", "#d55e00"]),
                legend=alt.Legend(orient="top", title="arm promoted by"),
            ),
        )
        points = base.mark_point(filled=True, size=40, opacity=1).encode(
            x=alt.X("mean:Q", title="mean regret (acceptance length)", scale=scale, axis=axis)
        )
        panels.append(base.mark_rule().encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q") + points)
    return alt.hconcat(*panels)


def compact(outcomes: Outcomes) -> str:
    """Return the outcomes as JSON with one line per strategy, ladder and number."""
    text = json.dumps(outcomes, indent=1)
    return re.sub(r"\[[^\[\]]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def machine() -> dict[str, Any]:
    """Return what ran the report; no number here depends on its speed."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "scipy": scipy.__version__,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run search strategies on the same synthetic surfaces and write down what each gave away.")
    parser.add_argument("--only", nargs="*", choices=list(METHODS), metavar="NAME", help=f"run only these of {', '.join(METHODS)}")
    parser.add_argument("--peer-python", help="interpreter of the environment made from peers.lock; without it those peers are not run")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of surfaces")
    parser.add_argument("--reference", default="random", help="row that all others are compared with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
