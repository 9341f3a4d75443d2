"""Train an arm to a rung, resuming from its state at the rung below if there is one, and compute the proxy."""

# ruff: noqa: E402
import gc

gc.disable()  # garbage collection takes a fifth of the time to load these modules

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.config import Streaming
from lib.devices import hold_gpus
from lib.draft.rung import Places, run_rung
from lib.script import here, running

gc.enable()

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        arm = Arm.from_record(snakemake.params.arm)
        hold_gpus(arm.layout.ranks)
        run_rung(
            arm,
            int(snakemake.wildcards.rung),
            Places(
                target=Path(snakemake.params.target),
                train=[here(folder) for folder in snakemake.input.train],
                heldout=[here(folder) for folder in snakemake.input.heldout],
                state=here(snakemake.input.state) if snakemake.input.get("state") else None,
                acc_out=here(snakemake.output.acc),
                state_out=here(snakemake.output.state),
                log=Path(snakemake.log[0]),
            ),
            Streaming.model_validate(snakemake.params.streaming),
        )
