"""Serve the target with finalists and standing configuration, one head after the other, and read the counters of the engine."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.files import whole_directory
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, running
from lib.serving.bench import Bench, engine_settings, make_bench
from lib.serving.kept import Kept
from lib.serving.series import Contender, Series

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_serving(bench: Bench, contenders: list[Contender], log: Path, kept: Kept, out: Path) -> None:
    """Measure heads and write their records to the folder `out`. What an interrupted attempt has measured is not measured again."""
    found = kept.find([one.trained for one in contenders], bench.asked)
    pending = [record for record in found if record.engine and record.engine.check == "pending"]
    done = {record.arm: record for record in found if record not in pending}
    left = [one for one in contenders if one.trained.arm not in done]
    records = [*done.values(), *Series(bench, left, log, kept.keep).measure(pending)]
    with whole_directory(out) as folder:
        for record in records:
            write_record(folder / f"{record.arm}.json", record)
    kept.forget(record.arm for record in records)


if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        described, standing = snakemake.params.bench, snakemake.params.standing
        require_described(described["described"])
        hold_gpus(engine_settings(described["asked"]).devices)
        trained = [read_record(here(path), ProxyRecord) for path in snakemake.input.proxies]
        measure_serving(
            make_bench(described, snakemake.threads),
            [
                Contender("standing" if record.arm == standing else "finalist", record, here(head))
                for record, head in zip(trained, snakemake.input.heads, strict=True)
            ],
            Path(snakemake.log[0]).with_suffix(".server.log"),
            Kept(snakemake.params.streaming["url"]),
            here(snakemake.output.servings),
        )
