"""Propose a bracket's first arms, promote the best of the cohort below, or pick the finalists."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.files import flat, write_json
from lib.records.comparison import require_comparable
from lib.records.measurement import ProxyRecord, read_record
from lib.script import here, running
from lib.search.cohort import decide
from lib.search.decisions import Decision
from lib.search.priors import MEASURED_ON
from lib.search.promotion import Score
from lib.search.proxy import proxy_value
from lib.search.search import Search

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def decide_cohort(search: Search, folder: str, rung: int, evidence: list[Path], below: list[Path]) -> dict[str, Any]:
    """Return the decision on the evidence of .acc files and the decisions `below`. Raises UserError when proxies are not comparable."""
    records = [read_record(path, ProxyRecord) for path in evidence]
    require_comparable(records)
    sound = next((record for record in records if record.status == "ok"), None)
    context = flat(sound.context.model_dump(mode="json")) if sound else {}
    points = {arm: point for path in below for arm, point in read_record(path, Decision)["points"].items()}
    return decide(
        search,
        folder,
        rung,
        [_score(record, search) for record in records],
        points,
        {key: value for key, value in context.items() if key.startswith(MEASURED_ON)},
    )


def _score(record: ProxyRecord, search: Search) -> Score:
    value = proxy_value(search.space.proxy, record.accuracies, search.space.objective.draft_tokens) if record.accuracies else None
    return Score(record.arm, record.rung, record.status, value if record.status == "ok" else None, record.reason)


if __name__ == "__main__":
    with running(snakemake.log[0]):
        decision = decide_cohort(
            search=Search.from_description(snakemake.params.search),
            folder=snakemake.wildcards.bracket,
            rung=int(snakemake.wildcards.rung),
            evidence=[here(path) for path in snakemake.input.evidence],
            below=[here(path) for path in snakemake.input.decisions],
        )
        write_json(here(snakemake.output.decision), decision)
