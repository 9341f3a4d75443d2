"""The first command of a hand-off runs unchanged. Its dry run plans the search that the hand-off promises."""

import json
import re
import shlex

import pytest

from tests.workflow.clones import Clone, jobs

pytestmark = pytest.mark.slow


def test_the_first_command_of_a_hand_off_plans_the_search_it_promises(finished: Clone) -> None:
    command = re.search(r"```bash\n(.*)\n```", (finished.root / "results/HANDOFF.md").read_text())
    assert command
    program, *words = shlex.split(command.group(1))
    assert program == ".venv/bin/snakemake"
    (space,) = [word.removeprefix("space=") for word in words if word.startswith("space=")]
    lever = json.loads((finished.root / space).with_name("lever.json").read_text())
    output = Clone(finished.root, small=False).snakemake(*words, "--dry-run").stdout
    assert f"Plan of search {lever['search']}: " in output
    assert "decide_cohort" in jobs(output)
