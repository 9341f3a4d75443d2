"""The first command of a hand-off is one that runs: copied as it stands, its dry run plans training."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
import yaml
from lib.config import parse_config
from lib.verdict.handoff import write_handoff

from tests.unit.verdict.findings import PACE, finding
from tests.workflow.clones import clone, jobs

pytestmark = pytest.mark.slow


def test_the_first_command_of_a_hand_off_plans_the_search_it_promises(tmp_path: Path) -> None:
    one = clone(tmp_path, small=False)
    with contextlib.chdir(one.root):
        small, default = (yaml.safe_load(Path(path).read_text()) for path in ("tests/configs/small.yaml", "config/config.yaml"))
        curve = ((8, (0.1, 0.1, 0.1)), (24, (0.3, 0.2, 0.2)))
        found = write_handoff(finding(config=small, curve=curve), parse_config(default), PACE, one.root)
    command = re.search(r"```bash\n(.*)\n```", (one.root / "results/HANDOFF.md").read_text())
    assert command
    program, *words = shlex.split(command.group(1))
    assert program == ".venv/bin/snakemake"
    output = one.snakemake(*words, "--dry-run").stdout
    assert f"Plan of search {found.levers[0].lever.search}: " in output
    assert jobs(output)["train_rung"] >= 1
