"""A lever is proposed if the data support it, costs what its own search costs, and is judged by that search's outcome."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from lib.config import Config, Range, Values, load_space, parse_config
from lib.experiment import load_experiment
from lib.files import write_json
from lib.next.finding import Finding, Proposal
from lib.next.frontier import FINDERS, NOT_CARRIED, Frontier, changed_words, decide, propose
from lib.next.handoff import format_handoff, format_next, hand_off
from lib.next.levers import common, draft_tokens, edge, method, ranking, training_length
from snakemake.cli import parse_config as parse_words
from snakemake.utils import update_config

from tests.unit.next.findings import PACE, finding, proxy_row
from tests.workflow.clones import ROOT

pytestmark = pytest.mark.usefixtures("at_the_root")


def only(found: list[Proposal] | str) -> Proposal:
    assert not isinstance(found, str), found
    (proposal,) = found
    return proposal


def handed(one: Finding, root: Path) -> tuple[Frontier, str]:
    found = hand_off(one, Config(), PACE, root)
    return found, format_handoff(one, found)


@pytest.mark.parametrize(
    ("name", "domain", "value", "bound"),
    [
        ("global_batch", [4, 8, 16], 4, 2),
        ("global_batch", [4, 8, 16], 16, 32),
        ("global_batch", [4, 8, 16], 8, None),
        ("global_batch", [6, 8], 6, 4),  # 4.5 is no whole number
        ("lr", [1e-3, 3e-3, 1e-2], 1e-2, 3.33e-2),
        ("lr", {"low": 3e-4, "high": 3e-2, "scale": "log"}, 2e-2, 3e-1),
        ("lr", {"low": 3e-4, "high": 3e-2, "scale": "log"}, 4e-4, 3e-5),
        ("lr", {"low": 3e-4, "high": 3e-2, "scale": "log"}, 1e-2, None),
        ("lr", {"low": 3e-4, "high": 3e-2, "scale": "log"}, 9e-2, None),  # the standing configuration may lie outside
        ("lr", {"low": 1e-4, "high": 1e-2, "scale": "log", "steps": 5}, 1e-2, 1e-1),
        ("warmup", [0.0, 0.05, 0.1], 0.1, 0.15),
        ("warmup", {"low": 0.02, "high": 0.2, "scale": "linear"}, 0.03, 0.0),
        ("warmup", [0.0], 0.0, None),
        ("weight_decay", [0.0, 0.1], 0.1, 0.2),
        ("weight_decay", [0.0, 0.1], 0.0, 0.0),  # nothing lies below
    ],
)
def test_the_new_bound_of_an_axis_is_a_step_of_its_own_spacing_beyond_the_edge(
    name: str, domain: Any, value: float, bound: float | None
) -> None:
    axis = Values(values=domain) if isinstance(domain, list) else Range(**domain)
    assert edge.beyond(name, axis, value) == (None if bound is None else pytest.approx(bound))


def test_a_widened_range_keeps_its_spacing_and_a_widened_list_its_values() -> None:
    assert edge.widened(Range(low=1e-4, high=1e-2, scale="log", steps=5), 1e-1) == Range(low=1e-4, high=1e-1, scale="log", steps=7)
    assert edge.widened(Values(values=(4, 8)), 2) == Values(values=(2, 4, 8))


def test_an_edge_is_widened_by_what_the_slope_among_full_configurations_promises() -> None:
    lever = only(edge.find(finding()))  # warmup 0 is at its edge as well, but nothing lies below 0
    assert lever.name == "widen-global-batch-down"
    assert lever.space.parameters.global_batch == Values(values=(2, 4, 8, 16))
    assert lever.expected is not None
    assert 0 < lever.expected < lever.at_most == pytest.approx(4 - 2.54)
    assert "over 5 configurations trained in full" in lever.how


def test_where_the_slope_tells_nothing_the_gain_of_an_edge_is_unknown_and_bounded() -> None:
    for full in ({}, {(8, 2e-3, 0.0): 0.8, (16, 2e-3, 0.0): 0.9, (16, 3e-3, 0.0): 0.9}):  # too few; against it
        lever = only(edge.find(finding(full=full)))
        assert lever.expected is None
        assert lever.how.startswith("unknown; at most 1.46")


def test_an_edge_beyond_which_nothing_can_be_trained_is_passed_over(tmp_path: Path) -> None:
    assert edge.find(finding(point={"global_batch": 8, "warmup": 0.05})) == "the champion lies inside every axis that is searched"
    space = {"parameters": {"global_batch": [16, 64]}, "standing": {"global_batch": 16}}
    found = edge.find(finding(space=space, point={"global_batch": 64, "warmup": 0.05}, folder=tmp_path))
    assert (
        found
        == "global_batch = 64 is at the edge, but 256 cannot be trained: global batch 256 takes no step to reach the rung of 64 samples"
    )


def test_a_rising_curve_asks_for_more_samples_and_a_flat_one_does_not() -> None:
    lever = only(training_length.find(finding()))
    assert lever.space.rungs.samples == (192, 576, 1728)
    assert lever.expected is not None
    assert 0.05 < lever.expected < lever.at_most
    assert "3.4 epochs of 512 prompts (1.1 now). No new data is needed" in lever.why
    flat = ((64, (0.35, 0.25, 0.2)), (192, (0.72, 0.66, 0.6)), (576, (0.72, 0.66, 0.61)))
    assert str(training_length.find(finding(curve=flat))).startswith("the learning curve is flat (+0.00")


def test_a_champion_that_entered_at_the_top_borrows_the_curve_of_the_best_full_arm_that_has_one() -> None:
    recipe = json.dumps(finding().recipe, sort_keys=True)
    point = {"global_batch": 8, "lr": 4e-3, "warmup": 0.0}
    below = tuple(proxy_row("other", point, rung, 64 * 3**rung, (0.3 + 0.1 * rung,) * 3, recipe) for rung in range(3))
    entered = finding(curve=((576, (0.72, 0.66, 0.6)),), extra=below)
    assert "chain estimate (DRAFT) of other is" in only(training_length.find(entered)).why
    assert training_length.find(finding(curve=((576, (0.72, 0.66, 0.6)),))) == (
        "no full arm was evaluated on two rungs, so there is no learning curve"
    )


def test_a_curve_is_carried_on_by_the_law_it_follows() -> None:
    law = [(samples, 3.0 - 1.2 * (samples / 576) ** -0.4) for samples in (64, 192, 576)]
    gain, fit = training_length.extrapolated(law, 3, ceiling=4)
    assert gain == pytest.approx(1.2 * (1 - 3**-0.4), rel=1e-3)
    assert fit == "power law through 3 rungs"
    assert training_length.extrapolated([(64, 1.5), (192, 1.8)], 3, ceiling=4) == (
        pytest.approx(0.3),
        "line in log samples through 2 rungs",
    )
    assert training_length.extrapolated([(64, 1.5), (192, 3.8)], 3, ceiling=4)[0] == pytest.approx(0.2)  # never beyond k + 1


def test_the_next_position_follows_the_trend_of_conditional_acceptance() -> None:
    assert draft_tokens.next_position([0.8, 0.56, 0.336]) == pytest.approx((0.5, 0.168))  # 0.8, 0.7, 0.6 -> 0.5
    assert draft_tokens.next_position([0.5, 0.4]) == pytest.approx((0.8, 0.32))  # it rose: taken as it was
    assert draft_tokens.next_position([0.6]) == pytest.approx((0.6, 0.36))
    assert draft_tokens.next_position([0.5, 0.0]) == (0.0, 0.0)


def test_k_goes_up_while_the_last_position_pays_and_down_when_it_never_does(tmp_path: Path) -> None:
    more = only(draft_tokens.find(finding()))
    assert more.space.objective.draft_tokens == 4
    assert more.expected == pytest.approx(0.34 * (0.34 / 0.52 - (0.52 / 0.75 - 0.34 / 0.52)))
    less = only(draft_tokens.find(finding(per_position=(0.4, 0.1, 0.01))))
    assert (less.space.objective.draft_tokens, less.expected, less.needs) == (2, -0.01, -0.05)
    assert str(draft_tokens.find(finding(per_position=(0.6, 0.3, 0.1)))).startswith("another drafted token would gain about 0.0")
    assert draft_tokens.find(finding(per_position=())) == "no acceptance per position was measured"
    dflash = only(draft_tokens.find(finding(space={"draft": {"method": "dflash"}}, folder=tmp_path)))
    assert (dflash.space.objective.draft_tokens, dflash.space.draft.block_size) == (4, 5)
    assert "heads are retrained" in dflash.how


def test_the_other_proxy_is_proposed_only_when_the_measurements_prefer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(ranking.find(finding())).startswith("no evidence against acc0; acc0: insufficient data (0 of 5")
    monkeypatch.setattr(ranking, "recommend", lambda *_: "chain")
    assert only(ranking.find(finding())).space.proxy == "chain"
    monkeypatch.setattr(ranking, "recommend", lambda *_: "acc0")
    assert isinstance(ranking.find(finding()), str)


def test_the_other_method_is_proposed_until_it_has_been_tried_on_this_target() -> None:
    lever = only(method.find(finding()))
    assert (lever.space.draft.method, lever.space.draft.block_size, lever.expected) == ("dflash", 4, None)
    for target, tried in ((finding().recipe["target"], True), ("another", False)):
        recipe = json.dumps({"target": target, "draft": {"method": "dflash"}})
        row = proxy_row("d", {"global_batch": 8, "lr": 1e-3, "warmup": 0.0}, 2, 576, (0.5,) * 3, recipe)
        assert isinstance(method.find(finding(extra=(row,))), str) is tried


def test_warmups_between_the_few_that_were_searched_are_proposed(tmp_path: Path) -> None:
    assert only(common.find(finding())).space.parameters.warmup == Values(values=(0.0, 0.02, 0.05, 0.1))
    many = {"parameters": {"warmup": [0.0, 0.02, 0.1]}}
    assert isinstance(common.find(finding(space=many, folder=tmp_path)), str)
    close = {"parameters": {"warmup": [0.05, 0.06]}}
    assert isinstance(common.find(finding(space=close, point={"warmup": 0.06}, folder=tmp_path)), list)
    between = {"parameters": {"warmup": [0.1, 0.2]}}
    assert isinstance(common.find(finding(space=between, point={"warmup": 0.2}, folder=tmp_path)), str)


def test_levers_are_ranked_by_gain_an_hour_and_unknown_gains_follow(tmp_path: Path) -> None:
    found, text = handed(finding(), tmp_path)
    names = [one.lever.id.rsplit("-", 1)[0] for one in found.levers]
    assert names == ["widen-global-batch-down", "train-longer", "draft-more", "try-dflash", "warmups-between"]
    values = [one.lever.value for one in found.levers]
    assert values[:2] == sorted(values[:2], reverse=True) and values[2], "lengths at another k come after those of the same"
    assert values[3:] == [None, None]
    assert text.startswith("# Hand-off\n\n**VERDICT: improvement, 2.540.**\n\nChampion of search ")
    assert "## Wall" not in text
    first = format_next(finding(), found).splitlines()
    assert (len(first), first[5]) == (7, "  3. Draft k = 4 tokens instead of 3: +0.21, cost at most 0.11 device-hours")


def test_without_a_pace_levers_are_ranked_by_their_gain_and_the_cost_is_said_to_be_unknown(tmp_path: Path) -> None:
    found = hand_off(finding(), Config(), None, tmp_path)
    expected = [one.lever.expected for one in found.levers[:2]]
    assert expected == sorted(expected, reverse=True)
    assert "Cost: not known (8,064 samples in 27 training jobs, 9 servings)." in format_handoff(finding(), found)
    assert format_next(finding(), found).splitlines()[1].endswith(", cost not known")


def test_a_lever_is_the_same_however_often_it_is_proposed_and_its_space_leads_to_its_search(tmp_path: Path) -> None:
    found, _ = handed(finding(), tmp_path)
    again, _ = handed(finding(), tmp_path)
    assert found == again
    for one in found.levers:
        folder = tmp_path / "results/levers" / one.lever.id
        space = folder / "space.yaml"
        assert space.read_text().startswith(f"# {one.lever.title}. Lever {one.lever.id}, proposed by search ")
        assert load_space(space)
        kept = json.loads((folder / "lever.json").read_text())
        assert load_experiment({"space": str(space)}).search.id == kept["search"] != finding().experiment.search.id


def test_a_lever_that_changes_only_k_trains_for_its_verdict_alone_and_the_others_cost_their_whole_search(tmp_path: Path) -> None:
    by_name = {one.lever.id.rsplit("-", 1)[0]: one.lever for one in handed(finding(), tmp_path)[0].levers}
    assert by_name["draft-more"].samples == 6 * 576, "the verdict's alone"
    assert by_name["draft-more"].device_hours == pytest.approx((6 * 576 * 0.01 + 6 * 7 + (9 + 2) * 30) / 3600)  # and two checks
    assert by_name["train-longer"].samples == 3 * by_name["try-dflash"].samples == 3 * (4608 + 6 * 576)


@pytest.mark.parametrize("config", ["small.yaml", "other"])
def test_the_command_repeats_what_the_run_was_told(config: str) -> None:
    changes = {
        "strategy": "hyperband_tpe",
        "seed_from": "a.json",
        "seed": 3,
        "budget": {"arms": 99},
        "features": {"prompts": "my prompts: all.jsonl"},
        "serving": {"kv_cache_gib": None, "enforce_eager": False},
        "training": {"weight_decay": 1e-5},
    }
    told = yaml.safe_load((ROOT / "tests/configs/small.yaml").read_text()) if config == "small.yaml" else changes
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    words = changed_words(parse_config(told), parse_config(default))
    values = default | {}
    update_config(values, parse_words(shlex.split(shlex.join(words))))
    mine, theirs = (parse_config(one).model_dump(exclude=NOT_CARRIED) for one in (values, told))
    assert mine == theirs
    assert changed_words(parse_config(default), parse_config(default)) == []


def verdict_of(lever: Any, root: Path, mean: float | None, scatter: float = 0.01, **asked: Any) -> None:
    """File the verdict of a lever's search, three seeds `scatter` apart, measured as the lever's origin was but for keys of `asked`."""
    lengths = [] if mean is None else [[mean - scatter], [mean], [mean + scatter]]
    side = {"mean": mean, "n": len(lengths), "acceptance_lengths": lengths}
    values = {"asked": lever.origin.asked | {"repeats": 5} | asked, "champion": side}
    write_json(root / f"results/search/finalists-{lever.search}/verdict-000000.json", values)


def test_a_refuted_lever_stays_with_its_numbers_and_is_not_proposed_again(tmp_path: Path) -> None:
    found, _ = handed(finding(), tmp_path)
    by_name = {one.lever.id.rpartition("-")[0]: one.lever for one in found.levers}
    proven, refuted, noisy = (by_name[name] for name in ("draft-more", "widen-global-batch-down", "train-longer"))
    verdict_of(proven, tmp_path, 2.75, draft_tokens=4)
    verdict_of(refuted, tmp_path, 2.56)
    verdict_of(noisy, tmp_path, 2.75, scatter=0.5)
    again, text = handed(finding(mean=2.55), tmp_path)
    assert [one.lever for one in again.of("proven")] == [proven]
    assert {one.lever.id for one in again.of("refuted")} == {refuted.id, noisy.id}  # as they were proposed, from 2.540
    assert "+0.210, improvement; this compares k = 4 with k = 3, so check the throughput too." in again.of("proven")[0].outcome
    assert (
        f"- **{refuted.title}** (`{refuted.id}`): its champion's acceptance length is 2.560 (n = 3 fresh seeds) against 2.540 "
        "(n = 3 fresh seeds): +0.020, no improvement (within noise)." in text
    )
    assert refuted.command not in text
    assert len(again.of("open")) == len(found.levers) - 3


def test_an_open_lever_that_promised_less_than_there_is_now_is_overtaken_and_one_of_another_target_is_no_business_of_ours(
    tmp_path: Path,
) -> None:
    before, _ = handed(finding(), tmp_path)
    modest = next(one.lever for one in before.levers if one.lever.expected and one.lever.expected < 0.4)
    ahead = finding(mean=3.2, space={"parameters": {"global_batch": [2, 4, 8]}}, folder=tmp_path)
    found, text = handed(ahead, tmp_path)
    (gone,) = [one for one in found.of("refuted") if one.lever == modest]
    assert "overtaken: it promised" in gone.outcome and "has 3.200" in gone.outcome and modest.command not in text
    path = tmp_path / f"results/levers/{modest.id}/lever.json"
    path.write_text(path.read_text().replace(f'"target": "{modest.origin.target}"', '"target": "another"'))
    assert modest.id not in {one.lever.id for one in handed(ahead, tmp_path)[0].levers}


def test_a_lever_stays_open_until_its_search_has_a_verdict_that_was_measured_as_its_origin_was(tmp_path: Path) -> None:
    lever = handed(finding(), tmp_path)[0].levers[0].lever
    assert decide(lever, tmp_path).status == "open"
    verdict_of(lever, tmp_path, None)
    assert decide(lever, tmp_path).status == "open", "no seed of it could be measured"
    verdict_of(lever, tmp_path, 2.9, workload={"temperature": 0.9})
    assert decide(lever, tmp_path).status == "open", "another workload"
    verdict_of(lever, tmp_path, 2.9)
    assert decide(lever, tmp_path).status == "proven"


def test_of_levers_of_one_name_the_present_search_s_own_is_open(tmp_path: Path) -> None:
    handed(finding(), tmp_path)
    other = finding(space={"standing": {"lr": 4e-4}}, folder=tmp_path)
    names = [one.lever.id.rpartition("-")[0] for one in handed(other, tmp_path)[0].of("open")]
    assert len(names) == len(set(names))


def test_an_axis_whose_beyond_was_trained_in_full_is_not_widened() -> None:
    recipe = json.dumps(finding().recipe, sort_keys=True)
    tried = proxy_row("standing", {"global_batch": 2, "lr": 3e-4, "warmup": 0.1}, 2, 576, (0.1,) * 3, recipe=recipe)
    found = edge.find(finding(extra=(tried,)))
    assert isinstance(found, str) and "global_batch = 4 is at the edge, but 2 and beyond was tried (chain 1.11" in found


def test_where_no_lever_is_open_the_wall_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.next.frontier.FINDERS", {name: lambda _: "looked at" for name in FINDERS})
    near, text = handed(finding(mean=3.95), tmp_path)
    assert near.levers == []
    assert "## Wall\n\nAcceptance length 3.950 (n = 3 fresh seeds) is within 2 % of its ceiling k + 1 = 4" in text
    assert text.count("- ") >= len(FINDERS)
    assert "there is no evidence for another lever" in handed(finding(), tmp_path)[1]
    assert format_next(finding(mean=3.95), near) == "Next: no lever is open; results/HANDOFF.md says why.\n"


def test_gains_below_the_smallest_effect_and_spaces_that_cannot_be_searched_are_passed_over(tmp_path: Path) -> None:
    levers, passed = propose(finding(mean=3.97), Config(), PACE)
    assert [lever.id.rsplit("-", 1)[0] for lever, _ in levers] == ["draft-more"]
    assert "method: 'Search the same space with a DFlash head' would gain 0.030 at most, below 0.05 (DRAFT)" in passed
    short = finding(space={"draft": {"method": "dflash"}}, folder=tmp_path, config={"features": {"response_tokens": 5}})
    _, passed = propose(short, Config(), PACE)
    refused = "features.response_tokens = 5 leaves no room to draft 5 tokens ahead; raise it"
    assert f"drafted tokens: 'Draft k = 4 tokens instead of 3' cannot be searched: {refused}" in passed


def test_without_fresh_seeds_the_selection_is_what_levers_start_from(tmp_path: Path) -> None:
    one = finding(mean=None)
    found, _ = handed(one, tmp_path)
    assert found.levers[0].lever.origin.acceptance_length == pytest.approx(2.557, abs=1e-3)
    assert found.levers[0].lever.origin.measured_as == "selection, one seed"
