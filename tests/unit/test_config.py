"""Bad configuration gets one line that names the key, the value and the cure."""

from pathlib import Path

import pytest
import yaml
from lib.config import Config, Space, load_space, parse_config, schema
from lib.errors import UserError
from lib.search.priors import PriorFile
from lib.section import Section

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "config/spaces").glob("*.yaml"))


def spoiled(tmp_path: Path, keys: str, value: object) -> Path:
    """Write the shipped EAGLE3 space with one key set to `value`, or removed when it is Ellipsis."""
    space = yaml.safe_load((ROOT / "config/spaces/eagle3-draft.yaml").read_text())
    *sections, last = keys.split(".")
    section = space
    for name in sections:
        section = section[name]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    return path


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_spaces_are_valid(path: Path) -> None:
    load_space(path)


def spelled_out(values: dict[str, object], section: Section) -> str | None:
    """Return the first key of a section that `values` lacks, None where it lacks none."""
    for key, value in section:
        if key not in values:
            return key
        if isinstance(value, Section) and (missing := spelled_out(values[key], value)):
            return f"{key}.{missing}"
    return None


def test_shipped_configuration_is_the_models_defaults() -> None:
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert parse_config(values) == Config()
    assert spelled_out(values, Config()) is None, "config/config.yaml must spell out every key"


@pytest.mark.parametrize(("model", "file"), [(Config, "schema.json"), (Space, "schema-space.json"), (PriorFile, "schema-prior-arms.json")])
def test_published_schemas_are_the_models(model, file) -> None:
    assert (ROOT / "config" / file).read_text() == schema(model), "run `make schema`"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"trainig": {}}, "configuration: unknown key 'trainig'; did you mean 'training'?"),
        ({"training": {"rank": 1}}, "configuration: unknown key 'training.rank'; did you mean 'ranks'?"),
        ({"training": {"ranks": 0}}, "configuration: training.ranks = 0: input should be greater than or equal to 1; correct it"),
        ({"budget": {"samples": 0}}, "configuration: budget.samples = 0: input should be greater than or equal to 1; correct it"),
        ({"search": {"arm": 3}}, "configuration: unknown key 'search.arm'; did you mean 'arms'?"),
        (
            {"serving": {"max_model_len": 70}},
            "configuration: serving.max_model_len = 70 is shorter than features.prompt_tokens + serving.workload.output_tokens = 96; "
            "raise it",
        ),
        ({"verdict": {"seeds": 1}}, "configuration: verdict: seeds = 1 cannot estimate the noise between trainings; set at least 2"),
        ({"seed": 1000}, "configuration: seed = 1000: input should be less than 1000; correct it"),
        ({"target": {"tiny": {"hidden": 100}}}, "configuration: target.tiny: hidden / heads must be 32 or 64, not 100 / 2; correct it"),
    ],
)
def test_bad_configuration_gets_one_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(values)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        ("parameters.lr", [1e-3, 0], "parameters: lr = 0 must be above 0; correct it"),
        ("parameters.lr", [-1e-3], "parameters: lr = -0.001 must be above 0; correct it"),
        ("parameters.lr", {"low": 0, "high": 1, "scale": "log"}, "parameters.lr: low = 0 must be above 0 on a log scale; correct it"),
        ("parameters.lr", {"low": 2, "high": 1, "scale": "log"}, "parameters.lr: low = 2 must be below high = 1; correct it"),
        ("parameters.lr", [float("nan")], "parameters.lr.0 = nan: input should be a finite number; correct it"),
        ("parameters.lr", [], "parameters.lr is empty; name at least one value"),
        ("parameters.lr", [1e-3, 1e-3], "parameters.lr: values [0.001, 0.001] repeat; list each once"),
        ("parameters.lr", ..., "parameters.lr is missing; add it"),
        ("parameters.momentum", [0.9], "unknown key 'parameters.momentum'; known here: global_batch, lr, warmup, accum, weight_decay"),
        ("parameters.warmup", [1.0], "parameters: warmup = 1 must be a share of the horizon, at least 0 and below 1; correct it"),
        ("parameters.global_batch", [2.5], "parameters: global_batch = 2.5 must be a whole number of at least 1; correct it"),
        ("rungs.eta", 1, "rungs.eta = 1: input should be greater than or equal to 2; correct it"),
        ("rungs.samples", [64, 64], "rungs: samples = [64, 64] must rise from rung to rung; correct it"),
        ("rungs.samples", [], "rungs.samples is empty; name at least one value"),
        ("standing.lr", 0, "standing.lr = 0: input should be greater than 0; correct it"),
        ("standing.lr", "fast", "standing.lr = 'fast': input should be a valid number, unable to parse string as a number; correct it"),
        ("draft.method", "medusa", "draft.method = 'medusa': input should be 'dflash' or 'eagle3'; correct it"),
        ("draft.method", ..., "draft.method is missing; add it"),
        ("draft", "eagle3", "draft = 'eagle3' is a single value; write {key: value}"),
        ("draft.layer", 2, "unknown key 'draft.layer'; did you mean 'layers'?"),
        ("draft.ttt_steps", 0, "draft.ttt_steps = 0: input should be greater than or equal to 1; correct it"),
        ("draft.block_size", 8, "draft: block_size = 8 is not read by method = 'eagle3'; remove it"),
    ],
)
def test_bad_space_gets_one_line(tmp_path: Path, keys: str, value: object, line: str) -> None:
    path = spoiled(tmp_path, keys, value)
    with pytest.raises(UserError) as error:
        load_space(path)
    assert str(error.value) == f"{path}: {line}"


@pytest.mark.parametrize("empty", ["", "null", None])
def test_an_empty_key_of_the_command_line_is_empty(empty: str | None) -> None:
    config = parse_config({"serving": {"kv_cache_gib": empty}, "search": {"arms": empty}, "seed_from": empty})
    assert (config.serving.kv_cache_gib, config.search.arms, config.seed_from) == (None, None, None)


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as a string; a user means a number."""
    path = spoiled(tmp_path, "parameters.lr", ["1e-3", "3e-3"])
    assert load_space(path).parameters.lr.model_dump() == {"values": (1e-3, 3e-3)}
