"""The output of a dry run for every shipped configuration, and the status of a search."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lib.config import STRATEGIES

from tests.workflow.clones import ROOT, Clone, clone, jobs

SPACES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "config/spaces").glob("*.yaml") if not path.name.startswith("glm"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing ever runs."""
    return clone(tmp_path_factory.mktemp("fresh"), small=False)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "grid"])
def test_the_dry_run_of_every_shipped_configuration_shows_its_plan_once_and_creates_nothing(
    fresh: Clone, strategy: str, space: str
) -> None:
    before = {path.name for path in fresh.root.iterdir()}
    output = fresh.snakemake("--dry-run", "--config", f"strategy={strategy}", f"space={space}").stdout
    assert output.count("Plan of search ") == 1
    assert output.index("Job stats:") < output.index(f"strategy {strategy}, eta 3, proxy acc0 (DRAFT)")
    assert re.search(r"^Jobs: at most \d+ trainings; 9 servings \(2 finalists, 1 standing, 6 for the verdict\)", output, re.MULTILINE)
    assert re.search(r"^Samples: at most [\d,]+; with its \d+ arms trained in full it would be [\d,]+", output, re.MULTILINE)
    assert "Device-hours: not known before a run" in output
    assert "Snakemake's list of jobs ends at the next decisions" in output
    assert "decide_cohort" in jobs(output)
    assert {path.name for path in fresh.root.iterdir()} - before <= {".snakemake"}


def test_the_grid_of_a_finite_space_is_planned_in_full_and_money_is_named_where_there_is_a_price(tmp_path: Path) -> None:
    one = clone(tmp_path)
    options = ("cost={seconds_per_sample: 0.5, seconds_per_serving: 60, price_per_device_hour: 3}", "strategy=grid")
    output = one.snakemake("--dry-run", "--config", *options).stdout
    assert "with an exhaustive grid of 6 arms it would be 264: nothing saved" in output
    assert len(re.findall(r"^gb\d+-\S+ +grid ", output, re.MULTILINE)) == 6
    assert "Device-hours: about 0.17 for that" in output  # (11 x 24 samples x 0.5 s + 6 servings and 2 checks x 60 s) / 3600
    assert "Money: about 0.51 USD for that" in output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["strategy=guess"], "error: strategy = 'guess' is unknown; choose one of grid, hyperband, hyperband_tpe, random, tpe"),
        (["strategy=grid"], "error: parameters.lr is a range without steps, which strategy = 'grid' cannot cover; give it steps"),
        (["serving={top_k: 9}"], "error: serving.top_k = 9 is more than the 5 arms that reach the top rung; lower it"),
        (
            ["budget={samples: 6000}"],
            "error: budget.samples = 6,000 is less than the 8,064 that this search may use; raise it, or set search.",
        ),
        (["seed_from=absent.json"], "error: seed_from = 'absent.json': no such file; name a prior-arms JSON file or a ledger.parquet"),
        (["search={bracket: 7}"], "error: search.bracket = 7 does not exist on 3 rungs; choose from 0 to 2"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(fresh: Clone, arguments: list[str], line: str) -> None:
    for mode in (["--dry-run"], []):
        refused = fresh.snakemake(*mode, "--config", *arguments, check=False)
        assert refused.returncode == 1
        assert "Traceback" not in refused.stdout
        assert refused.stdout.strip().splitlines()[-1].startswith(line)
    unknown = fresh.snakemake("--dry-run", "results/gb4-made-up/rung0.acc", check=False)
    assert unknown.stdout.strip().splitlines()[-1].startswith("error: gb4-made-up is not an arm of this search so far; see results/search/")
    assert not (fresh.root / "results").exists()


@pytest.mark.slow
def test_status_counts_a_job_as_running_while_it_still_imports(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished, results=True)
    arm = one.experiment().search.standing.id
    (one.root / f"results/{arm}/rung1.acc").unlink()
    log = one.root / f"results/logs/train_rung/{arm}.rung1.log"
    log.unlink()
    with subprocess.Popen(
        one.command(f"results/{arm}/rung1.acc"), cwd=one.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        said, deadline = "", time.monotonic() + 60
        while not re.search(r"^standing +1 +24 +1 +0 +0 +1 +0 +0$", said, re.MULTILINE):
            assert time.monotonic() < deadline and not log.exists(), said
            said = subprocess.run([sys.executable, "scripts/status.py"], cwd=one.root, text=True, capture_output=True, check=True).stdout
        assert f": running, process {run.pid}" in said
        assert run.wait() == 0
    said = subprocess.run([sys.executable, "scripts/status.py"], cwd=one.root, text=True, capture_output=True, check=True).stdout
    assert re.search(r"^standing +1 +24 +1 +1 +0 +0 +0 +0$", said, re.MULTILINE)
