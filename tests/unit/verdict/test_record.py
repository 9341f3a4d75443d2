"""A record is built with its context or not at all."""

import json
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.verdict.champion import choose_champion
from lib.verdict.record import Context, ServingRecord, differing_keys, read_record, write_record

from tests.unit.records import proxy

CONTEXT = {
    "model": {"target": "t", "draft": {"head": "h"}},
    "hardware": {"device": "cpu"},
    "configuration": {"max_num_seqs": 16},
    "workload": {"prompts": 64},
    "stack": {"vllm": "0.32.0"},
}
ASKED = {"output_tokens": 64}


def serving(arm: str = "gb8", length: float | None = 2.0, **changes) -> ServingRecord:
    fields = {
        "arm": arm,
        "status": "ok",
        "reason": None,
        "context": CONTEXT,
        "acceptance_length": length,
        "per_position_acceptance": [0.6, 0.4],
        "drafts": 10,
        "draft_tokens": 20,
        "accepted": 10,
        "repeats": [{}],
        "head_sha256": "0",
        "asked": ASKED,
    }
    return ServingRecord.model_validate(fields | changes)


def failed(arm: str) -> ServingRecord:
    numbers = dict.fromkeys(ServingRecord.numbers)
    return serving(arm, status="diverged", reason="loss is nan", **{**numbers, "acceptance_length": None})


@pytest.mark.parametrize("section", list(CONTEXT))
def test_no_record_without_every_section_of_its_context(section: str) -> None:
    for context in ({key: CONTEXT[key] for key in CONTEXT if key != section}, CONTEXT | {section: {}}):
        with pytest.raises(ValueError, match=section):
            serving(context=context)


@pytest.mark.parametrize("field", ServingRecord.numbers)
def test_a_sound_measurement_has_all_its_numbers(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is missing"):
        serving(**{"length" if field == "acceptance_length" else field: None})


def test_numbers_are_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        serving(length=float("nan"))


def test_records_round_trip_and_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    write_record(path, serving())
    assert read_record(path, ServingRecord) == serving()
    whole = path.read_text()
    edited = json.dumps(json.loads(whole) | {"acceptance_length": None})
    for spoiled in (whole[: len(whole) // 2], "", edited, json.dumps(json.loads(whole) | {"note": "mine"})):
        path.write_text(spoiled)
        with pytest.raises(UserError, match=r"serving\.json: .*; delete the file, the next run makes it again"):
            read_record(path, ServingRecord)
    with pytest.raises(UserError, match="no such record"):
        read_record(tmp_path / "absent.json", ServingRecord)


@pytest.mark.parametrize(("k", "chain"), [(1, 1.5), (2, 1.625), (3, 1.75), (5, 1.75)])
def test_the_chain_is_of_the_tokens_that_serving_drafts(k: int, chain: float) -> None:
    """Of positions that were never evaluated nothing is known: beyond them it stays as it is."""
    assert proxy("a", accuracies=(0.5, 0.25, 1.0)).chain(k) == chain
    assert proxy("a", "diverged").chain(k) is None


def test_differing_contexts_are_named_by_key() -> None:
    other = CONTEXT | {"configuration": {"max_num_seqs": 32, "dtype": "float32"}, "stack": {"vllm": "0.33.0"}}
    keys = differing_keys(Context.model_validate(CONTEXT), Context.model_validate(other))
    assert keys == ["configuration.dtype", "configuration.max_num_seqs", "stack.vllm"]


def test_champion_is_the_longest_measured_acceptance_and_says_it_is_a_draft() -> None:
    champion = choose_champion([serving("a", 2.0), serving("b", 2.5), serving("s", 1.9), failed("d")], "s", "search", ASKED)
    assert (champion["arm"], champion["acceptance_length"], champion["rigor"]) == ("b", 2.5, "DRAFT")
    assert "+0.600 against the standing configuration" in champion["summary"] and "DRAFT" in champion["summary"]
    assert champion["failed"] == {"d": "diverged: loss is nan"}


def test_ties_go_to_the_smaller_id_and_the_standing_configuration_can_win() -> None:
    assert choose_champion([serving("b"), serving("a"), serving("s", 1.0)], "s", "search", ASKED)["arm"] == "a"
    assert "No arm of the search is ahead" in choose_champion([serving("a", 1.5), serving("s", 2.0)], "s", "search", ASKED)["summary"]


def test_champion_survives_a_failed_standing_configuration_but_not_a_failed_field() -> None:
    assert (
        "the standing configuration failed (diverged: loss is nan)"
        in choose_champion([serving("a"), failed("s")], "s", "x", ASKED)["summary"]
    )
    with pytest.raises(UserError, match="no arm could be measured"):
        choose_champion([failed("a"), failed("s")], "s", "x", ASKED)


def test_arms_measured_in_different_contexts_are_not_compared() -> None:
    other = serving("b", context=CONTEXT | {"stack": {"vllm": "0.33.0"}})
    with pytest.raises(UserError, match=r"different contexts \(stack.vllm\)"):
        choose_champion([serving("a"), other], "a", "x", ASKED)
    elsewhere = CONTEXT | {"model": {"target": "t", "draft": {"head": "other"}}}
    choose_champion([serving("a"), serving("b", context=elsewhere)], "a", "x", ASKED)


def test_a_measurement_under_other_settings_is_not_taken_for_the_one_asked() -> None:
    with pytest.raises(UserError, match=r"results/a/serving.json was measured with output_tokens = 64, .*; delete it"):
        choose_champion([serving("a")], "a", "x", {"output_tokens": 128})
