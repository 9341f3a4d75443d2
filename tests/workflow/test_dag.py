"""Our changes to Snakemake's job graph, on workflows of a few seconds, and the Snakemake faults behind them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.clones import ROOT

MOVED = "Snakemake no longer behaves as docs/upstream/ says: look whether lib/dag.py and its row in docs/architecture.md are still needed"

MENDS = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "scripts")!r})
from lib.dag import let_stand, require_made, retry_always
from lib.controller import refuse
onsuccess:
    with refuse():
        require_made(workflow)
"""


def report(name: str) -> str:
    """Return the workflow of a report under docs/upstream/."""
    found = re.search(r"```snakemake\n(.*?)```", (ROOT / f"docs/upstream/{name}.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def snakemake(folder: Path, snakefile: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a workflow in a folder; both streams are `stdout`."""
    (folder / "Snakefile").write_text(snakefile)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--scheduler", "greedy", *arguments]
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


@pytest.mark.parametrize(("name", "lost"), [("retry-forgotten", "flaky.txt"), ("ancient-drops-dependants", "b.txt")])
def test_snakemake_by_itself_ends_early_with_success_and_the_net_does_not(name: str, lost: str, tmp_path: Path) -> None:
    done = snakemake(tmp_path, report(name), "--keep-going")
    assert (done.returncode, (tmp_path / lost).exists()) == (0, False), f"{MOVED}\n{done.stdout}"
    again = tmp_path / "again"
    again.mkdir()
    done = snakemake(again, MENDS + report(name), "--keep-going")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: the run ended, but {lost} and \d more files were not made; .*", done.stdout.strip().splitlines()[-1]), (
        done.stdout
    )


def test_snakemake_by_itself_goes_by_file_times_whatever_the_triggers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(2_000_000))
    assert snakemake(tmp_path, report("mtime-trigger")).returncode == 0
    (tmp_path / "a.txt").touch()
    assert "Updated input files" in snakemake(tmp_path, report("mtime-trigger"), "-n", "--rerun-triggers", "params").stdout, MOVED


def test_a_job_that_waits_for_its_retry_is_not_forgotten_when_a_checkpoint_ends(tmp_path: Path) -> None:
    done = snakemake(tmp_path, f"{MENDS}retry_always()\n{report('retry-forgotten')}", "--keep-going")
    assert done.returncode == 0 and (tmp_path / "flaky.txt").exists(), done.stdout


LADDER = """
let_stand(lambda path: {"kept": True, "other.txt": False}.get(Path(path).parts[0]) if Path(path).exists() else None)

rule all:
    input: "kept/one.txt", "kept/two.txt", "sum.txt", "kept/filed.txt"

rule data:
    output: "kept/data.txt"
    shell: "echo data >> log; touch {output}"

rule work:
    input: "kept/data.txt"
    output: "kept/{name}.txt"
    wildcard_constraints: name="one|two"
    shell: "echo {wildcards.name} >> log; touch {output}"

checkpoint decide:
    input: "kept/one.txt"
    output: "kept/decision.txt"
    shell: "echo decide >> log; touch {output}"

rule sum:
    input: lambda wildcards: checkpoints.decide.get().output, "other.txt"
    output: "sum.txt"
    shell: "echo sum >> log; touch {output}"

rule other:
    input: "kept/decision.txt"
    output: "other.txt"
    shell: "echo other >> log; touch {output}"

rule measure:
    output: temp("measured.txt")
    shell: "echo measure >> log; touch {output}"

rule file:
    input: "measured.txt"
    output: "kept/filed.txt"
    shell: "echo file >> log; cp {input} {output}"
"""


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """A folder in which the workflow has run."""
    (tmp_path / "kept").mkdir()
    for name in ("kept/data.txt", "kept/one.txt", "kept/decision.txt", "kept/two.txt", "other.txt", "sum.txt", "kept/filed.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("gone", "arguments", "again"),
    [
        (["kept/data.txt"], [], ["other", "sum"]),
        (["kept/data.txt", "kept/two.txt"], [], ["data", "other", "sum", "two"]),
        (["kept/data.txt", "kept/decision.txt", "sum.txt"], [], ["decide", "other", "sum"]),
        (["kept/one.txt"], [], ["one", "other", "sum"]),
        ([], ["-R", "work"], ["one", "other", "sum", "two"]),
        ([], ["-R", "measure"], ["file", "measure", "other", "sum"]),
        ([], ["-R", "file"], ["file", "measure", "other", "sum"]),
        ([], ["--force", "kept/one.txt"], ["one"]),
        ([], ["--forceall"], ["data", "decide", "file", "measure", "one", "other", "sum", "two"]),
    ],
)
def test_what_stands_is_not_made_again_unless_it_is_forced(gone: list[str], arguments: list[str], again: list[str], ladder: Path) -> None:
    """Nor is anything lost behind it. `other.txt` is of something else each time, and what waits for it follows."""
    for name in gone:
        (ladder / name).unlink()
    done = snakemake(ladder, f"{MENDS}{LADDER}", *arguments)
    assert done.returncode == 0, done.stdout
    assert sorted((ladder / "log").read_text().split()) == again


SEARCH = """
once = "test -e killed.{rule} || {{ touch killed.{rule}; kill -9 $$; }}; "

rule all:
    input: "served.txt", "judged.txt"

rule data:
    output: "data{split}.txt"
    retries: 1
    shell: once + "touch {output}"

checkpoint decide:
    input: lambda wildcards: [f"arm{arm}.{int(wildcards.rung) - 1}.txt" for arm in arms(int(wildcards.rung) - 1)]
    output: "decision{rung}.txt"
    retries: 1
    shell: once + "touch {output}"

def arms(rung):
    if rung < 0:
        return []
    checkpoints.decide.get(rung=rung)
    return range(3 - rung)

rule train:
    input: "data0.txt", "data1.txt", lambda wildcards: [f"arm{wildcards.arm}.{int(wildcards.rung) - 1}.txt"] if wildcards.rung > "0" else []
    output: "arm{arm}.{rung}.txt"
    retries: 1
    shell: once + "touch {output}"

rule serve:
    input: lambda wildcards: [f"arm{arm}.1.txt" for arm in arms(2)], "data1.txt"
    output: "served.txt"
    retries: 1
    shell: once + "touch {output}"

checkpoint choose:
    input: "served.txt", "standing.txt"
    output: "champion.txt"
    retries: 1
    shell: once + "touch {output}"

rule stand:
    input: "data0.txt"
    output: "standing.txt"
    retries: 1
    shell: once + "touch {output}"

rule judge:
    input: lambda wildcards: checkpoints.choose.get().output
    output: "judged.txt"
    retries: 1
    shell: once + "touch {output}"
"""


@pytest.mark.parametrize("cores", ["1", "2"])
def test_a_search_in_which_every_kind_of_job_is_killed_once_ends_with_all_that_was_asked_for(cores: str, tmp_path: Path) -> None:
    done = snakemake(tmp_path, f"{MENDS}retry_always()\n{SEARCH}", "--keep-going", "--cores", cores)
    assert done.returncode == 0 and (tmp_path / "judged.txt").exists(), done.stdout[-3000:]
    assert {path.suffix[1:] for path in tmp_path.glob("killed.*")} == {"data", "decide", "train", "serve", "choose", "stand", "judge"}
