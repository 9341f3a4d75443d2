"""Split prompts into disjoint training, held-out and serving prompts."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.features.split import write_prompts
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        features, source = snakemake.params.features, snakemake.params.source
        write_prompts(
            here(snakemake.output.train).parent,
            Path(snakemake.params.target),
            {split: features[f"{split}_prompts"] for split in ("train", "heldout", "serving")},
            features["prompt_tokens"],
            features["seed"],
            Path(source) if source else None,
        )
