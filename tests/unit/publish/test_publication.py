"""An improvement is recorded once, and nothing else is recorded."""

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from lib.config import Publish
from lib.publish.baseline import read_baseline
from lib.publish.publication import baseline_key, publish, would_publish
from lib.verdict.contest import make_contest

from tests.s3 import S3Server, s3_server  # noqa: F401 - a fixture
from tests.unit.verdict.test_verdict import CHAMPION, STANDING, measured, verdict

AHEAD, LEVEL = ([2.5, 2.52, 2.51], [2.0, None, 1.99]), ([2.0, 2.01, 1.99], [2.0, 2.01, 1.99])


def recorded(sides: tuple[list, list], folder: Path, lake: str | None = None) -> dict:
    contest = make_contest(CHAMPION, STANDING, 3, "s")
    options = Publish(baselines=str(folder / "baselines"), lake=lake or str(folder / "lake"))
    given = verdict(*sides)
    said = would_publish(given, options)
    done = publish(given, measured(contest, *sides), list(contest.arms.values()), options)
    assert done["published"] == ("ack_publish=v" in said)
    return done


def test_an_improvement_is_the_new_baseline_and_its_sound_measurements_are_in_the_lake_however_often_it_is_recorded(tmp_path: Path) -> None:
    first, second = recorded(AHEAD, tmp_path), recorded(AHEAD, tmp_path)
    assert f"now holds the champion of verdict {first['verdict']}; 5 measurements are in" in first["summary"]
    assert f"already has verdict {first['verdict']}; 5 measurements are in" in second["summary"]
    baseline = read_baseline(Path(first["baseline"]))
    assert baseline.current["point"]["lr"] == CHAMPION.point.lr and baseline.history == []
    assert Path(first["baseline"]).stem == baseline.key == baseline_key(verdict(*AHEAD))
    assert "head" not in json.dumps(baseline.context) and "grounding" not in baseline.context
    first_seed = make_contest(CHAMPION, STANDING, 3, "s").champion[0].seed
    rows = ds.dataset(tmp_path / "lake", partitioning="hive").to_table().to_pylist()
    assert sorted((row["role"], row["seed"], row["acceptance_length"]) for row in rows) == [
        ("champion", first_seed, 2.5),
        ("champion", first_seed + 1, 2.52),
        ("champion", first_seed + 2, 2.51),
        ("standing", first_seed, 2.0),
        ("standing", first_seed + 2, 1.99),
    ]
    assert {(row["target"], row["draft_kind"], row["hardware"], row["isl"], row["osl"]) for row in rows} == {
        ("tiny-llama", "eagle3", "cpu", 32.0, 64)
    }


def test_the_lake_may_be_in_a_bucket(tmp_path: Path, s3_server: S3Server) -> None:  # noqa: F811
    for summary in ("now holds", "already has"):
        done = recorded(AHEAD, tmp_path, s3_server.store.url("lake"))
        assert summary in done["summary"] and "5 measurements are in s3://bucket/lake" in done["summary"]
        assert sorted(s3_server.store.read()) == sorted(f"lake/{file}" for file in done["lake"])


@pytest.mark.parametrize("sides", [LEVEL, (AHEAD[1], AHEAD[0]), ([2.5, None, None], AHEAD[1])], ids=["level", "regression", "too few"])
def test_nothing_else_is_recorded(tmp_path: Path, sides: tuple[list, list]) -> None:
    done = recorded(sides, tmp_path)
    assert done["published"] is False and "Nothing recorded: the outcome is" in done["summary"]
    assert not list(tmp_path.iterdir())
