"""A target and a data set that only jobs mount: described once, known by the manifest, and checked against it in jobs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset
from lib.config import parse_config
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment
from lib.features.description import Description, describe, fingerprints, require_described
from lib.report.plan import format_plan, make_plan
from lib.serving.bench import engine_settings
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.usefixtures("at_the_root")


@pytest.fixture
def volume(tmp_path: Path, hollow_target: Path) -> Path:
    """A mounted volume with a target, a data set for it and one row of states each."""
    folder = tmp_path / "volume"
    folder.mkdir()
    hollow_target.rename(folder / "model")
    rows = [[index, 7, 8, 9] for index in range(6)]
    Dataset.from_dict({"input_ids": rows, "loss_mask": [[0, 0, 1, 1]] * 6, "seq_len": [4] * 6}).save_to_disk(folder / "data")
    (folder / "data/hidden_states").mkdir()
    for index, row in enumerate(rows):
        states = {"hidden_states": np.zeros((4, 4, 64), np.float32), "token_ids": np.array(row)}
        save_file(states, folder / f"data/hidden_states/hs_{index}.safetensors")
    return folder


@pytest.fixture
def values(volume: Path, tmp_path: Path) -> dict[str, Any]:
    """A configuration of both, which names no manifest."""
    (tmp_path / "workload.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    return {
        "target": {"path": str(volume / "model")},
        "features": {"dataset": str(volume / "data"), "train_prompts": 4, "heldout_prompts": 2},
        "serving": {"workload": {"path": str(tmp_path / "workload.jsonl")}},
    }


@pytest.fixture
def manifest(values: dict[str, Any], tmp_path: Path) -> Path:
    """What scripts/describe.py prints, saved as a file."""
    configuration = tmp_path / "mine.yaml"
    configuration.write_text(yaml.safe_dump(values | {"manifest": str(tmp_path / "manifest.json")}))
    command = [sys.executable, "scripts/describe.py", "--configfile", str(configuration)]
    (tmp_path / "manifest.json").write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return tmp_path / "manifest.json"


def names(experiment: Experiment) -> tuple[str, ...]:
    return experiment.target, experiment.model, experiment.features, experiment.search.id


def test_a_manifest_takes_the_place_of_target_and_data_set(volume: Path, values: dict[str, Any], manifest: Path) -> None:
    looked_up = load_experiment(values)
    unmount(volume)
    told = load_experiment(values | {"manifest": str(manifest)})
    assert names(told) == names(looked_up) and told.provisional == ()
    with pytest.raises(UserError, match=r"target\.path=.* is not a directory"):
        load_experiment(values)


def unmount(volume: Path) -> None:
    volume.rename(volume.with_name("unmounted"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"serving": {"max_model_len": 1024}}, "serving.max_model_len = 1024 is more than the target's 512 positions"),
        ({"features": {"train_prompts": 5}}, "holds 6 rows, but features.train_prompts + heldout_prompts = 7"),
        (
            {"space": {"method": "dflash", "aux_layers": [1, 2]}},
            "holds 4 layers per token, but draft.aux_layers asks for [1, 2] and the last one, 3",
        ),
        ({"space": {"draft_vocab_size": 600}}, "draft.draft_vocab_size = 600 is larger than the target's vocabulary of 512"),
    ],
)
def test_what_does_not_fit_what_is_described_is_refused(
    volume: Path, values: dict[str, Any], manifest: Path, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    unmount(volume)
    space = yaml.safe_load(Path("config/spaces/eagle3-draft.yaml").read_text())
    space["draft"] |= change.get("space", {})
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    changed = {section: values[section] | change.get(section, {}) for section in values}
    with pytest.raises(UserError) as refusal:
        load_experiment(changed | {"manifest": str(manifest), "space": str(tmp_path / "space.yaml")})
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_ceiling_is_refused_for_a_target_that_is_described_with_experts(volume: Path, values: dict[str, Any], manifest: Path) -> None:
    unmount(volume)
    workload = values["serving"]["workload"] | {"concurrency": 1}
    asked = values | {"manifest": str(manifest), "serving": {"sol_ceiling": "GB300", "workload": workload}}
    assert load_experiment(asked)
    spoil(lambda content: content["target"].update(dense=False))(manifest)
    with pytest.raises(UserError, match=r"serving\.sol_ceiling = 'GB300': the target .*/model has experts that a step reads only in part"):
        load_experiment(asked)


def spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoiled(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoiled


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "no such file"),
        (lambda path: path.write_text(path.read_text()[:-20]), "not JSON"),
        (spoil(lambda content: content.pop("target")), "is not what scripts/describe.py prints (target: Field required)"),
        (spoil(lambda content: content["target"]["facts"].pop("num_layers")), "(target.facts.num_layers: Field required)"),
        (spoil(lambda content: content["dataset"]["facts"].update(rows="many")), "(dataset.facts.rows: Input should be a valid integer"),
        (spoil(lambda content: content["target"].update(path="/models/other")), "describes target.path = '/models/other', not '"),
        (spoil(lambda content: content["dataset"].update(path="/data/other")), "describes features.dataset = '/data/other', not '"),
        (spoil(lambda content: content.update(dataset=None)), "describes features.dataset = None, not '"),
    ],
)
def test_a_manifest_that_is_not_whole_or_of_something_else_is_refused_in_one_line(
    values: dict[str, Any], manifest: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(manifest)
    with pytest.raises(UserError) as refusal:
        load_experiment(values | {"manifest": str(manifest)})
    line = str(refusal.value)
    assert says in line and str(manifest) in line and "\n" not in line
    assert line.endswith("run python scripts/describe.py --configfile <yours> where they are mounted, and save what it prints there")


def test_a_model_whose_own_code_would_run_is_refused_in_one_line_unless_it_is_trusted(
    volume: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    config = json.loads((volume / "model/config.json").read_text())
    (volume / "model/config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.EvilConfig"}}))
    described = describe(parse_config(values))
    (tmp_path / "manifest.json").write_text(described.model_dump_json())
    for source in ({}, {"manifest": str(tmp_path / "manifest.json")}):
        with pytest.raises(UserError) as refusal:
            load_experiment(values | source)
        line = str(refusal.value)
        assert line.startswith(f"target.path={volume}/model: config.json names code in the model directory (auto_map);")
        assert "set target.trust_remote_code to true" in line and "\n" not in line
        trusted = load_experiment(values | source | {"target": values["target"] | {"trust_remote_code": True}})
        assert engine_settings(trusted.asked).trust_remote_code
        plan = format_plan(make_plan(trusted, tmp_path))
        assert f"Jobs run code from the model directory {volume}/model, because target.trust_remote_code is true" in plan


def test_what_is_mounted_is_held_to_the_manifest(volume: Path, values: dict[str, Any], manifest: Path) -> None:
    told = fingerprints(parse_config(values | {"manifest": str(manifest)}))
    of_target = {key: fact for key, fact in told.items() if key == "target.path"}
    require_described(told)
    states = volume / "data/hidden_states/hs_2.safetensors"
    save_file(load_file(states) | {"hidden_states": np.ones((4, 4, 64), np.float32)}, states)
    require_described(of_target)
    with pytest.raises(UserError, match=r"features\.dataset=\S*/data is \w{12}, but the manifest describes \w{12}; restore it, or run"):
        require_described(told)
    save_file({"lm_head.weight": np.ones((512, 64), np.float32)}, volume / "model/model.safetensors")
    assert fingerprints(parse_config(values)) == {}, "without a manifest names follow what is there"
    with pytest.raises(UserError, match=r"target\.path=\S*/model is \w{12}, but the manifest describes \w{12}; restore it, or run"):
        require_described(of_target)
    unmount(volume)
    with pytest.raises(UserError, match=r"target\.path=\S*/model is not a directory"):
        require_described(of_target)


def test_a_plan_may_be_made_where_nothing_is_mounted(volume: Path, values: dict[str, Any], tmp_path: Path) -> None:
    known = load_experiment(values, provisional=True)
    assert names(known) == names(load_experiment(values)) and known.provisional == ()
    unmount(volume)
    plan = load_experiment(values, provisional=True)
    end = "is not on this machine and not described: arm ids of this plan are provisional"
    assert plan.provisional == (f"target.path={volume}/model {end}", f"features.dataset={volume}/data {end}")
    assert plan.search.id != known.search.id and plan.model == "model"
    later = load_experiment(values | {"manifest": str(tmp_path / "later.json"), "seed_from": "none.json"}, provisional=True)
    assert names(later) == names(plan)
    assert later.provisional[0].startswith(
        f"manifest={tmp_path}/later.json is not written yet: arm ids of this plan are provisional; run python"
    )
    assert later.provisional[1].startswith("seed_from=none.json is not used in this plan")


def test_a_plan_still_refuses_what_is_there_and_broken(volume: Path, values: dict[str, Any], manifest: Path) -> None:
    (volume / "model/tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_experiment(values, provisional=True)
    manifest.write_text("{}")
    with pytest.raises(UserError, match=r"is not what scripts/describe\.py prints"):
        load_experiment(values | {"manifest": str(manifest)}, provisional=True)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{}", "error: target.path is empty, so there is nothing to describe; name a model"),
        ("target: {path: absent}", "error: target.path=absent is not a directory; give a local Hugging Face model directory"),
        ("trainig: {}", "error: configuration: unknown key 'trainig'; did you mean 'training'?"),
        ("- a", "holds no keys; name a YAML file of keys"),
        ("a: [", "not YAML (line 1)"),
    ],
)
def test_describing_what_is_not_there_is_refused_in_one_line(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    command = [sys.executable, "scripts/describe.py", "--configfile", "config/config.yaml", str(tmp_path / "mine.yaml")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert line in refused.stderr and refused.stderr.startswith("error: ") and len(refused.stderr.splitlines()) == 1


def test_the_description_round_trips(values: dict[str, Any]) -> None:
    described = describe(parse_config(values))
    assert Description.model_validate_json(described.model_dump_json()) == described
