"""Jobs on other machines are acknowledged at submission and at start, and do not depend on PIDs of another machine.

Snakemake's generic cluster executor submits to a shell of this machine, which leaves the job to itself as a batch system does.
"""

import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.clones import Clone, clone, decisions, heads

pytestmark = pytest.mark.slow

SUBMIT = """#!/bin/sh
# submit.sh HOW JOBSCRIPT: start a job with the environment passed on, as from another host, or with hardly any.
echo "$2" >> submitted
case $1 in
passed) SPEC_DECODE_TUNE_CONTROLLER="another/${SPEC_DECODE_TUNE_CONTROLLER#*/}" setsid sh "$2" > job.log 2>&1 & ;;
clean) env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" HOME="$HOME" OMP_NUM_THREADS=1 setsid sh "$2" > job.log 2>&1 & ;;
esac
echo $!
"""

ACKNOWLEDGED = ("run_id=r1", "ack_train=r1", "ack_serve=r1")
TINY = "target={tiny: {hidden: 64, intermediate: 128, layers: 4, heads: 2, kv_heads: 1, vocab_size: 512, context: 128, steps: 1, batch: 4}}"


def submitting(one: Clone, how: str) -> tuple[str, ...]:
    """Return the arguments by which jobs of a clone go to the cluster."""
    script = one.root / "submit.sh"
    script.write_text(SUBMIT)
    script.chmod(0o755)
    executor = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", f"./submit.sh {how}", "--jobs", "2")
    return (*executor, "--seconds-between-status-checks", "1")


def test_nothing_is_submitted_or_begun_unacknowledged_and_a_job_outlives_what_it_cannot_see(tmp_path: Path) -> None:
    one = clone(tmp_path)
    target = one.experiment(target=yaml.safe_load(TINY.partition("=")[2])).target
    passed, clean = ((target, *submitting(one, how), "--config", TINY) for how in ("passed", "clean"))
    refused = one.snakemake(*passed, "run_id=r1", "ack_serve=r1", check=False)
    assert refused.returncode and not (one.root / "submitted").exists()
    assert re.search(
        r"^error: training not acknowledged: would run 1 x train_target; to let it run, add ack_train=r1 to --config$",
        refused.stdout,
        re.MULTILINE,
    )
    unasked = one.snakemake(*clean, "run_id=r1", "--no-hooks", "--retries", "0", check=False)
    assert unasked.returncode and (one.root / "submitted").exists() and not (one.root / target).exists()
    assert (
        "error: train_target: ack_train = '' does not acknowledge run_id = 'r1'; start the run with ack_train=r1 (results/logs"
        in unasked.stdout
    )
    one.snakemake(*passed, *ACKNOWLEDGED)
    assert (one.root / target).exists() and "done, " in (one.root / "results/logs/train_target.log").read_text()


@pytest.mark.long
def test_the_search_on_a_cluster_decides_and_trains_what_the_search_on_this_machine_does(undisturbed: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, stub=True)
    said = one.snakemake(*submitting(one, "passed"), "--config", *ACKNOWLEDGED).stdout
    assert decisions(one) == decisions(undisturbed) and heads(one) == heads(undisturbed)
    assert "VERDICT: " in said and re.search(r"^[\d:]{8} champion: ", said, re.MULTILINE)
    submitted = len((one.root / "submitted").read_text().splitlines())
    assert submitted >= len(heads(undisturbed)) and "Nothing to be done" in one.snakemake().stdout
