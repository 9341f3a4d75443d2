"""Write and show the plan of the search and its maximum cost."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.experiment import load_experiment
from lib.files import write_json
from lib.report.plan import format_plan, make_plan
from lib.script import here, logger, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        plan = make_plan(load_experiment(snakemake.config), Path())
        logger.info("%s", format_plan(plan))
        write_json(here(snakemake.output.plan), plan)
