"""Choose the finalist with the greatest acceptance length in vLLM."""

from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.records.measurement import ServingRecord, read_record, write_record
from lib.script import here, running
from lib.verdict.champion import choose_champion

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        paths = {snakemake.input.standing, *snakemake.input.finalists}
        champion = choose_champion(
            [read_record(here(path), ServingRecord) for path in sorted(paths)],
            [Arm.from_record(record) for record in snakemake.params.finalists],
            snakemake.params.standing,
            snakemake.params.search,
            snakemake.params.asked,
        )
        write_record(here(snakemake.output.champion), champion)
