"""Judge the champion by what the contest measured."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.config import VerdictOptions
from lib.files import read_json
from lib.script import running
from lib.verdict.contest import Measurements, make_contest
from lib.verdict.record import ProxyRecord, read_record, write_record
from lib.verdict.verdict import give_verdict

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        chosen = read_json(Path(snakemake.input.champion))
        options = VerdictOptions.model_validate(snakemake.params.verdict)
        verdict = give_verdict(
            make_contest(Arm.from_record(chosen["configuration"]), Arm.from_record(snakemake.params.standing), options.seeds),
            read_record(Path(snakemake.input.measurements), Measurements),
            [read_record(Path(path), ProxyRecord) for path in snakemake.input.proxies],
            options,
            name=snakemake.params.name,
            search=chosen["search"],
        )
        write_record(Path(snakemake.output.verdict), verdict)
        write_record(Path(snakemake.output.view), verdict)
