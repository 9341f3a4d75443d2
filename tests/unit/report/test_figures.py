"""The report shows the results tree of a search at any stage."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.report import drawings, pages, words
from lib.report.assemble import FIGURES, draw_report, software
from lib.report.story import read_story
from lib.search.search import Search

from tests.unit.report.trees import STAGES, Stage, make_tree
from tests.unit.search.searches import RECIPE, make_search

LOADED = re.compile(
    r"(?:src|href|action|data|poster)\s*=\s*[\"']?(?:https?:)?//|url\(\s*[\"']?(?:https?:)?//|@import|import\(", re.IGNORECASE
)
"""What a browser would fetch. The names of XML namespaces look like addresses and are not."""


def small(**changes: object) -> Search:
    return make_search(recipe=RECIPE | {"draft": {"method": "eagle3"}}, objective={"draft_tokens": 2}, **changes)


def drawn(root: Path, stage: Stage, **lengths: float | None) -> dict[str, str]:
    make_tree(root, small(), stage, **lengths)
    draw_report(root)
    return {path.name: path.read_text() for path in (root / "results/report").iterdir()}


def text(page: str) -> str:
    """Return what a page or a figure says."""
    bare = re.sub(r"<(style|script).*?</\1>|</?b>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_is_drawn_however_far_the_search_has_come_and_none_loads_anything(tmp_path: Path, stage: Stage) -> None:
    files = drawn(tmp_path, stage)
    assert set(files) == {*FIGURES, "verdict.html", "ledger.html", "provenance.html", "levers.html"}
    for name, content in files.items():
        assert not LOADED.search(content), name
        assert name.endswith(".html") or (content.startswith("<svg") and 'fill="white"' in content), "its own ground makes it legible"
        assert not re.search(r"\b(NaN|nan|undefined)\b", text(content).replace("loss is nan", "")), name


def test_a_verdict_without_a_measurement_of_one_side_is_drawn(tmp_path: Path) -> None:
    files = drawn(tmp_path, "judged", champion=None)
    card = text(files["verdict.html"])
    assert "Insufficient data" in card and "diverged: loss is nan" in card and "not measured" in card
    assert "(DRAFT)" in text(files["acceptance.svg"]) and "VERDICT" not in text(files["acceptance.svg"])
    assert card.index("DRAFT") < card.index("Insufficient data") < card.index("Not judged") and "VERDICT" not in card


def test_a_champion_that_is_the_standing_configuration_is_drawn(tmp_path: Path) -> None:
    standing = {"global_batch": [8], "lr": [3e-4], "warmup": [0.1]}
    make_tree(tmp_path, small(strategy="grid", top_k=1, parameters=standing))
    draw_report(tmp_path)
    assert "No improvement" in text((tmp_path / "results/report/verdict.html").read_text())
    assert set(read_story(tmp_path).fates.values()) == {"standing"}


@pytest.mark.parametrize(("lengths", "outcome"), [((2.5, 2.0), "Improvement"), ((2.0, 2.5), "Regression")])
def test_the_card_gives_outcome_effect_interval_n_and_context(tmp_path: Path, lengths: tuple[float, float], outcome: str) -> None:
    files = drawn(tmp_path, "judged", champion=lengths[0], standing=lengths[1])
    verdict = json.loads((tmp_path / "results/search/verdict.json").read_text())
    card = text(files["verdict.html"])
    low, high = verdict["interval"]
    for said in ("VERDICT", outcome, f"{verdict['effect']:+.3f}", f"{low:+.3f} to {high:+.3f}", "n = 2 and 2", verdict["summary"]):
        assert said in card
    for context in ("tiny-llama", "EPYC", "vLLM 0.32.0", "2 prompts of 32 tokens", "64 output tokens", "k = 2", "EAGLE3 head"):
        assert context in card


@pytest.mark.parametrize(
    ("stage", "said"), [("planned", "No champion yet"), ("begun", "No champion yet"), ("chosen", "No verdict yet: champion so far")]
)
def test_before_the_verdict_the_card_is_marked_draft_and_says_how_the_search_stands(tmp_path: Path, stage: Stage, said: str) -> None:
    card = text(drawn(tmp_path, stage)["verdict.html"])
    assert "DRAFT" in card and said in card and "VERDICT" not in card
    assert "not running; run the same command again to resume" in card


@pytest.mark.parametrize("stage", STAGES)
def test_the_answer_with_which_the_report_opens_is_one_section_of_the_card(tmp_path: Path, stage: Stage) -> None:
    (answer,) = re.findall(r"<section>(.*?)</section>", drawn(tmp_path, stage)["verdict.html"], re.DOTALL)
    mark, title = re.search(r'class="mark.*?">(\w+)<.*?<h1>(.*?)</h1>', answer).groups()
    assert (mark, title) == {
        "planned": ("DRAFT", "No champion yet"),
        "begun": ("DRAFT", "No champion yet"),
        "chosen": ("DRAFT", "No verdict yet: champion so far"),
        "judged": ("VERDICT", "Improvement"),
    }[stage]
    said = text(answer)
    if stage in ("planned", "begun"):
        assert re.search(r"search \w+, strategy hyperband, not running; .*; \d+ of \d+ trainings, 0 of 3 heads served", said)
    else:
        assert "Measured on: tiny-llama" in said and ("n = 2 and 2" if stage == "judged" else "one training seed") in said


def test_fates_are_those_of_the_decisions(tmp_path: Path) -> None:
    search = small()
    make_tree(tmp_path, search)
    story = read_story(tmp_path)
    (final,) = [decision for (folder, _), decision in story.taken.items() if folder == search.finalists_folder]
    assert {arm for arm, fate in story.fates.items() if fate in ("champion", "finalist")} == set(final["arms"]) - {search.standing.id}
    assert story.fates[search.standing.id] == "standing"
    assert list(story.fates.values()).count("champion") == 1
    assert set(story.fates.values()) == {"champion", "finalist", "standing", "dropped"}
    assert min(story.retrained["seed"]) >= 1000 and story.retrained["seed"].nunique() == 2 and set(story.proxies["seed"]) == {0}
    assert len(story.contested) == 4 and len(story.selected) == 3


def test_an_arm_that_has_not_lost_is_undecided(tmp_path: Path) -> None:
    make_tree(tmp_path, small(), "begun")
    fates = read_story(tmp_path).fates
    assert {"undecided", "dropped"} < set(fates.values())


def test_what_early_killing_saved_is_counted_against_the_same_arms_trained_in_full(tmp_path: Path) -> None:
    search = small()
    make_tree(tmp_path, search)
    story = read_story(tmp_path)
    own = story.proxies[story.proxies["fate"] != "standing"]
    used = sum(own["samples"] - own["resumed_from_samples"])
    assert 0 < used < story.in_full() <= own["arm"].nunique() * search.space.rungs.samples[-1]
    assert f"trained {used:,.0f} samples" in words.saving(story) and f"would take {story.in_full():,}" in words.saving(story)


def test_arms_that_diverged_are_on_the_map_and_counted_beside_the_curves(tmp_path: Path) -> None:
    make_tree(tmp_path, small(parameters={"global_batch": [4, 8], "lr": [1e-3, 1e-2, 3e-2], "warmup": [0.0]}))
    story = read_story(tmp_path)
    failed = story.proxies[story.proxies["status"] != "ok"]["arm"].nunique()
    assert failed
    assert f"{failed} arm(s) diverged" in text(drawings.svg(drawings.learning_curves(story)))
    assert f"Black crosses: {failed} arm(s)" in text(drawings.svg(drawings.search_map(story)))


@pytest.mark.parametrize(("top_k", "said"), [(1, "acc0: insufficient data"), (6, "acc0: rank correlation")])
def test_the_proxies_are_drawn_with_the_words_of_the_calibration(tmp_path: Path, top_k: int, said: str) -> None:
    make_tree(tmp_path, small(strategy="random", options={"arms": 8}, top_k=top_k))
    story = read_story(tmp_path)
    assert story.calibration
    figure = text(drawings.svg(drawings.proxies_against_measured(story)))
    assert said in figure and "tiny-llama" in figure and "n = " in figure


def test_the_ledger_page_holds_every_record_and_escapes_what_it_shows(tmp_path: Path) -> None:
    make_tree(tmp_path, small())
    story = read_story(tmp_path)
    story.table.loc[0, "reason"] = "<b>&"
    page = pages.ledger_page(story)
    assert page.count("<tr>") == len(story.table) + 1
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page
    assert "DRAFT" in page


def test_the_hand_off_is_rendered_and_its_html_is_not(tmp_path: Path) -> None:
    page = drawn(tmp_path, "judged")["levers.html"]
    assert '<div class="wide"><table>' in page and "<code>lr</code>" in page and "&lt;script&gt;no" in page


def test_provenance_names_the_commit_where_there_is_one(tmp_path: Path) -> None:
    assert software(tmp_path)["commit"] == "not a git repository"
    assert re.fullmatch(r"[0-9a-f]{40}(, with uncommitted changes)?", software(Path(__file__).parent)["commit"])


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no search has been started here"):
        read_story(tmp_path)


def test_three_hundred_arms_make_a_report_of_a_few_megabytes_at_most(tmp_path: Path) -> None:
    make_tree(tmp_path, small(strategy="random", options={"arms": 300}))
    draw_report(tmp_path)
    files = list((tmp_path / "results/report").iterdir())
    assert len(read_story(tmp_path).fates) > 300
    assert sum(path.stat().st_size for path in files) < 2_000_000, {path.name: path.stat().st_size for path in files}
