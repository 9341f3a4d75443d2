"""Prior arms: used where they match, refused with the keys that differ, and bad files in one line."""

import json
from pathlib import Path

import pytest
from lib.config import Space, Training
from lib.errors import UserError
from lib.search.cohort import decide
from lib.search.priors import Prior, load_priors
from lib.search.promotion import Score
from lib.search.replay import replay
from lib.search.search import Search

from tests.unit.search.searches import RECIPE, SPACE, make_search, measured

ARM = {"global_batch": 8, "lr": 2e-3, "warmup": 0.0, "samples": 64, "accuracies": [0.5, 0.4, 0.25]}
FILE = {"version": 1, "source": "a sweep in March", "context": RECIPE, "arms": [ARM]}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "prior-arms.json"
    path.write_text(json.dumps(FILE | changes))
    return path


def load(path: Path, **space: object):
    return load_priors(path, Space.model_validate(SPACE | space), Training(), RECIPE)


def test_an_arm_is_read_with_its_provenance_and_the_proxy_of_the_space(tmp_path: Path) -> None:
    path = write(tmp_path, measured_on={"stack.torch": "2.13.0"})
    ((prior,), refused) = load(path)
    assert (prior.rung, prior.value, prior.source, refused) == (0, 0.5, "a sweep in March", ())
    assert prior.measured_on == {"stack.torch": "2.13.0"}
    ((prior,), _) = load(path, proxy="chain", objective={"draft_tokens": 2})
    assert prior.value == pytest.approx(1 + 0.5 + 0.5 * 0.4)


@pytest.mark.parametrize(("batch", "samples", "rung"), [(8, 192, 1), (16, 576, 2), (8, 100, None), (16, 190, None)])
def test_a_prior_belongs_to_the_rung_whose_samples_it_consumed(tmp_path: Path, batch: int, samples: int, rung: int | None) -> None:
    ((prior,), _) = load(write(tmp_path, arms=[ARM | {"global_batch": batch, "samples": samples}]))
    assert prior.rung == rung


def test_arms_of_another_context_are_refused_by_key_and_the_others_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no arm can be used, the first because of another context: features, rungs; leave seed_from empty"):
        load(write(tmp_path, context=RECIPE | {"features": "others", "rungs": [64, 192]}))
    used, refused = load(write(tmp_path, arms=[ARM, ARM | {"global_batch": 128}]))
    assert len(used) == 1
    assert refused[0].reason == "global batch 128 takes no step to reach the rung of 64 samples"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"version": 2}, "version = 2: input should be 1; correct it"),
        ({"source": ...}, "source is missing; add it"),
        ({"context": ...}, "context is missing; add it"),
        ({"arms": []}, "arms is empty; name at least one value"),
        ({"arms": [ARM | {"momentum": 0.9}]}, "unknown key 'arms.0.momentum'; known here: global_batch, lr, warmup"),
        ({"arms": [ARM | {"accuracies": [float("nan")]}]}, "arms.0.accuracies.0 = nan: input should be .*; correct it"),
        ({"arms": [ARM | {"accuracies": [1.5]}]}, "arms.0.accuracies.0 = 1.5: input should be less than or equal to 1; correct it"),
        ({"arms": [ARM | {"accuracies": None}]}, "arms.0: accuracies is missing; add it, or set status to diverged or oom"),
        ({"arms": [ARM | {"lr": 0}]}, "arms.0.lr = 0: input should be greater than 0; correct it"),
        ({"arms": [ARM, ARM]}, "global_batch 8, lr 0.002, warmup 0 at 64 samples is listed twice; keep one"),
    ],
)
def test_a_malformed_file_gets_one_line(tmp_path: Path, changes: dict, line: str) -> None:
    path = tmp_path / "prior-arms.json"
    path.write_text(json.dumps({key: value for key, value in (FILE | changes).items() if value is not ...}))
    with pytest.raises(UserError, match=line) as refusal:
        load(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_file_that_is_missing_or_not_json_or_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed_from = '.*absent\.json': no such file; name a prior-arms JSON file or a ledger\.parquet"):
        load(tmp_path / "absent.json")
    for name, line in (("bad.json", "is not JSON"), ("bad.parquet", "is not a ledger")):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=line):
            load(tmp_path / name)


def prior(rung: int, value: float | None, lr: float = 2e-3, **changes: object) -> Prior:
    point = SPACE["standing"] | {"lr": lr}
    status = "ok" if value is not None else "oom"
    caps = SPACE["rungs"]["samples"]
    facts = {"rung": rung, "samples": caps[rung], "status": status, "value": value, "reason": None if value is not None else "no memory"}
    return Prior.model_validate({"point": point, "source": "before", "measured_on": {}} | facts | changes)


def promoted(one: Search, label: str, rung: int) -> dict:
    bracket = next(bracket for bracket in one.brackets if bracket.label == label)
    scores = [Score(arm, rung - 1, "ok", 0.1) for arm in one.foreseen[label]]
    return decide(one, one.folder(bracket), rung, scores, {})


def test_a_prior_competes_once_in_the_first_bracket_that_promotes_from_its_rung() -> None:
    one = make_search(priors=(prior(1, 0.9),))
    arm = one.arm(one.priors[0].point).id
    assert arm in promoted(one, "s2", 2)["arms"] and arm in promoted(one, "s2", 2)["points"]
    assert arm not in promoted(one, "s2", 1)["scores"]
    assert arm not in promoted(one, "s1", 2)["scores"]


def test_a_prior_measured_on_another_stack_does_not_compete_and_the_decision_says_why() -> None:
    one = make_search(priors=(prior(0, 0.9, measured_on={"stack.torch": "2.12.0", "hardware.device_type": "cpu"}),))
    bracket = one.brackets[0]
    scores = [Score(arm, 0, "ok", 0.1) for arm in one.foreseen["s2"]]
    arm = one.arm(one.priors[0].point).id
    decision = decide(one, one.folder(bracket), 1, scores, {}, {"stack.torch": "2.13.0", "hardware.device_type": "cpu"})
    assert arm not in decision["arms"]
    assert decision["dropped"][arm] == "prior arm measured on another stack.torch"
    assert arm in decide(one, one.folder(bracket), 1, scores, {}, {"stack.torch": "2.12.0"})["arms"]


def test_a_promoted_prior_trains_up_from_scratch_and_that_is_counted() -> None:
    without, with_prior = make_search(), make_search(priors=(prior(1, 0.99),))
    result = replay(with_prior, measured)
    arm = with_prior.arm(with_prior.priors[0].point)
    assert (arm.id, 2) in result.scores and (arm.id, 1) not in result.scores
    plain = replay(without, measured)
    assert result.samples == plain.samples + 192  # it takes the place of an arm that had its first 192 samples already
