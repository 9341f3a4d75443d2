"""Bad input ends the run at once, in one line, with nothing written.

What is refused is tested in process, as Snakemake's command line hands it on. One row of each kind goes through a whole run.
"""

import contextlib
import shutil
from pathlib import Path

import pytest
import yaml
from lib.errors import UserError
from lib.experiment import load_experiment
from snakemake.cli import parse_config
from snakemake.utils import update_config

from tests.workflow.clones import ROOT, Clone, clone


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing ever runs."""
    return clone(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trainig={ranks: 1}"], "configuration: unknown key 'trainig'; did you mean 'training'?"),
        (["training={ranks: 3}"], "standing: global batch 8 is not a multiple of 3 ranks; change standing or training"),
        (["space=absent.yaml"], "space = 'absent.yaml': no such file; name a YAML file, such as those of config/spaces/"),
        (["target={path: absent}"], "target.path=absent is not a directory; give a local Hugging Face model directory"),
        (["features={prompts: absent.jsonl}"], "features.prompts=absent.jsonl"),
        (["features={dataset: absent}"], "configuration: features.dataset holds the hidden states of one target; name it with"),
        (
            ["features={dataset: absent, prompts: x}"],
            "configuration: features: prompts and dataset are both given; name one of them",
        ),
        (["verdict={seeds: 1}"], "configuration: verdict: seeds = 1 tells nothing of the scatter between trainings; set at least 2"),
        (["serving={workload: {path: absent}}"], "serving.workload.path=absent does not exist; give a .jsonl file of prompts"),
        (["serving={sol_ceiling: B9000}"], "serving.sol_ceiling = 'B9000' is not in config/sol-ceilings.yaml, which knows H100"),
        (["serving={sol_ceiling: GB300}"], "serving.sol_ceiling = 'GB300': with serving.workload.concurrency = 8 decoding is not"),
        (["baseline=absent.json"], "absent.json: no such file; name a file that a verdict promoted"),
        (["publish={lake: README.md}"], "publish.lake = "),
        (["publish={lake: nope://x}"], "publish.lake = 'nope://x' is neither a local path nor the URL of a bucket; write"),
        (["publish={lake: 's3://AKIA:hush/4711@bucket/lake'}"], "publish.lake holds a password or a key in its URL"),
        (["publish=https://me:hush4711@host/lake"], "configuration: publish = 'https://***@host/lake' is a single value"),
        (["target=/models/mine"], "configuration: target = '/models/mine' is a single value; write {key: value}"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], line: str) -> None:
    values = yaml.safe_load((ROOT / "tests/configs/small.yaml").read_text())
    update_config(values, parse_config(arguments))
    with contextlib.chdir(ROOT), pytest.raises(UserError) as refusal:
        load_experiment(values)
    assert str(refusal.value).startswith(line) and "\n" not in str(refusal.value) and "4711" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ack_publish=v12345"], "error: ack_publish = 'v12345', but this configuration has no verdict yet; run without it first"),
        (["publish={lake: 's3://AKIA:hush/4711@bucket/lake'}"], "error: publish.lake holds a password or a key in its URL"),
    ],
)
def test_a_run_with_bad_input_ends_in_one_line_before_any_work(fresh: Clone, arguments: list[str], line: str) -> None:
    refused = fresh.snakemake("--config", *arguments, check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stdout and "4711" not in refused.stdout
    assert refused.stdout.strip().splitlines()[-1].startswith(line)
    assert not (fresh.root / "results").exists()
    assert not [path for path in (fresh.root / ".snakemake").rglob("*") if path.is_file() and b"4711" in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"draft_vocab_size": 4096}, "draft.draft_vocab_size = 4096 is larger than the target's vocabulary of 512"),
        ({"aux_layers": [1, 2, 4]}, "draft.aux_layers = 4 is outside the target's layers 0 to 3"),
        ({"aux_layers": [1, 1, 2]}, "draft.aux_layers = [1, 1, 2] repeat; list each layer once"),
    ],
)
def test_a_head_that_does_not_fit_the_target_is_refused(tmp_path: Path, change: dict[str, object], line: str) -> None:
    values = yaml.safe_load((ROOT / "tests/configs/small.yaml").read_text())
    space = yaml.safe_load((ROOT / values["space"]).read_text())
    space["draft"] |= change
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with contextlib.chdir(ROOT), pytest.raises(UserError) as refusal:
        load_experiment(values | {"space": str(tmp_path / "space.yaml")})
    assert line in str(refusal.value)


def test_a_configuration_file_that_names_a_key_twice_is_refused(fresh: Clone, tmp_path: Path) -> None:
    """Snakemake itself takes the last."""
    twice = tmp_path / "twice.yaml"
    twice.write_text("seed: 1\nseed: 2\n")
    refused = Clone(fresh.root, small=False).snakemake("--dry-run", "--configfile", str(twice), check=False)
    assert refused.returncode == 1
    assert refused.stdout.strip().splitlines()[-1] == f"error: {twice}: not YAML (line 2: key 'seed' stands twice); correct it"


def test_a_missing_engine_is_refused_before_any_work(fresh: Clone, tmp_path: Path) -> None:
    """Without vLLM on the path nothing is trained that could not be measured."""
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'vllm' else found(name, package)\n"
    )
    refused = fresh.snakemake(check=False, variables={"PYTHONPATH": str(tmp_path)})
    assert "error: vLLM is not installed here" in refused.stdout.strip().splitlines()[-1]
    shutil.rmtree(fresh.root / "results", ignore_errors=True)
