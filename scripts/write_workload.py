"""Write the prompts of the workload as the target receives them."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import Features
from lib.features.description import require_described
from lib.script import here, running
from lib.serving.workload import write_workload

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        require_described({key: fact for key, fact in snakemake.params.described.items() if key == "target.path"})
        write_workload(
            Path(snakemake.params.workload),
            Path(snakemake.params.target),
            Features.model_validate(snakemake.params.features),
            here(snakemake.output[0]).parent,
        )
