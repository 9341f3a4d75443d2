"""The search that the benchmark of the dry run files is one that the workflow reads."""

from pathlib import Path

import pytest
import yaml
from lib.experiment import load_experiment
from lib.records.measurement import ProxyRecord, read_record
from lib.report.plan import make_plan

from benchmarks.dry_run.run import file_search

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("whole", [False, True])
def test_the_filed_search_is_read_as_begun_or_as_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(yaml.safe_load(Path("config/config.yaml").read_text()))
    file_search(tmp_path, experiment.search, whole=whole)
    assert len(make_plan(experiment, tmp_path)["arms"]) == sum(bracket.sizes[0] for bracket in experiment.search.brackets)
    trained = [read_record(path, ProxyRecord) for path in tmp_path.glob("results/*/rung*.acc")]
    assert bool(trained) is whole and all(record.status == "ok" for record in trained)
