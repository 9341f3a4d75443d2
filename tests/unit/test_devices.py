"""A GPU is assigned to one job at a time. The names of GPUs are made up here, the locks are real."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from lib.devices import VISIBLE, gpus, hold_gpus
from lib.errors import UserError
from lib.spending import RUN_ID

HOLDER = """
import sys, time
sys.path.insert(0, "scripts")
from lib.devices import hold_gpus
import lib.devices, os
lib.devices._PAUSE = 0.1
hold_gpus(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    started: list[subprocess.Popen[str]] = []

    def start(count: int) -> subprocess.Popen[str]:
        environment = os.environ | {VISIBLE: "GPU-a,GPU-b,GPU-c", "TMPDIR": str(tmp_path)}
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER, str(count)], stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_each_gpu_is_held_once_and_freed_by_the_kernel_when_its_holder_is_killed(holder) -> None:
    first, second = holder(1), holder(2)
    held = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    assert sorted(",".join(held).split(",")) == ["GPU-a", "GPU-b", "GPU-c"]
    third = holder(2)
    assert not select.select([third.stdout], [], [], 1)[0], "it waits"
    second.kill()
    assert len(third.stdout.readline().strip().split(",")) == 2


def test_one_that_asks_for_more_than_there_are_gets_all(holder) -> None:
    assert holder(9).stdout.readline().strip() == "GPU-a,GPU-b,GPU-c"


def _link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def _open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize("plant", [_link, _open_to_all, Path.touch])
def test_a_planted_place_for_the_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None]) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "GPU-a")
    plant(folder := tmp_path / f"spec-decode-tune-{os.getuid()}")
    with pytest.raises(UserError, match=f"^{folder} is not a folder that only you can write; remove it, or set TMPDIR"):
        hold_gpus(1)
    assert not list(tmp_path.rglob("gpu-*"))


def test_a_place_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "GPU-a")
    me = os.getuid()
    (tmp_path / f"spec-decode-tune-{me + 1}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with pytest.raises(UserError, match="is not a folder that only you can write"):
        hold_gpus(1)


def test_a_job_of_a_cluster_takes_what_it_was_given_and_waits_for_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setenv(RUN_ID, "r1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hold_gpus(1)
    assert os.environ[VISIBLE] == "0" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("none", ["", "-1", "-1,0"])
def test_without_a_gpu_nothing_is_held(monkeypatch: pytest.MonkeyPatch, none: str) -> None:
    monkeypatch.setenv(VISIBLE, none)
    assert gpus() == []
    hold_gpus(4)
    assert os.environ[VISIBLE] == none
