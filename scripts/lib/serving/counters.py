"""The engine's speculation counters, read from `/metrics`.

The counters start with the server and include accepted tokens beyond the end of a request. A measurement is the difference of two
scrapes. The metrics are from `vllm/v1/spec_decode/metrics.py` and are summed over data-parallel engines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "vllm:spec_decode_num_"


@dataclass(frozen=True)
class SpeculationCounters:
    """Numbers of drafts, of proposed tokens, of accepted tokens, and of accepted tokens at each draft position."""

    drafts: int
    draft_tokens: int
    accepted: int
    accepted_per_position: tuple[int, ...]

    def __add__(self, other: "SpeculationCounters") -> "SpeculationCounters":
        positions = zip(self.accepted_per_position, other.accepted_per_position, strict=True)
        return SpeculationCounters(
            drafts=self.drafts + other.drafts,
            draft_tokens=self.draft_tokens + other.draft_tokens,
            accepted=self.accepted + other.accepted,
            accepted_per_position=tuple(one + another for one, another in positions),
        )

    def since(self, before: "SpeculationCounters") -> "SpeculationCounters":
        """Return the counts since `before`. Raises ValueError if a counter went backwards because the server was restarted."""
        positions = zip(self.accepted_per_position, before.accepted_per_position, strict=True)
        difference = SpeculationCounters(
            drafts=self.drafts - before.drafts,
            draft_tokens=self.draft_tokens - before.draft_tokens,
            accepted=self.accepted - before.accepted,
            accepted_per_position=tuple(now - then for now, then in positions),
        )
        if min(difference.drafts, difference.draft_tokens, difference.accepted, *difference.accepted_per_position) < 0:
            raise ValueError(f"speculation counters went backwards from {before} to {self}; the server was restarted")
        return difference

    @property
    def acceptance_length(self) -> float:
        """Tokens per verification step, 1 + accepted / drafts. Raises ValueError without drafts."""
        return 1 + self.accepted / self._some_drafts()

    @property
    def per_position_acceptance(self) -> list[float]:
        """The fraction of drafts accepted up to each position. Raises ValueError without drafts."""
        return [accepted / self._some_drafts() for accepted in self.accepted_per_position]

    def _some_drafts(self) -> int:
        if self.drafts == 0:
            raise ValueError("the engine drafted nothing; speculation was off or no request ran")
        return self.drafts


def parse_counters(metrics: str, engines: int = 1) -> SpeculationCounters:
    """Return the speculation counters in the text of `/metrics`, summed over data-parallel `engines`.

    Raises ValueError if the engine does not speculate, or if another number of engines reports.
    """
    totals: dict[str, int] = {}
    reporting = set()
    positions: dict[int, int] = {}
    for family in text_string_to_metric_families(metrics):
        if not family.name.startswith(_PREFIX):
            continue
        for sample in family.samples:
            if not sample.name.endswith("_total"):
                continue
            reporting.add(sample.labels.get("engine"))
            name = sample.name.removeprefix(_PREFIX).removesuffix("_total")
            if "position" in sample.labels:
                position = int(sample.labels["position"])
                positions[position] = positions.get(position, 0) + int(sample.value)
            else:
                totals[name] = totals.get(name, 0) + int(sample.value)
    if not totals:
        raise ValueError("no vllm:spec_decode counters in /metrics; this engine does not speculate")
    if len(reporting) != engines:
        raise ValueError(f"{len(reporting)} engines report vllm:spec_decode counters in /metrics, not {engines}")
    return SpeculationCounters(
        drafts=totals["drafts"],
        draft_tokens=totals["draft_tokens"],
        accepted=totals["accepted_tokens"],
        accepted_per_position=tuple(positions[position] for position in sorted(positions)),
    )


def request_counters(speculation: Mapping[str, Any]) -> SpeculationCounters:
    """Return one request's share of the counters from `metrics.speculative_decoding` of its response.

    The scheduler counts both in `update_from_output` of `vllm/v1/core/sched/scheduler.py`, so the shares of all requests add up to the
    counters. Both include accepted tokens beyond the end of a request.
    """
    steps_by_accepted = speculation["acceptance_histogram"]
    return SpeculationCounters(
        drafts=speculation["num_spec_steps"],
        draft_tokens=speculation["num_draft_tokens"],
        accepted=speculation["num_accepted_draft_tokens"],
        accepted_per_position=tuple(sum(steps_by_accepted[position:]) for position in range(1, len(steps_by_accepted))),
    )
