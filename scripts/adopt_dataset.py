"""Take rows of a data set that speculators extracted as training and held-out data."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import parse_config
from lib.features.dataset import adopt_dataset
from lib.features.description import require_described
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        settings = parse_config(snakemake.config)
        require_described(settings, dataset=True)
        adopt_dataset(
            Path(settings.features.dataset or ""),  # where every job sees it, never a copy of it
            here(snakemake.input.get("target", settings.target.path)),
            {split: here(snakemake.output[split]) for split in ("train", "heldout")},
            {split: snakemake.params.features[f"{split}_prompts"] for split in ("train", "heldout")},
            snakemake.params.aux_layers,
            snakemake.params.features["seed"],
        )
