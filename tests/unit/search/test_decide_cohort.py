"""Arms are ranked by the proxy of the space, over as many positions as serving drafts."""

from pathlib import Path

import pytest
from decide_cohort import decide_cohort
from lib.records.measurement import write_record

from tests.unit.made_records import proxy
from tests.unit.search.searches import make_search

ACCURACIES = {"first": (0.6, 0.1, 0.0), "second": (0.5, 0.4, 0.0), "third": (0.4, 0.4, 1.0)}


@pytest.mark.parametrize(
    ("name", "draft_tokens", "order"),
    [
        ("acc0", 3, ["first", "second", "third"]),
        ("chain", 1, ["first", "second", "third"]),
        ("chain", 2, ["second", "first", "third"]),
        ("chain", 3, ["third", "second", "first"]),
        ("chain", 5, ["third", "second", "first"]),
    ],
)
def test_the_proxy_ranks_as_deep_as_serving_drafts(tmp_path: Path, name: str, draft_tokens: int, order: list[str]) -> None:
    search = make_search(proxy=name, objective={"draft_tokens": draft_tokens}, top_k=3)
    evidence = [tmp_path / f"{arm}.acc" for arm in ACCURACIES]
    for path in evidence:
        write_record(path, proxy(path.stem, accuracies=ACCURACIES[path.stem]))
    assert decide_cohort(search, search.finalists_folder, search.top_rung, evidence, [])["arms"] == order
