"""Write what to try next, ranked and with its commands."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from lib.config import parse_config
from lib.experiment import load_experiment
from lib.files import read_json, whole_file
from lib.next.finding import Finding
from lib.next.handoff import format_handoff, format_next, hand_off
from lib.report.plan import known_pace
from lib.report.tables import ledger
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with running(snakemake.log[0]):
        experiment = load_experiment(snakemake.config)
        records = (read_json(here(snakemake.input[name])) for name in ("champion", "verdict"))
        finding = Finding(experiment, ledger(Path()), *records)
        found = hand_off(
            finding,
            default=parse_config(yaml.safe_load(Path("config/config.yaml").read_text())),
            pace=known_pace(experiment, Path()),
            root=Path(),
        )
        for name, text in (("handoff", format_handoff(finding, found)), ("next_levers", format_next(finding, found))):
            with whole_file(here(snakemake.output[name])) as path:
                path.write_text(text)
