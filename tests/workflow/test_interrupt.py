"""The controller is killed in every phase. The same command finishes with the same results."""

import platform
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workflow.clones import HANDED_OVER, Clone, clone, decisions, heads

pytestmark = [pytest.mark.slow, pytest.mark.long]

GRACE_S = 60
"""A job ends about a second after its controller, but looks for it only once its imports are done, which take long on a busy machine."""


def processes_in(one: Clone) -> list[str]:
    """Return the command lines of all processes that run in a clone."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(one.root):
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.Error, OSError):
            continue
    return found


def kill_during(one: Clone, logs: str, line: str, *arguments: str) -> None:
    """Start the run, SIGKILL the controller as soon as a new log among `logs` holds `line`, and wait for its children to go."""
    old = set((one.root / "results/logs").glob(logs))
    with (one.root / "controller.log").open("w") as output:
        controller = subprocess.Popen(one.command(*arguments), cwd=one.root, stdout=output, stderr=output)
        try:
            while not any(line in path.read_text() for path in set((one.root / "results/logs").glob(logs)) - old):
                assert controller.poll() is None, f"ended before {logs} said {line!r}\n" + (one.root / "controller.log").read_text()[-3000:]
                time.sleep(0.05)
        finally:
            controller.kill()
            controller.wait()
    deadline = time.monotonic() + GRACE_S
    while left := processes_in(one):
        assert time.monotonic() < deadline, f"still running {GRACE_S} s after the controller: {left}"
        time.sleep(0.1)


def test_a_controller_killed_in_training_and_promotion_changes_nothing(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished)
    kill_during(one, "train_rung/*.log", "samples")
    kill_during(one, "decide_cohort/s1*.rung1.log", "")
    one.snakemake(one.finalists())
    assert decisions(one) == decisions(finished)
    standing = finished.records("champion.json")["champion.json"]["standing"]["arm"]
    searched = {path for path in heads(finished) if "-s0-" in path and not path.startswith(standing)}
    assert heads(one).items() <= heads(finished).items() and searched <= heads(one).keys()
    assert "Nothing to be done" in one.snakemake(one.finalists()).stdout


def test_a_controller_killed_between_two_heads_loses_nothing_measured(undisturbed: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=undisturbed, results=True, stub=True)
    one.configure("tests/configs/small.yaml", serving={"engine": "stub", "environment": {"STUB_SECONDS": "5"}})
    for path in [*(one.root / "results").glob("*/serving.json"), *(one.root / "results").glob("logs/measure_serving.*")]:
        path.unlink()
    kill_during(one, "measure_serving.0.log", "2 of 2", "results/champion.json")
    (kept,) = one.records("*/serving.unfiled.json").values()
    assert (kept["engine"]["exchange"], kept["engine"]["check"]) == (0, "pending")
    one.snakemake("results/champion.json")
    filed, last = sorted(one.records("*/serving.json").values(), key=lambda record: record["engine"]["started_at"])
    assert (filed["arm"], filed["repeats"], filed["engine"]["check"]) == (kept["arm"], kept["repeats"], "equal")
    assert (last["engine"]["exchange"], last["engine"]["check"]) == (1, "equal")
    assert not one.records("*/serving.unfiled.json") and not list((one.root / "results/search").glob("*/servings-*"))
    assert "Nothing to be done" in one.snakemake("results/champion.json").stdout


def test_a_job_killed_from_outside_is_done_again(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=finished)
    record = f"{finished.records('champion.json')['champion.json']['standing']['arm']}/rung1.acc"
    with (one.root / "controller.log").open("w") as output:
        controller = subprocess.Popen(one.command(f"results/{record}"), cwd=one.root, stdout=output, stderr=output)
    try:
        while not (jobs := [process for process in psutil.Process(controller.pid).children(recursive=True) if runs(process, "train_rung")]):
            assert controller.poll() is None, "ended before it trained\n" + (one.root / "controller.log").read_text()[-3000:]
            time.sleep(0.05)
        jobs[0].kill()
        assert controller.wait() == 0, (one.root / "controller.log").read_text()[-3000:]
    finally:
        controller.kill()
        controller.wait()
    assert heads(one) == {record: heads(finished)[record]}


@pytest.mark.parametrize("cores", [1, 2])
def test_a_run_in_which_every_kind_of_job_is_killed_once_comes_to_its_verdict(cores: int, undisturbed: Clone, tmp_path: Path) -> None:
    """The first job of every rule is killed as soon as it starts; its second attempt may have to wait while a checkpoint ends."""
    one = clone(tmp_path / "clone", stub=True)
    one.configure("tests/configs/small.yaml", serving={"engine": "stub", "engines": cores})
    (tmp_path / "deadly").mkdir()
    (tmp_path / "deadly/sitecustomize.py").write_text(
        "import os, pathlib, re, signal, sys\n"
        "rule = re.search(r'[.](\\w+)[.]py$', sys.orig_argv[-1])\n"
        "if rule and '.snakemake/scripts' in sys.orig_argv[-1]:\n"
        f"    mark = pathlib.Path({str(tmp_path)!r}, rule[1])\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n" + HANDED_OVER
    )
    one.snakemake("--cores", str(cores), variables={"PYTHONPATH": f"{tmp_path}/deadly"})
    killed = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert killed >= {
        "train_target",
        "extract_features",
        "preflight",
        "decide_cohort",
        "train_rung",
        "measure_serving",
        "choose_champion",
        "give_verdict",
    }
    assert (decisions(one), heads(one)) == (decisions(undisturbed), heads(undisturbed))
    assert one.records("verdict.json")["verdict.json"]["outcome"] == "improvement", "as the stub engine counts"
    measured = {record["engine"]["exchange"] for record in one.records("*/serving.json").values()}
    assert measured == ({0} if cores == 2 else {0, 1}), "each in an engine of its own, or both in one"


def runs(process: psutil.Process, rule: str) -> bool:
    """Whether a process is the script of a rule itself."""
    try:
        return any(word.endswith(f".{rule}.py") for word in process.cmdline())
    except psutil.Error:
        return False


def test_a_second_controller_in_the_same_folder_is_refused_by_name(undisturbed: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path, adopt=undisturbed)
    controller = subprocess.Popen(one.command(), cwd=one.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lock = one.root / "results/spec-decode-tune.lock"
        while not lock.exists() or not lock.read_text():
            assert controller.poll() is None, "ended before it took the lock"
            time.sleep(0.05)
        refused = one.snakemake(check=False)
        assert refused.returncode != 0
        assert (
            refused.stdout.strip().splitlines()[-1]
            == f"error: process {controller.pid} on {platform.node()} is already running in this folder; wait for it or stop it"
        )
    finally:
        controller.kill()
        controller.wait()
