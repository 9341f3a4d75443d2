"""Text for a terminal."""

from collections.abc import Iterator, Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table. Columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def vocabulary_of(size: float, filler: float, coverage: float) -> str:
    """Return the facts of a draft vocabulary."""
    filled = f", {filler:,.0f} of them filler that occurs in no training answer" if filler else ""
    return f"draft vocabulary of {size:,.0f} tokens{filled}, which covers {coverage:.1%} of the held-out tokens"
