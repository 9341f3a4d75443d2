"""Collect every record under results/ into one table."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.report.tables import write_ledger
from lib.script import running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        write_ledger(Path())
