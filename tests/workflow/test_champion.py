"""The command of a model card serves the head of the verdict, with the recorded acceptance."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lib.experiment import describe_bench
from lib.script import ENVIRONMENT
from lib.serving.bench import make_bench
from lib.serving.vllm.driver import send
from lib.serving.vllm.engine import KEY, Server, mortal_group, reserved_port

from tests.workflow.clones import Clone, clone

pytestmark = pytest.mark.slow

EASILY = ("--config", "verdict={confidence: 0.6}")
"""So little confidence that the small run's champion is an improvement."""


def test_the_winner_served_by_its_cards_command_gives_the_recorded_acceptance(finished: Clone, tmp_path: Path) -> None:
    one = clone(tmp_path / "clone", adopt=finished, results=True)
    one.snakemake("results/champion", "results/verdict.json", *EASILY)
    verdict, manifest = (one.records(name)[name] for name in ("verdict.json", "champion/manifest.json"))
    recorded = manifest["serving"]
    assert (verdict["outcome"], manifest["side"], manifest["verdict"]) == ("improvement", "champion", verdict["id"])
    assert recorded["arm"] == verdict["champion"]["arms"][0]
    card = (one.root / "results/champion/README.md").read_text()
    command = re.search(r"```bash\n(.*?)\n```", card, re.DOTALL)
    assert command and f"**{verdict['summary']}**" in card and f"| this head | {recorded['acceptance_length']:.4f} |" in card
    bench, log = make_bench(describe_bench(one.experiment()), threads=1, repeats=1), tmp_path / "server.log"
    with contextlib.chdir(one.root), reserved_port() as port, log.open("wb") as output, mortal_group() as group:
        Path(".venv").symlink_to(sys.prefix)
        variables = os.environ | ENVIRONMENT | {"PORT": str(port), KEY: "key-of-clients"}
        with subprocess.Popen(
            ["bash", "-c", command.group(1)], stdout=output, stderr=output, env=variables, process_group=group
        ) as process:
            try:
                server = Server(process, port, bench.target, log, "key-of-clients", model=str(bench.target))
                server.wait_until_ready(300)
                before = server.counters()
                send(server.url, "key-of-clients", bench.target, server.model, bench.workload, "serving", log)
                counted = server.counters().since(before)
            finally:
                process.terminate()
    assert (counted.drafts, counted.accepted) == (recorded["drafts"], recorded["accepted"])
    assert counted.acceptance_length == recorded["acceptance_length"] > 1
