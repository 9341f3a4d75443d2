"""Train an arm on to a rung, from its own state below if there is one, and compute the proxy."""

# ruff: noqa: E402
import gc

gc.disable()  # collecting while these modules load takes a fifth of the seconds they take

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.config import parse_config
from lib.devices import hold_gpus
from lib.draft.rung import Places, run_rung
from lib.script import running

gc.enable()

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        settings = parse_config(snakemake.config)
        hold_gpus(settings.training.ranks)
        arm = Arm.from_record(snakemake.params.arm)
        run_rung(
            arm,
            int(snakemake.wildcards.rung),
            Places(
                target=Path(snakemake.input.get("target", settings.target.path)),
                train=Path(snakemake.input.train),
                heldout=Path(snakemake.input.heldout),
                state=Path(snakemake.input.state) if snakemake.input.get("state") else None,
                acc_out=Path(snakemake.output.acc),
                state_out=Path(snakemake.output.state),
                log=Path(snakemake.log[0]),
            ),
            settings.streaming,
        )
