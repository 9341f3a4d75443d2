"""Tables of promotion decisions."""

import pytest
from lib.search.promotion import Score, promote


def ok(arm: str, value: float) -> Score:
    return Score(arm, 0, "ok", value)


DIVERGED = Score("d", 0, "diverged", None, "loss is nan")
OOM = Score("o", 0, "oom", None, "out of memory")


@pytest.mark.parametrize(
    ("scores", "keep", "kept", "dropped"),
    [
        ([ok("a", 0.1), ok("b", 0.3), ok("c", 0.2)], 1, ["b"], [("c", "rank 2 of 3, 1 kept"), ("a", "rank 3 of 3, 1 kept")]),
        ([ok("b", 0.5), ok("a", 0.5), ok("c", 0.5)], 2, ["a", "b"], [("c", "rank 3 of 3, 2 kept")]),
        ([ok("a", 0.1), DIVERGED, OOM], 2, ["a"], [("d", "diverged: loss is nan"), ("o", "oom: out of memory")]),
        ([ok("a", 0.0), DIVERGED], 1, ["a"], [("d", "diverged: loss is nan")]),
        ([DIVERGED, OOM], 1, [], [("d", "diverged: loss is nan"), ("o", "oom: out of memory")]),
        ([], 3, [], []),
    ],
    ids=["best first", "ties by id", "failures last", "zero beats failure", "nobody left", "nobody came"],
)
def test_promotion(scores, keep, kept, dropped) -> None:
    for given in (scores, scores[::-1]):
        promotion = promote(given, keep)
        assert (list(promotion.kept), sorted(promotion.dropped)) == (kept, sorted(dropped))
