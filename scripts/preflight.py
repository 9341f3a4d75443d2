"""Serve the target with an untrained head and send one prompt."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.files import write_json
from lib.script import here, running
from lib.serving.bench import engine_settings, make_bench, preflight

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        described = snakemake.params.bench
        require_described(described["described"])
        hold_gpus(engine_settings(described["asked"]).devices)
        log = Path(snakemake.log[0]).with_suffix(".server.log")
        record = preflight(make_bench(described, snakemake.threads), here(snakemake.input.head), log)
        write_json(here(snakemake.output.record), {**record, "image": snakemake.resources.get("image")})
