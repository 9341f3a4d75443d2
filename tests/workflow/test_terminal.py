"""The terminal output of a run: short, with the verdict at its end and every error."""

import re
from pathlib import Path

import pytest

from tests.workflow.clones import Clone, clone

pytestmark = pytest.mark.slow


def test_a_run_tells_its_stages_the_best_so_far_and_what_is_left_and_ends_with_verdict_lever_and_report(said: str) -> None:
    lines = said.splitlines()
    assert len(lines) < 40, said
    assert re.search(r"^Search \w+, strategy hyperband: at most 11 trainings of 10 arms and 6 measurements in vLLM", said, re.MULTILINE)
    assert re.search(r"^[\d:]{8} Training the tiny target \(results/logs/train_target.log\)$", said, re.MULTILINE)
    assert re.search(r"^[\d:]{8} s1: 1 of 3 arms go on, to 24 samples", said, re.MULTILINE)
    assert re.search(r"\b\d+ of 11 trainings, 0 of 2 heads served · best acc0 so far [\d.]+ \(DRAFT\), ", said)
    assert len(re.findall(r"^[\d:]{8} champion: gb\S+, acceptance length [\d.]+ \(DRAFT\), now retrained", said, re.MULTILINE)) == 1
    standings = [line.rpartition(" go on, ")[2] for line in lines if " heads served · " in line]
    assert len(set(standings)) == len(standings), "nothing is said twice"
    assert re.search(
        r" · best acceptance length so far [\d.]+ \(DRAFT\), .* · about \d+ (?:s|min), [\d.]+ device-hours left at most$",
        said,
        re.MULTILINE,
    )
    verdict, lever, report = (said.index(words) for words in ("VERDICT: ", "Next (gains are DRAFT estimates", "make report"))
    assert verdict < lever < report
    assert not re.search(r"^(local)?(rule|checkpoint) |steps \(|Triton|^Select jobs", said, re.MULTILINE)


def test_what_a_job_says_stands_in_its_own_log_alone_and_snakemakes_blocks_in_snakemakes(finished: Clone, said: str) -> None:
    for log in (finished.root / "results/logs/train_rung").glob("*.rung1.log"):
        assert re.search(r": start, after .*: samples 24/24, .*: done, ", log.read_text(), re.DOTALL)
    assert "samples 24/24" not in said
    first = min((finished.root / ".snakemake/log").glob("*.log"))
    assert "localrule train_rung:" in first.read_text()


def test_a_failing_job_is_told_of_with_its_reason_and_its_log_and_verbose_tells_all(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished, results=True)
    (arm,) = {path.parent.name for path in (one.root / "results").glob("*/head")} & {one.records("champion.json")["champion.json"]["arm"]}
    (one.root / f"results/{arm}/head/config.json").unlink()
    (one.root / f"results/{arm}/head").rename(one.root / f"results/{arm}/gone")
    (one.root / f"results/{arm}/rung1.state/manifest.json").write_text("{")
    failed = one.snakemake(f"results/{arm}/head", check=False)
    log = f"(results/logs/export_head/{arm}.log)"
    assert failed.returncode and failed.stdout.count(f"error: export_head {arm}: ") == 2
    assert f"error: export_head {arm}: same error {log}" in failed.stdout
    assert "RuleException" not in failed.stdout and "At least one job did not complete successfully" in failed.stdout
    assert "Error in rule export_head:" in one.snakemake("--verbose", f"results/{arm}/head", check=False).stdout
