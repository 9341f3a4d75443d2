"""Hand over the head that the verdict leaves in place, with its card and the command that serves it."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.experiment import load_experiment
from lib.script import logger, running
from lib.verdict.champion import Champion
from lib.verdict.contest import Measurements, make_contest
from lib.verdict.handover import choose_head, hand_over
from lib.verdict.record import ProxyRecord, read_record
from lib.verdict.verdict import Verdict

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        experiment = load_experiment(snakemake.config)
        search, seeds = experiment.search, experiment.config.verdict.seeds
        filed = [snakemake.input.verdict, snakemake.input.measurements, snakemake.input.champion]
        verdict = read_record(Path(snakemake.input.verdict), Verdict)
        champion = read_record(Path(snakemake.input.champion), Champion)
        contest = make_contest(champion.as_arm(), search.standing, seeds, search.id)
        winner = choose_head(
            verdict,
            contest,
            read_record(Path(snakemake.input.measurements), Measurements),
            [read_record(Path(path), ProxyRecord) for path in snakemake.input.proxies],
            {Path(head).parent.name: Path(head) for head in snakemake.input.heads},
        )
        hand_over(Path(snakemake.output.handover), winner, verdict, experiment.subsets, filed)
        logger.info("%s", f"the head of {winner.arm.id}" if winner else "no head")
