"""Serve champion and standing configuration, trained with fresh seeds, in turn on one node."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, running
from lib.serving.bench import Bench, engine_settings, make_bench
from lib.serving.series import Contender, Series
from lib.verdict.champion import Champion
from lib.verdict.contest import Contest, Measurements, make_contest

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_contest(
    contest: Contest, champion: str, standing: str, bench: Bench, proxies: list[Path], heads: list[Path], log: Path
) -> Measurements:
    """Measure every arm of a contest in turn, in one engine if their heads can be exchanged.

    An interrupted job restarts from the beginning, because measurements of two nodes or days must not be mixed.
    """
    order = list(contest.order())
    contenders = [
        Contender(side, read_record(proxy, ProxyRecord), head) for (side, _), proxy, head in zip(order, proxies, heads, strict=True)
    ]
    servings = Series(bench, contenders, log).measure()
    return Measurements(champion=champion, standing=standing, order=[side for side, _ in order], servings=servings)


if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        champion = read_record(here(snakemake.input.champion), Champion).as_arm()
        standing = Arm.from_record(snakemake.params.standing)
        verdict, described = snakemake.params.verdict, snakemake.params.bench
        require_described(described["described"])
        hold_gpus(engine_settings(described["asked"]).devices)
        measurements = measure_contest(
            make_contest(champion, standing, verdict["seeds"], snakemake.params.search),
            champion.id,
            standing.id,
            make_bench(described, snakemake.threads, verdict["repeats"]),
            [here(path) for path in snakemake.input.proxies],
            [here(path) for path in snakemake.input.heads],
            Path(snakemake.log[0]).with_suffix(".server.log"),
        )
        write_record(here(snakemake.output.measurements), measurements)
