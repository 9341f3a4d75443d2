"""The engine's counters: read, subtracted, turned into acceptance."""

import pytest
from lib.serving.counters import SpeculationCounters, parse_counters
from lib.serving.measure import pooled

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 0.0
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 10.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 2.0
# HELP vllm:spec_decode_num_drafts_created Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.7954687335788436e+09
# HELP vllm:spec_decode_num_draft_tokens_total Number of draft tokens.
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 20.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="m"} 4.0
# HELP vllm:spec_decode_num_accepted_tokens_total Number of accepted tokens.
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 7.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="m"} 2.0
# HELP vllm:spec_decode_num_accepted_tokens_per_pos_total Accepted tokens per draft position.
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 2.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 5.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="1"} 1.0
"""


def test_engines_are_summed_and_creation_times_skipped() -> None:
    assert parse_counters(METRICS) == SpeculationCounters(drafts=12, draft_tokens=24, accepted=9, accepted_per_position=(6, 3))


def test_acceptance_is_that_of_the_difference() -> None:
    counted = parse_counters(METRICS).since(SpeculationCounters(2, 4, 1, (1, 0)))
    assert counted == SpeculationCounters(10, 20, 8, (5, 3))
    assert counted.acceptance_length == 1.8
    assert counted.per_position_acceptance == [0.5, 0.3]


def test_runs_of_different_length_are_pooled_by_what_they_counted() -> None:
    """A run of more drafts counts for more: the mean of 1.8 and 1.2 would be 1.5."""
    record = pooled([(SpeculationCounters(10, 20, 8, (5, 3)), {"duration_s": 1.0}), (SpeculationCounters(30, 60, 6, (6, 0)), {})])
    assert (record["drafts"], record["draft_tokens"], record["accepted"]) == (40, 80, 14)
    assert record["acceptance_length"] == 1 + 14 / 40
    assert record["per_position_acceptance"] == [11 / 40, 3 / 40]
    assert [one["acceptance_length"] for one in record["repeats"]] == [1.8, 1.2]
    assert "duration_s" not in record and record["repeats"][0]["duration_s"] == 1.0


def test_an_engine_that_does_not_speculate_is_told() -> None:
    with pytest.raises(ValueError, match="does not speculate"):
        parse_counters("".join(line + "\n" for line in METRICS.splitlines() if "spec_decode" not in line))


def test_nothing_drafted_has_no_acceptance() -> None:
    same = parse_counters(METRICS)
    with pytest.raises(ValueError, match="drafted nothing"):
        _ = same.since(same).acceptance_length


def test_a_restart_in_between_is_noticed() -> None:
    with pytest.raises(ValueError, match="server was restarted"):
        SpeculationCounters(1, 2, 1, (1, 0)).since(parse_counters(METRICS))
