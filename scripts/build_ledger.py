"""Gather every record under results/ into one table."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.files import whole_file
from lib.report.tables import ledger
from lib.script import running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        table = ledger(Path(snakemake.params.results))
        with whole_file(Path(snakemake.output.csv)) as path:
            table.to_csv(path, index=False)
        with whole_file(Path(snakemake.output.parquet)) as path:
            table.to_parquet(path, index=False)
