"""`search`: the size of a search."""

from pathlib import Path

from pydantic import Field

from lib.section import Positive, Section

STRATEGIES = sorted(file.stem for file in (Path(__file__).parents[1] / "search/strategies").glob("[a-z]*.py"))
"""Names of the search strategies, each a file."""


class SearchOptions(Section):
    """How a strategy is sized. Every strategy reads some of these keys and refuses the others."""

    bracket: int | None = Field(None, ge=0, description="hyperband: run only the bracket that drops arms so often; empty: all")
    arms: Positive | None = Field(
        None, description="random, tpe: arms to train in full; empty: as many as the samples of hyperband's brackets pay for"
    )
    round: Positive = Field(4, description="tpe: arms proposed at a time; they train side by side")
