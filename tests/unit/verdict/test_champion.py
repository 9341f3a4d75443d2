"""The champion is the finalist with the longest acceptance that vLLM measured, and is marked DRAFT."""

import pytest
from lib.arm import Arm
from lib.errors import UserError
from lib.records.measurement import ServingRecord
from lib.verdict.champion import Champion, choose_champion

from tests.unit.made_records import ASKED, SERVED, arm, failed, serving

A, B, D, STANDING = arm(1e-3), arm(2e-3), arm(9e-3), arm(5e-4)


def choose(servings: list[ServingRecord], finalists: list[Arm], standing: Arm = STANDING) -> dict:
    return choose_champion(servings, finalists, standing.id, "search", ASKED).model_dump(mode="json")


def test_the_champion_is_the_finalist_of_longest_measured_acceptance() -> None:
    champion = choose([serving(A.id, 2.0), serving(B.id, 2.5), serving(STANDING.id, 1.9), failed(D.id)], [A, B, D])
    assert (champion["arm"], champion["acceptance_length"], champion["rigor"]) == (B.id, 2.5, "DRAFT")
    assert "+0.600 against the standing configuration" in champion["summary"] and "DRAFT" in champion["summary"]
    assert champion["failed"] == {D.id: "diverged: loss is nan"}
    assert Champion.model_validate(champion).as_arm() == B
    for spoiled in ({"configuration": A.record()}, {"configuration": {"arm": B.id}}, {"acceptance_length": 0.5}):
        with pytest.raises(ValueError, match=r"configuration d|greater than or equal"):
            Champion.model_validate(champion | spoiled)


def test_ties_go_to_the_smaller_id() -> None:
    assert choose([serving(B.id), serving(A.id), serving(STANDING.id, 1.0)], [B, A])["arm"] == min(A.id, B.id)


def test_the_standing_configuration_is_champion_only_where_the_search_found_it() -> None:
    servings = [serving(A.id, 1.5), serving(STANDING.id, 2.0)]
    behind = choose(servings, [A])
    assert behind["arm"] == A.id and "-0.500 against the standing configuration" in behind["summary"]
    itself = choose(servings, [A, STANDING])
    assert itself["arm"] == STANDING.id and "nothing ahead of the standing configuration" in itself["summary"]


def test_a_champion_survives_a_failed_standing_configuration_but_not_a_failed_field() -> None:
    summary = choose([serving(A.id), failed(STANDING.id)], [A])["summary"]
    assert "the standing configuration failed (diverged: loss is nan)" in summary
    with pytest.raises(UserError, match="no arm could be measured"):
        choose([failed(A.id), serving(STANDING.id)], [A])


def test_arms_measured_in_different_contexts_are_not_compared() -> None:
    other = serving(B.id, context=SERVED | {"stack": SERVED["stack"] | {"vllm": "0.33.0"}})
    with pytest.raises(UserError, match=r"different contexts \(stack.vllm\)"):
        choose([serving(A.id), other, serving(STANDING.id)], [A, B])


def test_a_measurement_under_other_settings_is_not_taken_for_the_one_asked() -> None:
    with pytest.raises(UserError, match=rf"results/{A.id}/serving.json was measured with repeats = 1, .*; delete it"):
        choose_champion([serving(A.id)], [A], A.id, "search", ASKED | {"repeats": 2})
