"""Use rows of a data set that speculators extracted as training and held-out data."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.draft.heads import learnt_output
from lib.features.dataset import adopt_dataset
from lib.features.description import require_described
from lib.methods import read_draft
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        require_described(snakemake.params.described)
        adopt_dataset(
            Path(snakemake.params.dataset),  # the original path, which every job sees
            Path(snakemake.params.target),
            {split: here(snakemake.output[split]) for split in ("train", "heldout")},
            {split: snakemake.params.features[f"{split}_prompts"] for split in ("train", "heldout")},
            list(snakemake.params.draft["aux_layers"]),
            snakemake.params.features["seed"],
            snakemake.params.ahead,
            learnt_output(read_draft(snakemake.params.draft), Path(snakemake.params.target)),
        )
