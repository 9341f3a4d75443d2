"""Write the head to serve after the verdict, with its model card and serve command."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.records.measurement import ProxyRecord, read_record
from lib.script import here, logger, running
from lib.verdict.champion import Champion
from lib.verdict.contest import Measurements, make_contest
from lib.verdict.package import choose_head, hand_over
from lib.verdict.verdict import Verdict

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        filed = [str(here(snakemake.input[name])) for name in ("verdict", "measurements", "champion")]
        verdict = read_record(here(snakemake.input.verdict), Verdict)
        champion = read_record(here(snakemake.input.champion), Champion)
        contest = make_contest(champion.as_arm(), Arm.from_record(snakemake.params.standing), snakemake.params.seeds, champion.search)
        winner = choose_head(
            verdict,
            contest,
            read_record(here(snakemake.input.measurements), Measurements),
            [read_record(here(path), ProxyRecord) for path in snakemake.input.proxies],
            {Path(head).parent.name: here(head) for head in snakemake.input.heads},
        )
        hand_over(here(snakemake.output.handover), winner, verdict, snakemake.params.subsets, filed)
        logger.info("%s", f"the head of {winner.arm.id}" if winner else "no head")
