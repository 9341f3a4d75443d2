"""Record the target's greedy responses to prompts, with its hidden states."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.features.extract import extract_features
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        require_described(snakemake.params.described)
        hold_gpus(1)
        extract_features(
            Path(snakemake.params.target),
            here(snakemake.input.prompts),
            here(snakemake.output.features),
            response_tokens=snakemake.params.response_tokens,
            aux_layers=snakemake.params.aux_layers,
            batch=128,
            threads=snakemake.threads,
        )
