"""Bracket arithmetic against the published table."""

import pytest
from lib.search.schedule import Bracket, hyperband, in_full, samples


def test_brackets_equal_the_papers_table_for_r_81_and_eta_3() -> None:
    """Table 1 of Li et al., JMLR 18 (2018): columns s = 4 to 0, arms n_i at resource r_i = 1, 3, 9, 27, 81."""
    assert hyperband(rungs=5, eta=3) == (
        Bracket("s4", 0, (81, 27, 9, 3, 1)),
        Bracket("s3", 1, (27, 9, 3, 1)),
        Bracket("s2", 2, (9, 3, 1)),
        Bracket("s1", 3, (6, 2)),
        Bracket("s0", 4, (5,)),
    )


@pytest.mark.parametrize("rungs", range(1, 7))
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_every_bracket_climbs_to_the_top_and_keeps_somebody(rungs: int, eta: int) -> None:
    for bracket in hyperband(rungs, eta):
        assert bracket.rungs[-1] == rungs - 1
        assert bracket.sizes[-1] >= 1
        assert all(upper <= lower / eta for lower, upper in zip(bracket.sizes, bracket.sizes[1:], strict=False))


def test_samples_count_what_every_rung_adds() -> None:
    """The papers' bracket s4 costs 81 x 1 + 27 x 2 + 9 x 6 + 3 x 18 + 1 x 54 with exact resume. A fully trained arm costs its cap."""
    caps = (1, 3, 9, 27, 81)
    assert samples(hyperband(5, 3)[:1], caps) == 81 + 54 + 54 + 54 + 54
    assert samples((in_full("grid", 7, 5),), caps) == 7 * 81
