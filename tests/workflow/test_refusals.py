"""Bad input ends the run at once, in one line, with nothing written."""

import shutil
from pathlib import Path

import pytest

from tests.workflow.clones import Clone, clone


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing ever runs."""
    return clone(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trainig={ranks: 1}"], "error: configuration: unknown key 'trainig'; did you mean 'training'?"),
        (["training={ranks: 3}"], "error: standing: global batch 8 is not a multiple of 3 ranks; change standing or training"),
        (["space=absent.yaml"], "error: space = 'absent.yaml': no such file; name a YAML file, such as those of config/spaces/"),
        (["target={path: absent}"], "error: target.path=absent is not a directory; give a local Hugging Face model directory"),
        (["features={prompts: absent.jsonl}"], "error: features.prompts=absent.jsonl"),
        (["features={dataset: absent}"], "error: configuration: features.dataset holds the hidden states of one target; name it with"),
        (
            ["features={dataset: absent, prompts: x}"],
            "error: configuration: features: prompts and dataset are both given; name one of them",
        ),
        (["verdict={seeds: 1}"], "error: configuration: verdict: seeds = 1 tells nothing of the scatter between trainings; set at least 2"),
        (["serving={workload: {path: absent}}"], "error: serving.workload.path=absent does not exist; give a .jsonl file of prompts"),
        (["serving={sol_ceiling: B9000}"], "error: serving.sol_ceiling = 'B9000' is not in config/sol-ceilings.yaml, which knows H100"),
        (["serving={sol_ceiling: GB300}"], "error: serving.sol_ceiling = 'GB300': with serving.workload.concurrency = 8 decoding is not"),
        (["baseline=absent.json"], "error: absent.json: no such file; name a file that a verdict promoted"),
        (["publish={lake: README.md}"], "error: publish.lake = "),
        (["publish={lake: nope://x}"], "error: publish.lake = 'nope://x' is neither a local path nor the URL of a bucket; write"),
        (["publish={lake: 's3://AKIA:hush/4711@bucket/lake'}"], "error: publish.lake holds a password or a key in its URL"),
        (["publish=https://me:hush4711@host/lake"], "error: configuration: publish = 'https://***@host/lake' is a single value"),
        (["ack_publish=v12345"], "error: ack_publish = 'v12345', but this configuration has no verdict yet; run without it first"),
        (["target=/models/mine"], "error: configuration: target = '/models/mine' is a single value; write {key: value}"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_any_work(fresh: Clone, arguments: list[str], line: str) -> None:
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
def test_a_head_that_does_not_fit_the_target_is_refused(fresh: Clone, change: dict[str, object], line: str) -> None:
    space = fresh.root / "tests/configs/small-space.yaml"
    kept = space.read_text()
    try:
        fresh.configure("tests/configs/small-space.yaml", draft=change)
        refused = fresh.snakemake(check=False)
    finally:
        space.write_text(kept)
    assert refused.returncode == 1
    assert line in refused.stdout.strip().splitlines()[-1]


def test_a_missing_engine_is_refused_before_any_work(fresh: Clone, tmp_path: Path) -> None:
    """Without vLLM on the path nothing is trained that could not be measured."""
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'vllm' else found(name, package)\n"
    )
    refused = fresh.snakemake(check=False, prefix=("env", f"PYTHONPATH={tmp_path}"))
    assert "error: vLLM is not installed here" in refused.stdout.strip().splitlines()[-1]
    shutil.rmtree(fresh.root / "results", ignore_errors=True)
