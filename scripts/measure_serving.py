"""Serve the target with a head and read the acceptance length from the engine's counters."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, running
from lib.serving.bench import engine_settings, make_bench
from lib.serving.series import Contender, Series

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        described = snakemake.params.bench
        require_described(described["described"])
        hold_gpus(engine_settings(described["asked"]).devices)
        contender = Contender("selection", read_record(here(snakemake.input.acc), ProxyRecord), here(snakemake.input.head))
        log = Path(snakemake.log[0]).with_suffix(".server.log")
        (record,) = Series(make_bench(described, snakemake.threads), [contender], log).measure()
        write_record(here(snakemake.output.serving), record)
