"""Write what to try next, ranked and with commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lib.config import parse_config
from lib.experiment import load_experiment
from lib.files import whole_file
from lib.invocation import configfiles
from lib.next.finding import Finding
from lib.next.handoff import format_handoff, format_next, hand_off
from lib.records.measurement import read_record
from lib.report.plan import known_pace
from lib.report.tables import ledger
from lib.script import here, running
from lib.verdict.champion import Champion
from lib.verdict.verdict import Verdict
from snakemake.utils import update_config

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with running(snakemake.log[0]):
        experiment = load_experiment(snakemake.config)
        default: dict[str, Any] = {}
        for file in ("config/config.yaml", *configfiles()):
            update_config(default, yaml.safe_load(Path(file).read_text()))
        champion, verdict = read_record(here(snakemake.input.champion), Champion), read_record(here(snakemake.input.verdict), Verdict)
        finding = Finding(experiment, ledger(Path()), champion.model_dump(mode="json"), verdict.model_dump(mode="json"))
        found = hand_off(
            finding,
            default=parse_config(default),
            pace=known_pace(experiment, Path()),
            root=Path(),
        )
        for name, text in (("handoff", format_handoff(finding, found)), ("next_levers", format_next(finding, found))):
            with whole_file(here(snakemake.output[name])) as path:
                path.write_text(text)
