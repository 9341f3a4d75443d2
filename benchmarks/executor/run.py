"""Measure API requests per minute and controller CPU while 500 jobs run at once, with our executor and the stock plugin.

    .venv/bin/python benchmarks/executor/run.py

Writes result.json beside this file. The API server is the emulator of tests/cluster, whose pods run no process. The
controller is the real Snakemake with the real plugin, over HTTP.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from lib.devices import processor  # noqa: E402

from tests.cluster.emulator import Emulator  # noqa: E402
from tests.cluster.front import Server  # noqa: E402
from tests.s3 import Store, serving  # noqa: E402

JOBS = 500
SECONDS = 180  # that every pod takes
REST = 10  # seconds between status checks, for both
SNAKEFILE = f"""
for n in range({JOBS}):

    rule:
        name: f"work{{n}}"
        shell: "true"
"""
OURS = ["--kubernetes-experiment-run-id", "bench", "--kubernetes-experiment-workstream", "bench"]
EXECUTORS = {"kubernetes": [], "kubernetes-experiment": OURS}
PACKAGES = (
    "snakemake",
    "kubernetes",
    "snakemake-executor-plugin-kubernetes",
    "snakemake-executor-plugin-kubernetes-experiment",
)


def main() -> None:
    """Run both executors, one after the other, and write the result."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "s3") as s3:  # into which Snakemake puts its sources
        runs = {executor: measure(executor, Path(folder), s3.store) for executor in EXECUTORS}
    context = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "jobs": JOBS,
        "seconds_per_pod": SECONDS,
        "seconds_between_status_checks": REST,
        "runs_of_each": 1,
    }
    (HERE / "result.json").write_text(json.dumps({"context": context, "runs": runs}, indent=2) + "\n")


def measure(executor: str, folder: Path, store: Store) -> dict[str, Any]:
    """Run all jobs with one executor."""
    cluster = Emulator("bench", processes=False)
    cluster.virtual_seconds = SECONDS
    server = Server(cluster)
    work = folder / executor
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE)
    environment = os.environ | store.environment | {"KUBECONFIG": str(server.write_kubeconfig(work / "kubeconfig"))}
    command = [sys.executable, "-m", "snakemake", "--executor", executor, f"--{executor}-namespace", "bench", "--jobs", str(JOBS)]
    command += ["--container-image", "tune:1", "--scheduler", "greedy", "--max-jobs-per-timespan", f"{JOBS}/1s", *EXECUTORS[executor]]
    command += ["--default-storage-provider", "s3-experiment", "--default-storage-prefix", store.url("run/.")]
    command += ["--seconds-between-status-checks", str(REST), *(f"work{n}" for n in range(JOBS))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    with (work / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT)
    while len(cluster.started) < JOBS and process.poll() is None:
        time.sleep(0.1)
    if process.poll() is not None:
        sys.exit(f"error: Snakemake ended early:\n{(work / 'out').read_text()}")
    submitted, cpu_then = time.monotonic(), cpu_seconds(process.pid)
    window = SECONDS - (submitted - begun) - 2  # all run, none has ended
    time.sleep(max(window, 1))
    cpu_now, until = cpu_seconds(process.pid), time.monotonic()
    code = process.wait()
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    steady = [request for request in cluster.requests if submitted <= request.at < until]
    minutes = (until - submitted) / 60
    last = max(request.at for request in cluster.requests if request.verb == "create" and request.kind == "jobs") + SECONDS
    result = {
        "exit_status": code,
        "left_on_cluster": len(cluster.left()),
        "submission_s": round(submitted - begun, 1),
        "while_all_run": {
            "seconds": round(until - submitted, 1),
            "requests_per_minute": round(len(steady) / minutes, 1),
            "requests": dict(Counter(f"{request.verb} {request.kind}" for request in steady)),
            "controller_cpu_s_per_minute": round((cpu_now - cpu_then) / minutes, 2),
        },
        "from_last_pod_to_exit_s": round(ended - last, 1),
        "requests_in_all": len(cluster.requests),
        "controller_cpu_s_in_all": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    }
    print(executor, json.dumps(result), (work / "out").read_text()[-800:] if code else "", flush=True)
    server.close()
    return result


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
