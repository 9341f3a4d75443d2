"""Run `make tune` in a fresh clone and environment, and record the outcome and where the time went.

    python3.11 benchmarks/embedded/run.py

Writes result.json, overheads.md and search.svg beside this file. Absolute times hold for one machine on one day only; compare shares.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    """Clone, install, run, and write the three files."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        install = timed(["make", "install", f"PYTHON={sys.executable}"], clone)
        tune = timed(["make", "tune"], clone)
        again = timed(["make", "tune"], clone)
        jobs = job_times(clone)
        champion, verdict = (json.loads((clone / f"results/{name}.json").read_text()) for name in ("champion", "verdict"))
        head = clone / champion["head"] / "model.safetensors"
        result = {
            "verdict": verdict,
            "champion": champion,
            "head_bytes": head.stat().st_size,
            "seconds": {"install": install, "tune": tune, "tune_again": again, "verdict": verdict_seconds(clone)},
            "machine": machine(clone),
            "jobs": jobs,
        }
        (HERE / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        (HERE / "overheads.md").write_text(overheads(result))
        draw = (
            "import json, pandas as pd; from lib.report.figures import search_figure; "
            "champion = json.load(open('results/champion.json')); table = pd.read_csv('results/ledger.csv'); "
            "search_figure(table, champion['standing']['arm']).save('search.svg')"
        )
        subprocess.run([".venv/bin/python", "-c", draw], cwd=clone, check=True, env=os.environ | {"PYTHONPATH": "scripts"})
        shutil.copy(clone / "search.svg", HERE / "search.svg")


def timed(command: list[str], folder: Path) -> float:
    """Run a command to its end and return the wall seconds it took."""
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True)
    return round(time.monotonic() - started, 1)


def verdict_seconds(clone: Path) -> float:
    """Return the wall seconds between the choice of the champion and the verdict on it: the fresh trainings, and the contest."""
    chosen, judged = ((clone / f"results/logs/{rule}.log").stat().st_mtime for rule in ("choose_champion", "give_verdict"))
    return round(judged - chosen, 1)


def job_times(clone: Path) -> dict[str, dict[str, float]]:
    """Return jobs and seconds of imports and of work per rule, from what every script logs about itself."""
    totals: dict[str, dict[str, float]] = defaultdict(lambda: {"jobs": 0, "imports_s": 0.0, "work_s": 0.0})
    for log in (clone / "results/logs").rglob("*.log"):
        found = re.search(r"start, after ([\d.]+) s of imports.*done, ([\d.]+) s of work", log.read_text(), re.DOTALL)
        if found:
            rule = totals[log.relative_to(clone / "results/logs").parts[0].split(".")[0]]
            rule["jobs"] += 1
            rule["imports_s"] += float(found[1])
            rule["work_s"] += float(found[2])
    return {rule: {name: round(value, 1) for name, value in times.items()} for rule, times in sorted(totals.items())}


def machine(clone: Path) -> dict[str, object]:
    """Return what the times depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout.strip()
    return {"cpu": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "commit": commit}


def overheads(result: dict) -> str:
    """Return the table of where the wall time of `make tune` went."""
    seconds, machine, jobs = result["seconds"], result["machine"], result["jobs"]
    available = seconds["tune"] * machine["cores"]
    lines = [
        "# Where the time of `make tune` goes",
        "",
        f"Embedded default, commit {machine['commit']}, Python {machine['python']}, {machine['cores']} cores of {machine['cpu']}, n = 1.",
        f"Installation {seconds['install']:.0f} s, run {seconds['tune']:.0f} s including {seconds['verdict']:.0f} s for the verdict "
        f"({seconds['verdict'] / seconds['tune']:.0%}), the same command again {seconds['tune_again']:.1f} s.",
        f"Job seconds are wall seconds inside the job. Two jobs run side by side, so the run has {available:.0f} core-seconds available.",
        "",
        "| rule | jobs | imports, s | work, s | share of core-seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    used = 0.0
    for rule, times in sorted(jobs.items(), key=lambda item: -(item[1]["imports_s"] + item[1]["work_s"])):
        spent = times["imports_s"] + times["work_s"]
        used += spent
        lines.append(f"| {rule} | {times['jobs']:.0f} | {times['imports_s']:.1f} | {times['work_s']:.1f} | {spent / available:.0%} |")
    lines += [f"| Snakemake and idle cores | | | | {1 - used / available:.0%} |", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
