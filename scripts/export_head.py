"""Write a trained head in the format vLLM loads. The folder of a failed arm is empty."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.draft.export import export_head
from lib.records.measurement import ProxyRecord, read_record
from lib.script import here, running

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        out = here(snakemake.output.head)
        if read_record(here(snakemake.input.acc), ProxyRecord).status == "ok":
            export_head(here(snakemake.input.state), Path(snakemake.params.target), out)
        else:
            out.mkdir()
