"""Write the next levers, ranked and with their commands, to results/HANDOFF.md."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from lib.config import parse_config
from lib.experiment import load_experiment
from lib.files import read_json
from lib.report.plan import measured_pace, stated_pace
from lib.report.tables import ledger
from lib.script import running
from lib.verdict.finding import Finding
from lib.verdict.handoff import write_handoff

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with running(snakemake.log[0]):
        experiment = load_experiment(snakemake.config)
        write_handoff(
            Finding(
                experiment, ledger(Path("results")), read_json(Path(snakemake.input.champion)), read_json(Path(snakemake.input.verdict))
            ),
            default=parse_config(yaml.safe_load(Path("config/config.yaml").read_text())),
            pace=measured_pace(experiment.search, Path()) or stated_pace(experiment.config.cost),
            root=Path(),
        )
