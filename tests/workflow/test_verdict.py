"""Verdicts on equal and on different configurations, and their records."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import duckdb
import pytest
import yaml

from tests.workflow.clones import Clone, clone
from tests.workflow.test_interrupt import kill_during

pytestmark = [pytest.mark.slow, pytest.mark.long]

SOUND = {"global_batch": 4, "lr": 1e-2, "warmup": 0.0}
CRIPPLED = SOUND | {"lr": 1e-5}
"""A learning rate a thousandth of the sound one: the head learns nothing."""

FLAGS = ("--config", "strategy=grid", "space=two.yaml", "verdict={seeds: 3}")
SEEDS = {"itself": 2, "ahead": 3}
"""Two are the fewest; to find a lead takes three."""


def write_space(one: Clone, champion: dict, standing: dict) -> None:
    """Write the space of the one point `champion`, with `standing` for its standing configuration."""
    space = yaml.safe_load((one.root / "tests/configs/small-space.yaml").read_text())
    only = {name: [value] for name, value in champion.items()}
    changed = {"parameters": only, "standing": standing, "rungs": {"samples": [192], "eta": 3}}
    (one.root / "two.yaml").write_text(yaml.safe_dump(space | changed))


def contest(one: Clone, champion: dict, standing: dict, seeds: int) -> tuple[dict, str]:
    """Run a search over the one point `champion` against `standing` to its verdict: the record, and what the run said."""
    write_space(one, champion, standing)
    said = one.snakemake(*FLAGS[:-1], f"verdict={{seeds: {seeds}}}").stdout
    return one.records("verdict.json")["verdict.json"], said


@pytest.fixture(scope="module")
def judged(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, dict[str, tuple[dict, str]]]:
    """A clone in which two contests were held: verdicts by name, and what the runs said. Recorded is nothing.

    The second was killed while it measured, and begun anew by the same command. `benchmarks/verdict/embedded.py` holds the third, in which
    the crippled configuration is the champion, at full size.
    """
    one = clone(tmp_path_factory.mktemp("judged"), adopt=finished, stub=True)
    verdicts = {"itself": contest(one, SOUND, SOUND, SEEDS["itself"])}
    write_space(one, SOUND, CRIPPLED)
    (one.root / "results/logs/measure_contest.log").unlink()
    kill_during(one, "measure_contest.log", "1 of 6", *FLAGS)
    return one, verdicts | {"ahead": contest(one, SOUND, CRIPPLED, SEEDS["ahead"])}


@pytest.mark.parametrize(
    ("contest_of", "outcome"),
    [("itself", "no improvement (within noise)"), ("ahead", "improvement")],
)
def test_outcomes(judged: tuple[Clone, dict], contest_of: str, outcome: str) -> None:
    one, verdicts = judged
    verdict, said = verdicts[contest_of]
    assert (verdict["outcome"], verdict["rigor"]) == (outcome, "VERDICT")
    assert f"VERDICT: {outcome}." in said and "Next (gains are DRAFT estimates" in said
    assert {verdict["champion"]["n"], verdict["standing"]["n"]} == {SEEDS[contest_of]}
    assert verdict["context"]["grounding"]["level"] == "L4"
    if contest_of == "itself":
        assert verdict["effect"] == 0 and verdict["champion"]["arms"] == verdict["standing"]["arms"]
    if outcome == "improvement":
        given = re.search(r"Not recorded yet: (\.venv/bin/snakemake .*) would make it", said)
        assert given and given[1].endswith(f" ack_publish={verdict['id']}")
        assert "would make it the standing baseline baselines/" in said
    else:
        assert "Nothing to record" in said
    assert not (one.root / "baselines").exists()


def test_selection_and_verdict_share_no_training_and_no_measurement(judged: tuple[Clone, dict]) -> None:
    one, verdicts = judged
    selected = {path.split("/")[0] for path in one.records("*/serving.json")}
    for verdict, _ in verdicts.values():
        assert not selected & {*verdict["champion"]["arms"], *verdict["standing"]["arms"]}
    contest = next(record for record in one.records("search/*/contest-*.json").values() if len(record["servings"]) == 6)
    started = [serving["repeats"][0]["started_at"] for serving in contest["servings"]]
    assert contest["order"] == ["champion", "standing", "standing", "champion", "champion", "standing"] and started == sorted(started)
    assert len({serving["context"]["grounding"]["node"] for serving in contest["servings"]}) == 1


def test_an_improvement_is_recorded_once_and_only_with_its_acknowledgement(judged: tuple[Clone, dict], tmp_path: Path) -> None:
    one = Clone(tmp_path / "copy")
    shutil.copytree(judged[0].root, one.root)
    verdict, _ = judged[1]["ahead"]
    ack = ("ack_publish=" + verdict["id"], "publish={lake: lake}")
    wrong = one.snakemake(*FLAGS, "ack_publish=v12345", check=False)
    refusal = f"error: ack_publish = 'v12345' is not the id of this configuration's verdict; read it, and acknowledge {verdict['id']}"
    assert wrong.stdout.strip().splitlines()[-1] == refusal
    for _ in range(2):
        one.snakemake(*FLAGS, *ack)
        for publication in (one.root / "results/search").glob("*/publication-*.json"):
            assert "now holds" in json.loads(publication.read_text())["summary"] or "already has" in publication.read_text()
            publication.unlink()
    (baseline,) = (one.root / "baselines").glob("*.json")
    kept = json.loads(baseline.read_text())
    assert kept["history"] == [] and kept["current"]["verdict"] == verdict["id"]
    assert {name: kept["current"]["point"][name] for name in SOUND} == SOUND
    with contextlib.chdir(one.root):
        query = re.search(r"```sql\n(.*?)```", Path("docs/recording.md").read_text(), re.DOTALL)
        assert query
        rows = duckdb.sql(query.group(1)).fetchall()
    best = pytest.approx(verdict["champion"]["mean"])
    assert rows == [(verdict["context"]["identity"]["model"], "eagle3", 3, best, verdict["champion"]["n"])]
    stands_from_now_on(one, baseline)


def stands_from_now_on(one: Clone, baseline: Path) -> None:
    """The next search takes its standing configuration from the baseline, unless target, data or serving are others."""
    named = f"baseline={baseline.relative_to(one.root)}"
    planned = one.snakemake("--dry-run", *FLAGS, named).stdout
    assert re.search(rf"^gb4-lr{SOUND['lr']}-\S+ +standing ", planned, re.MULTILINE)
    other = one.snakemake("--dry-run", *FLAGS, named, "serving={workload: {output_tokens: 8}}", check=False)
    assert "has another context (asked.workload.output_tokens differ)" in other.stdout.strip().splitlines()[-1]
