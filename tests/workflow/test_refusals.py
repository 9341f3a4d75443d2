"""Bad input ends the run at once, in one line, with nothing written.

What is refused is tested in `tests/unit/test_bad_input.py`. One row of each kind goes through a whole run here.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lib.records import layout
from lib.search.decisions import places

from tests.workflow.clones import Clone, clone, jobs


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing ever runs."""
    return clone(tmp_path_factory.mktemp("fresh"))


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


def test_a_key_that_is_named_twice_is_refused(fresh: Clone, tmp_path: Path) -> None:
    """Snakemake itself takes the last, of a file and of the command line."""
    twice, once = tmp_path / "twice.yaml", "training={ranks: 1, ranks: 2}"
    twice.write_text("seed: 1\nseed: 2\n")
    for arguments, line in (
        (("--configfile", str(twice)), f"error: {twice}: not YAML (line 2: key 'seed' is repeated); correct it"),
        (("--config", once), "error: --config training='{ranks: 1, ranks: 2}': not YAML (line 1: key 'ranks' is repeated); correct it"),
    ):
        refused = Clone(fresh.root, small=False).snakemake("--dry-run", *arguments, check=False)
        assert (refused.returncode, refused.stdout.strip().splitlines()[-1]) == (1, line)


def test_the_module_of_another_workflow_is_refused(fresh: Clone, tmp_path: Path) -> None:
    shutil.copytree(fresh.root / "config", tmp_path / "config")
    (tmp_path / "Snakefile").write_text(f"module tune:\n    snakefile: {str(fresh.root / 'Snakefile')!r}\nuse rule * from tune\n")
    refused = Clone(tmp_path, small=False).snakemake("--dry-run", "--cores", "1", check=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stdout
    assert "this workflow cannot be a module; start it in its clone" in refused.stdout


def test_an_empty_configuration_is_the_shipped_one(fresh: Clone, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("{}")
    planned = Clone(fresh.root, small=False).snakemake("--dry-run", "--configfile", str(tmp_path / "empty.yaml"))
    assert "Plan of search " in planned.stdout


def test_what_a_message_tells_to_delete_is_made_again(finished: Clone, tmp_path: Path) -> None:
    """Records are spoiled, and the messages are followed to the letter."""
    one = clone(tmp_path / "spoiled", adopt=finished, results=True)
    search = one.experiment().search
    first, top = layout.decision(*places(search)[0]), search.top_rung
    decided = (one.root / first).read_bytes()

    def dry_run() -> str:
        return one.snakemake("--dry-run", check=False).stdout

    def ledger() -> str:
        command = [sys.executable, "scripts/ledger.py"]
        return subprocess.run(command, cwd=one.root, stderr=subprocess.PIPE, text=True, check=False).stderr

    for path, say in (
        (first, dry_run),
        (one.champion(), dry_run),
        (layout.serving(search.standing.id), ledger),  # a ledger reads those of arms that have trained
        (layout.acc(search.standing.id, top), ledger),
    ):
        (one.root / path).write_text("[]")
        said = say().strip().splitlines()[-1]
        told = re.fullmatch(r"error: (\S+): .*; delete the file, and the next run makes it again", said)
        assert told and told[1] == path, said
        (one.root / path).unlink()
        if path == first:
            one.snakemake(first)
            assert (one.root / first).read_bytes() == decided
    assert jobs(dry_run()).keys() >= {"choose_champion", "train_rung", "measure_serving"}


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
