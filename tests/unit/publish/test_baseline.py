"""A baseline is kept until a verdict replaces it, and its history is complete."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.publish.baseline import check_folder, context_key, promote, read_baseline, require_same_context

from tests.unit.publish.writers import start

CONTEXT = {"target": "t1", "features": "f1", "serving": {"dtype": "bfloat16", "concurrency": 16}}
RECIPE = {"target": "t1", "features": "f1", "draft": {"method": "eagle3"}, "training": {"weight_decay": 0.0}, "rungs": [64, 256]}
ASKED = {"output_tokens": 64, "temperature": 0.0}
KEY = context_key("zai-org/GLM-5.1", "eagle3", "GB300", CONTEXT)

WRITER = """
import sys
from pathlib import Path
from lib.publish.baseline import promote
from tests.unit.publish.test_baseline import CONTEXT, KEY, entry
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    promote(Path(sys.argv[1]), KEY, entry(f"v{number}"), CONTEXT)
    print(number, flush=True)
"""

DYING = """
import os, signal, sys
from pathlib import Path
from lib.publish.baseline import promote
from tests.unit.publish.test_baseline import CONTEXT, KEY, entry
def die(*arguments, **names):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], die)
promote(Path(sys.argv[1]), KEY, entry("v2"), CONTEXT)
"""


def entry(verdict: str, **changes: Any) -> dict[str, Any]:
    point = {"global_batch": 8, "lr": 3e-4, "warmup": 0.05}
    acceptance = {"mean": 2.5, "std": 0.02, "n": 3}
    points = {"point": point, "over": point}
    return {"verdict": verdict, **points, "recipe": RECIPE, "asked": ASKED, "acceptance": acceptance, "effect": 0.1} | changes


def verdicts(folder: Path) -> list[str]:
    """Return the verdicts of the baseline, oldest first."""
    baseline = read_baseline(folder / f"{KEY}.json")
    return [promoted["verdict"] for promoted in (*baseline.history, baseline.current)]


def test_a_key_is_readable_and_follows_from_the_whole_context() -> None:
    assert context_key("zai-org/GLM-5.1", "eagle3", "GB300", CONTEXT) == "glm-5.1-eagle3-GB300-" + KEY.rpartition("-")[2]
    assert context_key("/models/My Target/", "dflash", "NVIDIA H100 80GB", CONTEXT).startswith("my-target-dflash-NVIDIA-H100-80GB-")
    assert context_key("zai-org/GLM-5.1", "eagle3", "GB300", dict(reversed(CONTEXT.items()))) == KEY
    assert context_key("zai-org/GLM-5.1", "eagle3", "GB300", CONTEXT | {"serving": {"dtype": "float16", "concurrency": 16}}) != KEY


def test_a_promoted_entry_is_current_and_the_former_ones_are_history(tmp_path: Path) -> None:
    folder = tmp_path / "baselines"
    for name, effect in (("v1", 0.1), ("v2", 0.2), ("v3", 0.3)):
        assert promote(folder, KEY, entry(name, effect=effect), CONTEXT)
    baseline = read_baseline(folder / f"{KEY}.json")
    assert baseline.current == entry("v3", effect=0.3)
    assert baseline.history == [entry("v1", effect=0.1), entry("v2", effect=0.2)]
    assert (baseline.key, baseline.context, baseline.recipe, baseline.asked) == (KEY, CONTEXT, RECIPE, ASKED)
    assert list(folder.glob("[!.]*")) == [folder / f"{KEY}.json"]


def test_a_verdict_promoted_before_changes_nothing(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        promote(tmp_path, KEY, entry(name), CONTEXT)
    before = (tmp_path / f"{KEY}.json").read_bytes()
    assert not promote(tmp_path, KEY, entry("v2", effect=9.0), CONTEXT)
    assert not promote(tmp_path, KEY, entry("v1"), CONTEXT)
    assert (tmp_path / f"{KEY}.json").read_bytes() == before


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [start(WRITER, tmp_path, 0, 40), start(WRITER, tmp_path, 20, 60)]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(verdicts(tmp_path)) == sorted(f"v{number}" for number in range(60))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_run_killed_before_the_rename_leaves_the_old_file_and_blocks_nobody(tmp_path: Path, moment: str) -> None:
    promote(tmp_path, KEY, entry("v1"), CONTEXT)
    dying = start(DYING, tmp_path, moment)
    assert dying.wait(timeout=60) == -signal.SIGKILL
    assert verdicts(tmp_path) == ["v1"]
    promote(tmp_path, KEY, entry("v2"), CONTEXT)
    assert verdicts(tmp_path) == ["v1", "v2"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(("after", "delay_s"), [(0, 0.0), (3, 0.001), (10, 0.0005), (25, 0.002)])
def test_a_run_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path, after: int, delay_s: float) -> None:
    writer = start(WRITER, tmp_path, 0, 10_000)
    assert writer.stdin and writer.stdout
    writer.stdout.readline()
    writer.stdin.write("go\n")
    writer.stdin.flush()
    for _ in range(after):
        writer.stdout.readline()
    time.sleep(delay_s)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    promoted = verdicts(tmp_path) if (tmp_path / f"{KEY}.json").exists() else []
    assert len(promoted) >= after
    assert promoted == [f"v{number}" for number in range(len(promoted))]
    assert promote(tmp_path, KEY, entry(f"v{len(promoted)}"), CONTEXT)
    assert verdicts(tmp_path) == [*promoted, f"v{len(promoted)}"]


def _context(content: dict[str, Any]) -> None:
    content["context"]["serving"]["concurrency"] = 32


def _recipe(content: dict[str, Any]) -> None:
    content["recipe"]["draft"]["method"] = "dflash"


def _nan(content: dict[str, Any]) -> None:
    content["current"]["acceptance"]["mean"] = float("nan")


def _old_nan(content: dict[str, Any]) -> None:
    content["history"][0]["effect"] = float("inf")


def _point(content: dict[str, Any]) -> None:
    del content["current"]["point"]


def _extra(content: dict[str, Any]) -> None:
    content["note"] = "better"


def _history(content: dict[str, Any]) -> None:
    del content["history"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_context, f"key = {KEY} does not match this context, whose digest is "),
        (_recipe, r"recipe does not match the current entry \(draft\.method\)"),
        (_nan, r"current: .*acceptance\.mean = nan is not a finite number"),
        (_old_nan, r"history\.0: .*effect = inf is not a finite number"),
        (_point, r"current: .*point is missing"),
        (_extra, r"note: Extra inputs are not permitted"),
        (_history, r"history: Field required"),
    ],
)
def test_an_edited_file_is_refused_and_never_written_over(tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    path = tmp_path / f"{KEY}.json"
    for name in ("v1", "v2"):
        promote(tmp_path, KEY, entry(name), CONTEXT)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    for act in (lambda: read_baseline(path), lambda: promote(tmp_path, KEY, entry("v3"), CONTEXT)):
        with pytest.raises(UserError, match=f"^{path}: .*{message}.*; restore the file as it was promoted$"):
            act()
    assert json.loads(path.read_text(), parse_constant=str) == json.loads(json.dumps(content), parse_constant=str)


def test_a_file_that_is_missing_cut_short_or_no_baseline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{KEY}.json"
    with pytest.raises(UserError, match=f"^{path}: no such file; name a file that a verdict promoted$"):
        read_baseline(path)
    promote(tmp_path, KEY, entry("v1"), CONTEXT)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=f"^{path}: not JSON .*; restore the file"):
        read_baseline(path)
    for content in (b"[1]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path}: (holds no keys|not UTF-8)"):
            read_baseline(path)
    with pytest.raises(UserError, match=f"^{tmp_path}: a folder, not a file; restore the file"):
        read_baseline(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*; make .*baselines a writable folder$"):
        promote(tmp_path / "baselines", KEY, entry("v1"), CONTEXT)


def test_a_folder_that_cannot_be_made_or_written_is_refused_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/lake"):
        with pytest.raises(UserError, match=rf"^publish.lake = {folder}: {tmp_path}/file is not a folder; move it away"):
            check_folder(folder, "publish.lake")
    check_folder(tmp_path / "new/lake", "publish.lake")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=rf"{tmp_path} is not writable; change its permissions"):
        check_folder(tmp_path / "new/lake", "publish.lake")


def test_a_number_that_is_not_finite_is_never_promoted(tmp_path: Path) -> None:
    promote(tmp_path, KEY, entry("v1"), CONTEXT)
    with pytest.raises(ValueError, match="effect = nan is not a finite number"):
        promote(tmp_path, KEY, entry("v2", effect=float("nan")), CONTEXT)
    assert verdicts(tmp_path) == ["v1"]


def test_a_champion_that_was_held_against_another_point_does_not_replace_the_one_that_stands(tmp_path: Path) -> None:
    better, worse = ({"global_batch": 4, "lr": lr, "warmup": 0.0} for lr in (5e-3, 1e-3))
    promote(tmp_path, KEY, entry("v1", point=better), CONTEXT)
    with pytest.raises(UserError, match=rf"holds another point .*; run with --config baseline={tmp_path}"):
        promote(tmp_path, KEY, entry("v2", point=worse), CONTEXT)
    assert promote(tmp_path, KEY, entry("v3", point=worse, over=better), CONTEXT)
    assert verdicts(tmp_path) == ["v1", "v3"]


def test_repeats_are_no_part_of_what_a_baseline_stands_for(tmp_path: Path) -> None:
    promote(tmp_path, KEY, entry("v1"), CONTEXT)
    require_same_context(tmp_path / f"{KEY}.json", read_baseline(tmp_path / f"{KEY}.json"), RECIPE, ASKED | {"repeats": 5})


def test_a_baseline_of_another_context_is_refused_by_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / f"{KEY}.json"
    promote(tmp_path, KEY, entry("v1"), CONTEXT)
    baseline = read_baseline(path)
    require_same_context(path, baseline, RECIPE, ASKED)
    with pytest.raises(UserError) as refusal:
        require_same_context(path, baseline, RECIPE | {"features": "f2"}, ASKED | {"temperature": 1.0})
    assert str(refusal.value).startswith(f"{path} has another context (asked.temperature, recipe.features differ); name a baseline of")
    assert "under standing in the space file" in str(refusal.value)
