"""Write a trained head in the format vLLM loads; a failed arm leaves an empty folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import parse_config
from lib.draft.export import export_head
from lib.script import running
from lib.verdict.record import ProxyRecord, read_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        settings = parse_config(snakemake.config)
        out = Path(snakemake.output.head)
        if read_record(Path(snakemake.input.acc), ProxyRecord).status == "ok":
            export_head(Path(snakemake.input.state), Path(snakemake.input.get("target", settings.target.path)), out)
        else:
            out.mkdir()
