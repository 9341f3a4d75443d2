"""Serve champion and standing configuration, trained with fresh seeds, in turn on one node."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.devices import hold_gpus
from lib.features.description import require_described
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, logger, running
from lib.serving.bench import Bench, make_bench, serve_arm
from lib.verdict.champion import Champion
from lib.verdict.contest import Contest, Measurements, make_contest

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_contest(
    contest: Contest, champion: str, standing: str, bench: Bench, proxies: list[Path], heads: list[Path], log: Path
) -> Measurements:
    """Measure every arm of a contest, one after the other in this process.

    An interrupted job restarts from the beginning, because measurements of two nodes or days must not be mixed.
    """
    order, servings = list(contest.order()), []
    for number, ((side, arm), proxy, head) in enumerate(zip(order, proxies, heads, strict=True), start=1):
        logger.info("%d of %d: %s, %s", number, len(order), side, arm.id)
        servings.append(serve_arm(bench, read_record(proxy, ProxyRecord), head, log))
    return Measurements(champion=champion, standing=standing, order=[side for side, _ in order], servings=servings)


if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        champion = read_record(here(snakemake.input.champion), Champion).as_arm()
        standing = Arm.from_record(snakemake.params.standing)
        verdict, described = snakemake.params.verdict, snakemake.params.bench
        require_described(described["described"])
        hold_gpus(described["asked"]["tensor_parallel"])
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
