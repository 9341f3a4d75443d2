"""What the workflow asks of a bucket, before it asks anything. The bucket itself is real in tests/cluster."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment
from lib.remote import bring_records, carried_files, claimed_home, find_other_home, stream_there

ROOT = Path(__file__).parents[2]


class Unasked:
    """Stands for a bucket that is not to be asked."""

    settings = type("Settings", (), dict.fromkeys(("endpoint_url", "region", "access_key", "secret_key", "token")))

    def pull(self, prefix: str) -> None:
        """Fail."""
        raise AssertionError(prefix)


class Stock:
    """Stands for the storage plugins that keep no records at hand."""


def experiment(**changes: Any) -> Experiment:
    return load_experiment(yaml.safe_load((ROOT / "config/config.yaml").read_text()) | changes)


def test_a_storage_plugin_that_keeps_no_records_at_hand_is_refused() -> None:
    with pytest.raises(UserError, match="must be s3-experiment"):
        bring_records(Stock(), "s3://bucket/run", offline=True, follow=False)


def test_the_files_that_a_configuration_names_go_with_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert carried_files(experiment()) == ["config/spaces/eagle3-draft.yaml"]


@pytest.mark.parametrize("named", ["{outside}/prompts.jsonl", "{inside}/prompts.jsonl"])
def test_a_file_that_other_machines_would_not_find_is_refused(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "work", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "number {number}"}}\n' for number in range(1000)))
    shutil.copytree(ROOT / "config", inside / "config")
    monkeypatch.chdir(inside)
    path = named.format(outside="../elsewhere", inside=inside)
    with pytest.raises(UserError, match=rf"features.prompts = .*prompts.jsonl: jobs on other machines are sent what lies below {inside}"):
        carried_files(experiment(features={"prompts": path}))


def test_states_are_streamed_beside_the_results_unless_a_configuration_says_where() -> None:
    for given, expected in (({}, "s3://b/run.streams"), ({"streaming": {"url": "s3://mine/x"}}, "s3://mine/x")):
        values = dict(given)
        stream_there(values, "s3://b/run/.")
        assert values["streaming"]["url"] == expected


def test_the_results_of_one_place_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    here, there, elsewhere = None, "s3://b/run1/.", "s3://b/run2/."
    assert find_other_home(tmp_path / "fresh", there) is None
    assert not (tmp_path / "fresh").exists(), "a dry run writes nothing"
    with pytest.raises(UserError, match="no keys"), claimed_home(tmp_path / "fresh", there):
        raise UserError("no keys")
    assert not list((tmp_path / "fresh").iterdir()), "a place that is refused leaves no mark"
    for _ in range(2):
        with claimed_home(tmp_path / "fresh", there):
            pass
    for other in (here, elsewhere):
        refused = pytest.raises(UserError, match=r"is of s3://b/run1/\., this run is of .*; use another clone, or move it away")
        with refused, claimed_home(tmp_path / "fresh", other):
            pass
    (tmp_path / "laptop/search/s0-a").mkdir(parents=True)
    assert find_other_home(tmp_path / "laptop", there) is None
    (tmp_path / "laptop/search/s0-a/rung0.json").write_text("{}")
    with claimed_home(tmp_path / "laptop", here):
        pass
    with (
        pytest.raises(UserError, match="is of runs on this disk alone, this run is of s3://b/run1"),
        claimed_home(tmp_path / "laptop", there),
    ):
        pass
    assert not (tmp_path / "laptop/bucket.txt").exists()


@pytest.mark.parametrize("name", ["results", "resources"])
def test_a_folder_that_is_a_link_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(tmp_path.parent)
    with pytest.raises(UserError, match=f"^{name} is a link, .* make it a folder$"):
        bring_records(Unasked(), "s3://b/run1/.", offline=False, follow=False)


def test_a_prefix_without_a_folder_is_refused() -> None:
    for prefix in ("s3:///spec-decode-tune//.", "s3://b/.", "s3://b//."):
        with pytest.raises(UserError, match="names no folder of a bucket"):
            bring_records(Unasked(), prefix, offline=False, follow=False)
