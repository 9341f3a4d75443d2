"""The package has the head to serve after the verdict, and its card says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from lib.verdict.card import Winner
from lib.verdict.contest import Contest, Measurements, make_contest
from lib.verdict.package import choose_head, hand_over
from lib.verdict.verdict import Verdict

from tests.unit.made_records import ASKED, SERVED, proxy
from tests.unit.verdict.test_verdict import CHAMPION, STANDING, measured, verdict

AHEAD, LEVEL = [2.5, 2.52, 2.48], [2.0, 2.01, 1.99]
SETTINGS = {
    **{"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True, "tensor_parallel": 1},
    **{"gpu_memory_utilization": 0.9, "kv_cache_gib": None},
}


def chosen(champion: list[Any], standing: list[Any], folder: Path) -> tuple[Verdict, Winner | None]:
    contest = make_contest(CHAMPION, STANDING, len(champion), "s")
    given = verdict(champion, standing)
    heads = {arm: folder / arm for arm in contest.arms}
    return given, choose_head(given, contest, asked(contest, champion, standing), [proxy(arm) for arm in contest.arms], heads)


def asked(contest: Contest, champion: list[Any], standing: list[Any]) -> Measurements:
    """Return the measurements of a contest with whole serving settings."""
    measurements = measured(contest, champion, standing)
    servings = [serving.model_copy(update={"asked": ASKED | SETTINGS}) for serving in measurements.servings]
    return measurements.model_copy(update={"servings": servings})


def handed(champion: list[Any], standing: list[Any], folder: Path) -> tuple[Path, Verdict]:
    """Hand over a head of one file; return the folder and the verdict."""
    given, winner = chosen(champion, standing, folder)
    if winner:
        winner.head.mkdir(parents=True)
        (winner.head / "model.safetensors").write_text(winner.arm.id)
    hand_over(folder / "champion", winner, given, {"qa": "prompts.jsonl"}, ["verdict.json"])
    return folder / "champion", given


@pytest.mark.parametrize(
    ("champion", "standing", "side", "seed", "says"),
    [
        (AHEAD, LEVEL, "champion", 0, "Serve it instead of the standing configuration's head"),
        (LEVEL, LEVEL, "standing", 0, "**no win**"),
        (LEVEL, AHEAD, "standing", 0, "**no win**"),
        (AHEAD, [None, 2.01, 1.99], "champion", 0, "Serve it instead"),
        (LEVEL, [None, 2.01, 1.99], "standing", 1, "**no win**"),
        (AHEAD, [None, None, None], "champion", 0, "**not proven**"),
    ],
)
def test_the_first_training_of_the_side_that_stands(
    champion: list[Any], standing: list[Any], side: str, seed: int, says: str, tmp_path: Path
) -> None:
    contest = make_contest(CHAMPION, STANDING, 3, "s")
    arm = getattr(contest, side)[seed].id
    folder, given = handed(champion, standing, tmp_path)
    card = (folder / "README.md").read_text()
    assert (folder / "model.safetensors").read_text() == arm and f"| arm | {arm} |" in card
    judged = given.outcome != "insufficient data"
    assert (f"**{given.summary}**" in card) == judged and says in card
    assert ("VERDICT" in card) == judged and ("**DRAFT: insufficient data. The contest was not judged" in card) != judged
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["side"], manifest["arm"]["arm"], manifest["outcome"]) == (side, arm, given.outcome)


def test_the_card_names_n_interval_settings_and_every_key_of_the_context(tmp_path: Path) -> None:
    folder, _ = handed(AHEAD, LEVEL, tmp_path)
    card = (folder / "README.md").read_text()
    assert "| champion: global batch 8, lr 0.001, warmup 0 | 2.5000 | 2.4663 to 2.5337 | 3 fresh trainings | VERDICT |" in card
    assert "| this head | 2.5000 | none | 1 training, 1 run of the workload | DRAFT |" in card
    assert ".venv/bin/python -m vllm.entrypoints.openai.api_server" in card and 'VLLM_API_KEY="${VLLM_API_KEY:?' in card
    assert '--host "${HOST:-127.0.0.1}"' in card and "--load-format safetensors" in card and "--no-trust-remote-code" in card
    speculation = {"method": "eagle3", "model": str(folder), "num_speculative_tokens": 2}
    assert f"--speculative-config '{json.dumps(speculation)}'" in card and "--max-model-len 256" in card
    assert all(f"\n| {key}" in card for section in SERVED.values() for key in section)


def test_a_contest_without_a_head_says_so(tmp_path: Path) -> None:
    folder, given = handed([None, None], [None, None], tmp_path)
    assert "**DRAFT: insufficient data." in (card := (folder / "README.md").read_text()) and given.reason in card
    assert {file.name for file in folder.iterdir()} == {"README.md", "manifest.json"}
