"""Write a head with random weights in the format vLLM loads."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.draft.heads import build_untrained_head
from lib.features.description import require_described
from lib.methods import read_draft
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        require_described(snakemake.params.described)
        build_untrained_head(read_draft(snakemake.params.draft), Path(snakemake.params.target), here(snakemake.output.head))
