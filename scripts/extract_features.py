"""Record the target's greedy responses to prompts, with its hidden states."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.draft.data import extract_features
from lib.script import running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        extract_features(
            Path(snakemake.input.target),
            Path(snakemake.input.prompts),
            Path(snakemake.output.features),
            response_tokens=snakemake.params.response_tokens,
            aux_layers=snakemake.params.aux_layers,
            batch=128,
            threads=snakemake.threads,
        )
