"""Split prompts into disjoint training, held-out and serving prompts."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import Features
from lib.features.split import write_prompts
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        write_prompts(
            here(snakemake.output.train).parent, Path(snakemake.params.target), Features.model_validate(snakemake.params.features)
        )
