"""The engine's counters: reading, differences, acceptance."""

import pytest
from lib.serving.acceptance import Repeat, Run, pooled
from lib.serving.counters import SpeculationCounters, parse_counters, request_counters

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
    assert parse_counters(METRICS, 2) == SpeculationCounters(drafts=12, draft_tokens=24, accepted=9, accepted_per_position=(6, 3))


def test_acceptance_is_that_of_the_difference() -> None:
    counted = parse_counters(METRICS, 2).since(SpeculationCounters(2, 4, 1, (1, 0)))
    assert counted == SpeculationCounters(10, 20, 8, (5, 3))
    assert counted.acceptance_length == 1.8
    assert counted.per_position_acceptance == [0.5, 0.3]


LONG = SpeculationCounters(30, 60, 6, (6, 0))
SHORT = SpeculationCounters(10, 20, 8, (5, 3))


def test_runs_of_different_length_are_pooled_by_what_they_counted() -> None:
    """A run of more drafts counts for more: the mean of 1.8 and 1.2 would be 1.5."""
    runs = {"qa": Run(SHORT, [], {"duration_s": 1.0}), "code": Run(LONG, [], {})}
    record = pooled([Repeat("2026-01-01T00:00:00+00:00", runs), Repeat("2026-01-01T00:01:00+00:00", {**runs, "qa": Run(LONG, [], {})})])
    assert (record["drafts"], record["draft_tokens"], record["accepted"]) == (100, 200, 26)
    assert record["acceptance_length"] == 1 + 26 / 100
    assert record["per_position_acceptance"] == [23 / 100, 3 / 100]
    assert record["subsets"]["qa"]["acceptance_length"] == 1 + 14 / 40
    assert record["subsets"]["code"]["acceptance_length"] == 1.2
    first, second = record["repeats"]
    assert (first["acceptance_length"], second["acceptance_length"]) == (1 + 14 / 40, 1.2)
    assert (first["started_at"], second["started_at"]) == ("2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00")
    assert first["subsets"]["qa"] == {**first["subsets"]["qa"], "acceptance_length": 1.8, "duration_s": 1.0}
    assert "duration_s" not in first and "duration_s" not in record["subsets"]["qa"]


def test_a_request_says_how_many_steps_accepted_how_many() -> None:
    """Of ten steps five accepted nothing, two accepted one token and three both."""
    said = {"acceptance_histogram": [5, 2, 3], "num_spec_steps": 10, "num_draft_tokens": 20, "num_accepted_draft_tokens": 8}
    assert request_counters(said) == SHORT


def test_a_prompts_acceptance_is_that_of_all_its_repeats() -> None:
    repeat = Repeat("", {"qa": Run(SHORT + LONG, [SHORT, LONG], {})})
    swapped = Repeat("", {"qa": Run(SHORT + LONG, [LONG, SHORT], {})})
    assert pooled([repeat])["prompt_acceptance"] == {"qa": [1.8, 1.2]}
    assert pooled([repeat, swapped])["prompt_acceptance"] == {"qa": [1 + 14 / 40, 1 + 14 / 40]}


def test_a_prompt_that_was_never_drafted_for_has_no_acceptance() -> None:
    repeat = Repeat("", {"qa": Run(SHORT + LONG, [SHORT, SpeculationCounters(0, 0, 0, (0, 0)), LONG], {})})
    assert pooled([repeat])["prompt_acceptance"] == {"qa": [1.8, None, 1.2]}


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([], id="no request told"),
        pytest.param([SHORT], id="something else was counted"),
    ],
)
def test_requests_that_do_not_explain_the_counters_have_no_acceptance(requests: list[SpeculationCounters]) -> None:
    whole = Run(SHORT + LONG, [SHORT, LONG], {})
    record = pooled([Repeat("", {"code": whole, "qa": Run(SHORT + LONG, requests, {})})])
    assert record["prompt_acceptance"] is None
    assert record["acceptance_length"] == 1 + 14 / 40


def test_an_engine_that_does_not_speculate_is_told() -> None:
    with pytest.raises(ValueError, match="does not speculate"):
        parse_counters("".join(line + "\n" for line in METRICS.splitlines() if "spec_decode" not in line))


def test_nothing_drafted_has_no_acceptance() -> None:
    same = parse_counters(METRICS, 2)
    with pytest.raises(ValueError, match="drafted nothing"):
        _ = same.since(same).acceptance_length


def test_a_restart_in_between_is_noticed() -> None:
    with pytest.raises(ValueError, match="server was restarted"):
        SpeculationCounters(1, 2, 1, (1, 0)).since(parse_counters(METRICS, 2))


def test_counters_of_another_number_of_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="2 engines report vllm:spec_decode counters in /metrics, not 1"):
        parse_counters(METRICS)
