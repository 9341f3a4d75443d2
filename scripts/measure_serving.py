"""Serve the target with a head and read the acceptance length off the engine's counters."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.devices import hold_gpus
from lib.experiment import load_experiment, make_bench
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, running
from lib.serving.bench import serve_arm

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        experiment = load_experiment(snakemake.config)
        hold_gpus(experiment.config.serving.tensor_parallel)
        record = serve_arm(
            make_bench(experiment, snakemake.params.asked["repeats"], snakemake.threads),
            read_record(here(snakemake.input.acc), ProxyRecord),
            here(snakemake.input.head),
            Path(snakemake.log[0]).with_suffix(".server.log"),
        )
        write_record(here(snakemake.output.serving), record)
