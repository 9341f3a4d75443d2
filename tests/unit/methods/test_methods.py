"""The contract of all head methods. New methods are included automatically; tests/unit/draft/ tests training and export."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lib.config import Training
from lib.experiment import load_experiment
from lib.methods import FIRST_OPTIONS, Draft, heads, read_draft, title_of
from lib.verdict.contest import make_contest

ROOT = Path(__file__).parents[3]
METHODS = list(heads())
OTHER_VALUES = {
    **{"layers": 2, "aux_layers": [0, 1, 2], "draft_vocab_size": 100, "loss_fn": "tv", "ttt_steps": 4, "ttt_step_loss_decay": 0.8},
    **{"norm_before_residual": False, "norm_before_fc": False, "norm_output": False, "block_size": 8, "anchors": 16},
    **{"mask_token_id": 2, "dflash_decay_gamma": 7.0, "dpace_alpha": 0.4, "per_position_loss_weight": "dpace"},
}
OTHER_RECIPE = {
    **{"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1, "grad_clip": 0.5, "final_lr_fraction": 0.0},
    **{"schedule": "linear"},
}


def make(method: str, **options: object) -> Draft:
    return read_draft({"method": method, "aux_layers": [1, 2, 3], **options})


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_what_is_asked_of_it(method: str) -> None:
    draft = make(method)
    assert draft.title and draft.served_as and draft.decoder and draft.counted
    assert title_of(method) == draft.title
    assert draft.positions >= 1
    assert all(field.description for field in type(draft).model_fields.values())
    assert read_draft(json.loads(draft.model_dump_json())) == draft


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_drafts_more_tokens_is_made_by_the_options_it_names(method: str) -> None:
    for tokens in (1, 3, 9):
        needed, _ = make(method).for_tokens(tokens)
        assert make(method, **needed).for_tokens(tokens)[0] == {}


@pytest.mark.parametrize("one", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_a_method_takes_the_place_of_another(one: str, other: str) -> None:
    draft = make(one, layers=2, draft_vocab_size=100, loss_fn="ce")
    changed = heads()[other].in_place_of(draft, 6)
    assert (changed.method, changed.layers, changed.draft_vocab_size, changed.loss_fn) == (other, 2, 100, "ce")
    assert changed.for_tokens(6)[0] == {}


def test_configurations_and_methods_are_read_without_torch() -> None:
    code = "import sys, lib.config, lib.methods.eagle3, lib.methods.dflash; print({'torch', 'speculators', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "scripts")}, text=True) == "set()\n"


def test_dpace_wants_cross_entropy() -> None:
    with pytest.raises(ValueError, match="loss_fn = 'kl_div' does not go with per_position_loss_weight = 'dpace'; set ce"):
        make("dflash", per_position_loss_weight="dpace")


def test_options_of_another_method_are_left_out_at_their_defaults_and_else_refused() -> None:
    assert make("eagle3", **FIRST_OPTIONS) == make("eagle3")
    with pytest.raises(ValueError, match="block_size = 8 is not read by method = 'eagle3'; remove it"):
        make("eagle3", block_size=8)


def test_losses_are_those_of_speculators() -> None:
    from speculators.losses.utils import _LOSS_FN_MAPS

    choices = Draft.model_json_schema()["properties"]["loss_fn"]["enum"]
    assert all(list(names) == choices for names in _LOSS_FN_MAPS.values())


@pytest.mark.usefixtures("at_the_root")
@pytest.mark.parametrize(
    ("space", "standing", "search", "first_seed"),
    [("eagle3", "gb8-lr3e-4-wu0.1-s0-c45bb0df", "48d1e7", 924058), ("dflash", "gb8-lr3e-4-wu0.1-s0-465d5169", "c216a1", 525915)],
)
def test_keys_that_were_added_later_leave_ids_and_fresh_seeds_as_they_were(
    space: str, standing: str, search: str, first_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11.7: target and prompts of the embedded default are named by the version of Python."""
    monkeypatch.setattr("platform.python_version", lambda: "3.11.7")
    found = load_experiment({"space": f"config/spaces/{space}-draft.yaml"}).search
    assert (found.standing.id, found.id) == (standing, search)
    assert make_contest(found.standing, found.standing, 3, found.id).champion[0].seed == first_seed


@pytest.mark.usefixtures("at_the_root")
def test_every_key_of_recipe_and_head_is_part_of_the_arm_s_id(tmp_path: Path) -> None:
    named = {load_experiment({}).search.standing.id}
    changed: list[tuple[str, dict[str, object], dict[str, object]]] = []
    for method in METHODS:
        for key, value in OTHER_VALUES.items():
            if key in heads()[method].model_fields:
                changed.append((method, {key: value} | ({"loss_fn": "ce"} if value == "dpace" else {}), {}))
    changed += [("eagle3", {}, {key: value}) for key, value in OTHER_RECIPE.items()]
    for number, (method, draft, training) in enumerate(changed):
        space = yaml.safe_load((ROOT / f"config/spaces/{method}-draft.yaml").read_text())
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(space | {"draft": space["draft"] | draft}))
        named.add(load_experiment({"space": str(path), "training": training}).search.standing.id)
    assert len(named) == 1 + len(changed)
    keys = {key for head in heads().values() for key in head.model_fields} | Training.model_fields.keys()
    layout = {"ranks", "micro_batch_limit"}
    assert keys == {"method", *layout, *OTHER_VALUES, *OTHER_RECIPE}, "a key is not tried here"
