"""Measure CPU seconds and memory of a dry run with the plan, on a fresh clone and in the middle of a search.

    .venv/bin/python benchmarks/dry_run/run.py

Writes result.json and results.md beside this file. A formula replaces training, because a dry run reads
records only.
"""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from lib.arm import Arm, reachable  # noqa: E402
from lib.devices import processor  # noqa: E402
from lib.experiment import load_experiment  # noqa: E402
from lib.files import write_json  # noqa: E402
from lib.records import layout  # noqa: E402
from lib.records.measurement import ProxyRecord, write_record  # noqa: E402
from lib.search.promotion import Score  # noqa: E402
from lib.search.replay import Replay, replay  # noqa: E402
from lib.search.search import Search  # noqa: E402

from tests.unit.made_records import proxy  # noqa: E402

ETAS = (3, 5, 7, 8)
"""Five rungs with these eta give Hyperband searches of 128, 790, 2,812 and 4,693 arms."""

SITUATIONS = ("fresh", "first cohorts decided", "all but the finalists measured")


def main() -> None:
    """Measure every size in every situation and write the two files."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for eta in ETAS:
            clone = Path(folder) / str(eta)
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            search = prepare(clone, eta)
            for situation in SITUATIONS:
                if situation != "fresh":
                    file_search(clone, search, whole=situation != SITUATIONS[1])
                cost = dry_run(clone)
                rows.append({"eta": eta, "arms": sum(bracket.sizes[0] for bracket in search.brackets), "situation": situation, **cost})
                print(rows[-1], flush=True)
    machine = {"cpu": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    (HERE / "result.json").write_text(json.dumps({"machine": machine, "runs": rows}, indent=2) + "\n")
    (HERE / "results.md").write_text(text(rows, machine))


def prepare(clone: Path, eta: int) -> Search:
    """Give a clone a ladder of five rungs and return its search."""
    space = yaml.safe_load((clone / "config/spaces/eagle3-draft.yaml").read_text())
    space["rungs"] = {"samples": [64 * eta**rung for rung in range(5)], "eta": eta}
    (clone / "config/spaces/eagle3-draft.yaml").write_text(yaml.safe_dump(space))
    os.chdir(clone)
    return load_experiment(yaml.safe_load(Path("config/config.yaml").read_text())).search


def measured(arm: Arm, rung: int) -> Score:
    """Score an arm by a formula."""
    return Score(arm.id, rung, "ok", round(0.5 - abs(arm.point.lr - 3e-3), 6))


def file_search(clone: Path, search: Search, *, whole: bool) -> None:
    """File the first decisions of every bracket under `clone`, or with `whole` all decisions, records and states of the search."""
    result = replay(search, measured)
    for (folder, rung), decision in result.decisions.items():
        first = folder != search.finalists_folder and rung == search.bracket_of(folder).first_rung
        if first or (whole and folder != search.finalists_folder):
            write_json(clone / layout.decision(folder, rung), decision)
    if whole:
        file_records(clone, search, result)


def file_records(clone: Path, search: Search, result: Replay) -> None:
    """File a record and a state for every rung of every arm."""
    points = {arm: point for decision in result.decisions.values() for arm, point in decision["points"].items()}
    for (name, rung), score in result.scores.items():
        arm = search.arm(search.space.standing.model_validate(points[name]))
        folder = clone / "results" / name
        write_json(folder / f"rung{rung}.state/manifest.json", {})
        write_record(folder / f"rung{rung}.acc", record(search, arm, rung, score))


def record(search: Search, arm: Arm, rung: int, score: Score) -> ProxyRecord:
    """Return a proxy record as training would write it, but for its numbers."""
    samples = reachable(search.space.rungs.samples[rung], arm.point.global_batch)
    seconds = 1.0 + samples / 100
    changes = {"rung": rung, "samples": samples, "wall_seconds": seconds, "device_seconds": seconds}
    return proxy(arm, accuracies=(score.value or 0.0,)).model_copy(update=changes)


def dry_run(clone: Path) -> dict[str, float]:
    """Return CPU seconds, peak memory and jobs of a dry run."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", WATCH, sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules"]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    jobs = re.search(r"^total +(\d+)", done.stdout, re.MULTILINE)
    peak = re.search(r"peak KiB (\d+)", done.stdout)
    assert jobs and peak, done.stdout[-2000:] + done.stderr[-2000:]
    return {"cpu_s": round(cpu, 2), "peak_mib": round(int(peak[1]) / 1024), "jobs": int(jobs[1])}


WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print("peak KiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def text(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        "# What a dry run costs",
        "",
        f"`snakemake --dry-run` with the plan, Hyperband on five rungs, n = 1 each; Python {machine['python']}, {machine['cpu']}.",
        "",
        "| arms | situation | jobs shown | CPU s | peak memory, MiB |",
        "|---:|---|---:|---:|---:|",
    ]
    lines += [f"| {row['arms']:,} | {row['situation']} | {row['jobs']:,} | {row['cpu_s']:.1f} | {row['peak_mib']} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
