"""The ledger has one row for every record of the tree."""

import json
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.files import write_json
from lib.records import layout
from lib.records.measurement import write_record
from lib.report.pages import ledger_page, verdict_card
from lib.report.story import read_story
from lib.report.tables import ledger, write_ledger
from lib.search.priors import load_priors
from lib.verdict.contest import Measurements

from tests.unit.made_records import arm, proxy, serving
from tests.unit.report.trees import make_tree
from tests.unit.search.searches import RECIPE, SPACE, make_search


def test_the_ledger_shows_the_chain_over_every_position_that_was_evaluated(tmp_path: Path) -> None:
    for rate, record in ((1e-3, {"accuracies": (0.5, 0.25)}), (1e8, {"status": "diverged"})):
        one = arm(rate)
        write_record(tmp_path / layout.acc(one.id, 0), proxy(one, **record))
    table = ledger(tmp_path).set_index("lr")
    assert table.loc[1e-3, "chain_of_all_positions"] == 1.625
    assert table["chain_of_all_positions"].isna().tolist() == [False, True] == table["acc0"].isna().tolist()


def test_the_ledger_holds_what_was_measured_for_a_verdict_beside_what_was_measured_for_selection(tmp_path: Path) -> None:
    chosen, fresh = arm(), arm(seed=1000)
    for one in (chosen, fresh):
        write_record(tmp_path / layout.acc(one.id, 0), proxy(one))
    write_record(tmp_path / layout.serving(chosen.id), serving(chosen.id))
    servings = [serving(fresh.id, 2.1), serving(fresh.id, 2.2)]
    contest = Measurements(champion=chosen.id, standing=chosen.id, order=["champion", "standing"], servings=servings)
    write_record(tmp_path / "results/search/finalists-x/contest-y.json", contest)
    write_json(tmp_path / layout.PLAN, {"search": make_search(recipe=chosen.recipe).describe()})
    write_ledger(tmp_path)
    calibration = json.loads((tmp_path / layout.CALIBRATION).read_text())
    assert (calibration["rigor"], calibration["recommended"]) == ("DRAFT", None)
    assert [one["proxy"] for one in calibration["proxies"]] == ["acc0", "chain"]
    table = ledger(tmp_path)
    served = table[table["kind"] == "serving"].set_index("taken_for")
    assert served["seed"].to_dict() == {"selection": 0, "contest-y, 1, champion": 1000, "contest-y, 2, standing": 1000}
    assert served["acceptance_length"].to_dict() == {"selection": 2.0, "contest-y, 1, champion": 2.1, "contest-y, 2, standing": 2.2}
    assert set(table["rigor"]) == {"DRAFT"}
    (tmp_path / layout.acc(fresh.id, 0)).unlink()
    with pytest.raises(UserError, match=r"is not under .*; copy its folder back"):
        ledger(tmp_path)


def test_a_hyperparameter_that_some_arms_lack_is_told_of_the_others_and_read_back(tmp_path: Path) -> None:
    """The standing configuration trains by the shared weight decay, the arms by their own."""
    recipe = RECIPE | {"draft": {"method": "eagle3"}, "training": {}}
    search = make_search(parameters=SPACE["parameters"] | {"weight_decay": [0.0, 0.1]}, recipe=recipe)
    make_tree(tmp_path, search)
    table = ledger(tmp_path)
    alone = table["arm"].str.contains("-wd")
    assert table[alone]["weight_decay"].notna().all() and not table[~alone]["weight_decay"].notna().any()
    priors, _ = load_priors(tmp_path / layout.LEDGER_PARQUET, search.space, search.training, search.recipe)
    assert {search.arm(prior.point).id for prior in priors} == set(table[(table["kind"] == "proxy") & (table["seed"] == 0)]["arm"])
    story = read_story(tmp_path)
    for page in (ledger_page(story), verdict_card(story, tmp_path)):
        assert "weight decay" in page
    make_tree(tmp_path / "without", make_search(recipe=RECIPE | {"draft": {"method": "eagle3"}}))
    assert "weight decay" not in ledger_page(read_story(tmp_path / "without"))
