"""Checks that need no request to the bucket. tests/cluster uses a real bucket."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from lib.config import Streaming
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment
from lib.remote import bring_records, carried_files, claim_home, find_other_home, require_folder, stream_there

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
    template = "tests/unit/features/templates.py"  # any file
    assert carried_files(experiment(features={"chat_template": template})) == ["config/spaces/eagle3-draft.yaml", template]


@pytest.mark.parametrize("named", ["{outside}/prompts.jsonl", "{inside}/prompts.jsonl"])
def test_a_file_that_other_machines_would_not_find_is_refused(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "work", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "number {number}"}}\n' for number in range(1000)))
    shutil.copytree(ROOT / "config", inside / "config")
    monkeypatch.chdir(inside)
    path = named.format(outside="../elsewhere", inside=inside)
    with pytest.raises(UserError, match=rf"features.prompts = .*prompts.jsonl: jobs on other machines only get files below {inside}"):
        carried_files(experiment(features={"prompts": path}))


def test_states_are_streamed_beside_the_results_unless_a_configuration_says_where() -> None:
    for given, expected in ((None, "s3://b/run.streams"), ("s3://mine/x", "s3://mine/x")):
        assert stream_there(Streaming(url=given), "s3://b/run/.").url == expected


def test_the_results_of_one_place_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    here, there, elsewhere = None, "s3://b/run1/.", "s3://b/run2/."
    assert find_other_home(tmp_path / "fresh", there) is None
    assert not (tmp_path / "fresh").exists(), "a dry run writes nothing"
    for place in (elsewhere, here, there, there):  # nothing has come from there, so the run may be corrected
        claim_home(tmp_path / "fresh", place)
    (tmp_path / "fresh/plan.json").write_text("{}")
    for other in (here, elsewhere):
        with pytest.raises(UserError, match=r"belongs to s3://b/run1/\., this run to .*; use another clone, or move it away"):
            claim_home(tmp_path / "fresh", other)
    (tmp_path / "laptop/search/s0-a").mkdir(parents=True)
    assert find_other_home(tmp_path / "laptop", there) is None
    (tmp_path / "laptop/search/s0-a/rung0.json").write_text("{}")
    claim_home(tmp_path / "laptop", here)
    with pytest.raises(UserError, match="belongs to runs on this disk only, this run to s3://b/run1"):
        claim_home(tmp_path / "laptop", there)
    assert not (tmp_path / "laptop/bucket.txt").exists()


@pytest.mark.parametrize("name", ["results", "resources"])
def test_a_folder_that_is_a_link_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(tmp_path.parent)
    with pytest.raises(UserError, match=f"^{name} is a link, .* make it a folder$"):
        bring_records(Unasked(), "s3://b/run1/.", offline=False, follow=False)


def test_a_prefix_without_a_folder_is_refused() -> None:
    """As that of a profile without a bucket or a run id."""
    for prefix in ("s3:///spec-decode-tune/a/.", "s3://b/spec-decode-tune//.", "s3://b/.", "s3://b//."):
        with pytest.raises(UserError, match="names no folder of a bucket"):
            require_folder(prefix)
    require_folder("s3://b/spec-decode-tune/a/.")
