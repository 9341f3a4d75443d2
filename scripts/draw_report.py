"""Draw the report's figures and pages."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.report.assemble import draw_report
from lib.script import running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        draw_report(Path())
