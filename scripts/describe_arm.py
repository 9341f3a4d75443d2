"""Write down what an arm stands for."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.files import write_json
from lib.script import running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        write_json(Path(snakemake.output.arm), snakemake.params.arm)
