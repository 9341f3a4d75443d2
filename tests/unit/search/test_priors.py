"""Prior arms: used if they match, otherwise refused with the keys that differ. A bad file is refused in one line."""

import json
import math
from pathlib import Path

import pandas as pd
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
        ({"measured_on": {"stak.torch": "2.13.0"}}, "measured_on.stak.torch is unknown; use parts of stack., hardware.device_type"),
        ({"arms": [ARM, ARM]}, "global batch 8, lr 0.002, warmup 0 at 64 samples is listed twice; keep one"),
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
    for name, line in (("bad.json", "not JSON"), ("bad.parquet", "is not a ledger")):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=line):
            load(tmp_path / name)


def prior(measured_at: int, value: float | None, lr: float = 2e-3, **changes: object) -> Prior:
    point = SPACE["standing"] | {"lr": lr}
    status = "ok" if value is not None else "oom"
    caps = SPACE["rungs"]["samples"]
    facts = {
        "rung": measured_at,
        "samples": caps[measured_at],
        "status": status,
        "value": value,
        "reason": None if value is not None else "no memory",
    }
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


def test_an_arm_that_is_known_at_several_rungs_competes_with_the_highest_alone() -> None:
    one = make_search(priors=(prior(0, 0.9), prior(1, 0.8)))
    arm = one.arm(one.priors[0].point).id
    assert one.contenders(one.folder(one.brackets[0]), 1) == {}
    assert one.contenders(one.folder(one.brackets[0]), 2)[arm].value == 0.8


def test_no_arm_gets_two_places_because_it_is_a_prior_of_a_low_rung_and_a_proposal() -> None:
    """Whatever the sampler would have proposed is known from rung 0: it competes there and is proposed nowhere."""
    for label in ("s1", "s0"):
        point = next(iter(make_search().foreseen[label].values()))
        one = make_search(priors=(prior(0, 0.9).model_copy(update={"point": point}),))
        assert all(one.arm(point).id not in proposal for proposal in one.foreseen.values())
        finalists = [arm.id for arm in replay(one, measured).finalists]
        assert len(set(finalists)) == len(finalists) == 2


def test_failed_arms_and_arms_of_no_rung_teach_and_failed_ones_are_not_proposed() -> None:
    """Twenty arms below lr 1e-3 that failed early, or were good at samples that are no rung, change what TPE proposes."""
    plain = make_search("tpe")
    failed = tuple(prior(0, None, lr=3e-4 + 3e-5 * index, rung=None, samples=24) for index in range(20))
    good = tuple(prior(0, 0.9, lr=3e-4 + 3e-5 * index, rung=None, samples=100) for index in range(20))
    first = [list(make_search("tpe", priors=priors).foreseen["round0"].values()) for priors in ((), failed, good)]
    assert first[0] == list(plain.foreseen["round0"].values())
    assert first[1] != first[0] and first[2] != first[0]
    point = next(iter(make_search().foreseen["s2"].values()))
    one = make_search(priors=(prior(0, None, rung=None, samples=24).model_copy(update={"point": point}),))
    assert all(one.arm(point).id not in proposal for proposal in one.foreseen.values())


def test_a_ledger_under_results_is_refused_since_the_run_rewrites_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/ledger.parquet").write_text("")
    with pytest.raises(UserError, match="is overwritten by this run; copy it out of results/ and name the copy"):
        load(Path("results/ledger.parquet"))


def ledger(tmp_path: Path, *arms: dict, **columns: object) -> Path:
    """Write a ledger with the columns that prior arms are read from."""
    row = {"arm": "a", "kind": "proxy", "rung": 0.0, "global_batch": 8, "lr": 2e-3, "warmup": 0.0, "seed": 0, "accumulation": 2}
    row |= {"samples": 64.0, "status": "ok", "reason": None, "accuracies": [0.5, 0.4, 0.25], "recipe": json.dumps(RECIPE)}
    row |= {"context.stack.torch": "2.13.0", "context.hardware.device_type": "cpu"}
    path = tmp_path / "ledger.parquet"
    pd.DataFrame([row | columns | arm for arm in arms]).to_parquet(path)
    return path


def test_a_ledger_gives_its_arms_once_each_with_what_they_were_measured_on(tmp_path: Path) -> None:
    """One arm with two seeds and two layouts is one arm; serving rows and other searches are none."""
    others = ({"seed": 1}, {"accumulation": 8}, {"kind": "serving"}, {"recipe": json.dumps(RECIPE | {"features": "g"})})
    failed = {"lr": 1e-2, "samples": 24.0, "status": "diverged", "reason": "loss is nan", "accuracies": None}
    used, refused = load(ledger(tmp_path, {}, *others, failed))
    assert [(arm.point.lr, arm.status, arm.rung) for arm in used] == [(2e-3, "ok", 0), (1e-2, "diverged", None)]
    assert used[0].measured_on == {"stack.torch": "2.13.0", "hardware.device_type": "cpu"}
    assert used[0].source == f"{tmp_path}/ledger.parquet: a, rung 0"
    assert [refusal.reason for refusal in refused] == ["another context: features"]


def test_a_ledger_that_pandas_has_converted_gives_the_same_arms(tmp_path: Path) -> None:
    """`convert_dtypes` makes whole numbers of fractions that are whole, and NA of what is missing."""
    path = ledger(tmp_path, {}, {"lr": 1e-2, "status": "diverged", "reason": "loss is\nnan", "accuracies": None}, weight_decay=math.nan)
    used, _ = load(path)
    pd.read_parquet(path).convert_dtypes().to_parquet(path)
    assert load(path)[0] == used and [arm.reason for arm in used] == [None, "loss is nan"]


def test_what_was_trained_for_a_verdict_teaches_no_search(tmp_path: Path) -> None:
    used, refused = load(ledger(tmp_path, {"arm": "a"}, {"arm": "b", "seed": 1000, "lr": 1e-4}))
    assert [one.source.split(": ")[1] for one in used] == ["a, rung 0"] and refused == ()


@pytest.mark.parametrize(
    "columns", [{"recipe": "{"}, {"recipe": None}, {"accuracies": None}, {"status": "lost"}, {"kind": "serving"}, {"samples": None}]
)
def test_a_spoiled_ledger_gets_one_line(tmp_path: Path, columns: dict) -> None:
    path = ledger(tmp_path, {}, **columns)
    with pytest.raises(UserError, match=r"ledger\.parquet") as refusal:
        load(path)
    assert "\n" not in str(refusal.value)


def test_the_chain_is_not_compared_with_arms_that_were_evaluated_less_deep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the first because of 1 accuracies, but proxy = chain compares 3"):
        load(write(tmp_path, arms=[ARM | {"accuracies": [0.9]}]), proxy="chain")
