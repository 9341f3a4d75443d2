"""A file is written completely or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lib.files import digest, whole_directory, whole_file, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_replaces_its_predecessor_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for text in ("first", "second"):
        with whole_directory(path) as temporary:
            (temporary / "file").write_text(text)
            assert not path.exists() or (path / "file").read_text() == "first"
    assert (path / "file").read_text() == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("linked", ["a folder", "nothing"])
def test_a_directory_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path, linked: str) -> None:
    path, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    if linked == "a folder":
        elsewhere.mkdir()
        (elsewhere / "file").write_text("another's")
    path.symlink_to(elsewhere)
    with whole_directory(path) as temporary:
        (temporary / "file").write_text("ours")
    assert not path.is_symlink() and (path / "file").read_text() == "ours"
    assert not elsewhere.exists() or (elsewhere / "file").read_text() == "another's"


def assert_killed_and_cleared_up_by_the_next_writer(program: str, path: Path) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], env=os.environ | {"PYTHONPATH": str(scripts)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    with whole_directory(path) as temporary:
        (temporary / "file").write_text("y")


def test_a_killed_writer_leaves_no_file_and_the_next_one_clears_up(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom lib.files import whole_directory\n"
        "with whole_directory(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'half').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "state"
    assert_killed_and_cleared_up_by_the_next_writer(program, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_directory_that_is_discarded_is_never_half_there(tmp_path: Path) -> None:
    program = (
        "import os, shutil, signal, sys\nfrom pathlib import Path\nfrom lib import files\n"
        "shutil.rmtree = lambda _: os.kill(os.getpid(), signal.SIGKILL)\nfiles.discard(Path(sys.argv[1]))\n"
    )
    path = tmp_path / "champion"
    path.mkdir()
    (path / "head").touch()
    assert_killed_and_cleared_up_by_the_next_writer(program, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["champion"]


def test_digest_depends_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
