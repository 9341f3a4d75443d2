"""Judge the champion by the measurements of the contest."""

from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.config import VerdictOptions
from lib.records.measurement import ProxyRecord, read_record, write_record
from lib.script import here, running
from lib.verdict.champion import Champion
from lib.verdict.contest import Measurements, make_contest
from lib.verdict.verdict import give_verdict

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        chosen = read_record(here(snakemake.input.champion), Champion)
        champion, standing = chosen.as_arm(), Arm.from_record(snakemake.params.standing)
        options = VerdictOptions.model_validate(snakemake.params.verdict)
        contest = make_contest(champion, standing, options.seeds, chosen.search)
        measurements = read_record(here(snakemake.input.measurements), Measurements)
        measurements.require(contest, champion.id, standing.id)
        proxies = [read_record(here(path), ProxyRecord) for path in snakemake.input.proxies]
        verdict = give_verdict(contest, measurements, proxies, options, search=chosen.search)
        write_record(here(snakemake.output.verdict), verdict)
