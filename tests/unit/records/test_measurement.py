"""A record cannot be built without its whole context."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.records.measurement import ProxyRecord, ServingRecord, read_record, write_record

from tests.unit.made_records import CONTEXT, SERVED, failed, proxy, serving, serving_values


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field, sections included."""
    for key, part in value.items():
        yield (*path, key)
        if isinstance(part, dict):
            yield from leaves(part, (*path, key))


def changed(value: dict[str, Any], path: tuple[str, ...], change: Any) -> dict[str, Any]:
    """Return a copy with the field at `path` set to `change`, or removed when that is None."""
    copy = deepcopy(value)
    *above, last = path
    part = copy
    for key in above:
        part = part[key]
    if change is None:
        del part[last]
    else:
        part[last] = change
    return copy


NAMED_BY_CONTENT = (("workload", "subsets", "qa"),)


@pytest.mark.parametrize("path", [path for path in leaves(SERVED) if path not in NAMED_BY_CONTENT], ids=".".join)
def test_no_measurement_in_serving_without_any_one_field_of_its_context(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"Field required|does not describe a serving engine"):
        serving(context=changed(SERVED, path, None))


@pytest.mark.parametrize("path", list(leaves(CONTEXT)), ids=".".join)
def test_no_proxy_without_any_one_field_of_its_context(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="Field required"):
        ProxyRecord.model_validate(proxy("a").model_dump() | {"context": changed(CONTEXT, path, None)})


@pytest.mark.parametrize("path", [path for path in leaves(SERVED) if len(path) == 1], ids=".".join)
def test_no_section_is_empty_and_no_field_unknown(path: tuple[str, ...]) -> None:
    for spoiled in ({}, SERVED[path[0]] | {"note": "mine"}):
        with pytest.raises(ValueError, match=path[0]):
            serving(context=SERVED | {path[0]: spoiled})


@pytest.mark.parametrize("field", ServingRecord.numbers)
def test_a_sound_measurement_has_all_its_numbers(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is missing"):
        serving(**{field: None})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.9])
def test_an_acceptance_length_is_finite_and_at_least_1(value: float) -> None:
    with pytest.raises(ValueError, match=r"finite|greater than or equal to 1|is not 1 \+ accepted"):
        serving(acceptance_length=value)


def test_an_acceptance_length_follows_from_its_counts() -> None:
    with pytest.raises(ValueError, match=r"acceptance_length = 2.0 is not 1 \+ accepted / drafts = 1 \+ 9000 / 10000"):
        serving(accepted=9000)
    edited = serving_values()
    edited["repeats"][0]["subsets"]["qa"]["accepted"] = 1
    with pytest.raises(ValueError, match=r"repeats.0.subsets.qa"):
        ServingRecord.model_validate(edited)


def test_the_speed_of_light_is_named_with_its_ceiling_or_not_at_all() -> None:
    for share in ({"sol_percent": 40.0}, {"sol_ceiling": "GB300"}):
        with pytest.raises(ValueError, match="sol_percent and sol_ceiling go together"):
            serving(context=SERVED | {"grounding": SERVED["grounding"] | share})


def test_a_standard_deviation_takes_two_replicates() -> None:
    for n, std in ((1, 0.1), (2, None)):
        with pytest.raises(ValueError, match=f"does not go with n = {n}"):
            serving(context=SERVED | {"grounding": SERVED["grounding"] | {"n": n, "std": std}})


def test_an_arm_that_failed_has_the_context_of_its_training_and_a_reason() -> None:
    assert failed("a").status == "diverged"
    with pytest.raises(ValueError, match="does not describe a serving engine"):
        serving(context=CONTEXT)


def test_a_proxy_is_a_draft_and_so_is_a_measurement_for_selection() -> None:
    assert proxy("a").rigor == serving().rigor == "DRAFT"
    with pytest.raises(ValueError, match="rigor"):
        serving(rigor="VERDICT")


def test_records_round_trip_and_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    write_record(path, serving())
    assert read_record(path, ServingRecord) == serving()
    whole = path.read_text()
    edited = json.dumps(json.loads(whole) | {"acceptance_length": None})
    nan = whole.replace('"acceptance_length": 2.0', '"acceptance_length": NaN')
    for spoiled in (whole[: len(whole) // 2], "", edited, nan, json.dumps(json.loads(whole) | {"note": "mine"})):
        path.write_text(spoiled)
        with pytest.raises(UserError, match=r"serving\.json: .*; delete the file, and the next run makes it again") as refusal:
            read_record(path, ServingRecord)
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="no such record"):
        read_record(tmp_path / "absent.json", ServingRecord)
