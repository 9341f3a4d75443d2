"""Fresh clones of the repository, in which the workflow really runs."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from lib.experiment import Experiment, load_experiment, verdict_files

ROOT = Path(__file__).parents[2]
SMALL = ("--configfile", "tests/configs/small.yaml")

KEPT: dict[str, str] = {}
"""Environment variables by which runs and their jobs are forks of the keeper of this test run, once there is one."""

HANDED_OVER = f"import runpy; runpy.run_path({str(ROOT / 'tests/warm/sitecustomize.py')!r})\n"
"""The last line of a test's own sitecustomize, which Python imports in place of the keeper's."""


@dataclass(frozen=True)
class Clone:
    """A copy of the repository as git would clone it, uncommitted work included."""

    root: Path
    small: bool = True

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a run, of the small one unless the clone is for the shipped configuration."""
        return [sys.executable, "-m", "snakemake", *arguments, *(SMALL if self.small else ())]

    def snakemake(
        self, *arguments: str, check: bool = True, variables: Mapping[str, str] = MappingProxyType({}), prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; its output, both streams, is `stdout`. Only a run without `prefix` is a fork of the keeper."""
        done = subprocess.run(
            [*prefix, *self.command(*arguments)],
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | ({} if prefix else KEPT) | variables,
        )
        assert done.returncode == 0 or not check, done.stdout[-6000:] + self.logs()
        return done

    def configure(self, file: str, **changes: object) -> None:
        """Change keys of a YAML file, sections merged one level deep."""
        path = self.root / file
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), changes)))

    def experiment(self, **changes: object) -> Experiment:
        """Return the experiment of the small run, with keys of the configuration changed."""
        with contextlib.chdir(self.root):
            values = yaml.safe_load(Path("tests/configs/small.yaml").read_text())
            return load_experiment(merged(values, changes))

    def finalists(self, **changes: object) -> str:
        """Return the path of the decision that ends the search of the small run, with keys of the configuration changed."""
        search = self.experiment(**changes).search
        return f"results/search/{search.finalists_folder}/rung{search.top_rung}.json"

    def champion(self, **changes: object) -> str:
        """Return the path of the champion of the small run, with keys of the configuration changed. `results/champion.json` is a view."""
        return verdict_files(self.experiment(**changes)).champion

    def records(self, pattern: str) -> dict[str, dict]:
        """Return the JSON files under results/ that match, by path."""
        results = self.root / "results"
        return {str(path.relative_to(results)): json.loads(path.read_text()) for path in sorted(results.glob(pattern))}

    def ran(self) -> dict[str, str]:
        """Return the rule of every job that ran, by the path of its log."""
        logs = self.root / "results/logs"
        found = [path.relative_to(logs) for path in logs.rglob("*.log") if not path.name.endswith(".server.log")]
        return {f"results/logs/{path}": path.parts[0].partition(".")[0] for path in found}

    def logs(self) -> str:
        """Return the ends of all job logs, for a failing test's message."""
        return "\n".join(f"--- {path}\n{path.read_text()[-2000:]}" for path in sorted((self.root / "results/logs").rglob("*.log")))


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with keys changed, sections merged one level deep."""
    return values | {key: values.get(key, {}) | value if isinstance(value, dict) else value for key, value in changes.items()}


def clone(target: Path, *, adopt: Clone | None = None, results: bool = False, small: bool = True, stub: bool = False) -> Clone:
    """Clone the repository, with resources/, the preflight and, if asked, all results/ copied in from another with fresh file times.

    With `stub` its small run is served by tests/stub_engine/, which takes a second.
    """
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    for folder in ("results", "resources") if results else ("resources", "results/preflight"):
        if adopt:
            shutil.copytree(adopt.root / folder, target / folder, copy_function=shutil.copyfile)
    one = Clone(target, small)
    if stub:
        shutil.copytree(ROOT / "tests/stub_engine", target / "scripts/lib/serving/stub")
        one.configure("tests/configs/small.yaml", serving={"engine": "stub"})
    return one


def jobs(output: str) -> dict[str, int]:
    """Return Snakemake's job counts of a dry run."""
    table = re.search(r"^Job stats:\n.*?\n\n", output, re.MULTILINE | re.DOTALL)
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table.group(0), re.MULTILINE)} if table else {}


def decisions(one: Clone) -> dict[str, list[str]]:
    """Return every decision as the arms it picked."""
    return {path: record["arms"] for path, record in one.records("search/*/rung*.json").items()}


def heads(one: Clone) -> dict[str, str | None]:
    """Return the hash of every trained head by its record's path."""
    return {path: record["head_sha256"] for path, record in one.records("*/rung*.acc").items()}
