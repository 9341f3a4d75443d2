"""Train the tiny target and its tokenizer on the Python standard library."""

from typing import TYPE_CHECKING

from lib.script import here, running
from lib.target.tiny import train_tiny_target

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        train_tiny_target(here(snakemake.output.model), **snakemake.params.tiny, threads=snakemake.threads)
