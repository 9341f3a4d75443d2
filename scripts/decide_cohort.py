"""Propose a bracket's first arms, promote the best of the cohort below, or pick the finalists."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import Space
from lib.files import write_json
from lib.script import running
from lib.search.cohort import decide
from lib.search.promotion import Score
from lib.search.search import Search
from lib.verdict.comparison import require_comparable
from lib.verdict.record import ProxyRecord, read_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def decide_cohort(search: Search, folder: str, rung: int, evidence: list[Path]) -> dict[str, Any]:
    """Return the decision on the evidence of .acc files. Raises UserError when their proxies are not comparable."""
    records = [read_record(path, ProxyRecord) for path in evidence]
    require_comparable(records)
    scores = [Score(record.arm, record.status, _proxy(search.space, record), record.reason) for record in records]
    return decide(search, folder, rung, scores)


def _proxy(space: Space, record: ProxyRecord) -> float | None:
    return record.acc0 if space.proxy == "acc0" else record.chain(space.objective.draft_tokens)


if __name__ == "__main__":
    with running(snakemake.log[0]):
        decision = decide_cohort(
            search=Search.from_description(snakemake.params.search),
            folder=snakemake.wildcards.bracket,
            rung=int(snakemake.wildcards.rung),
            evidence=[Path(path) for path in snakemake.input.evidence],
        )
        write_json(Path(snakemake.output.decision), decision)
