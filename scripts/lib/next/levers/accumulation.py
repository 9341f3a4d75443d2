"""Accumulation: a lever for speed and memory, not for acceptance."""

from lib.next.finding import Finding, Found


def find(finding: Finding) -> Found:
    """Say why accumulation is never proposed."""
    searched = "is searched" if "accum" in finding.space.parameters.searched() else "is not searched"
    return f"it {searched}; the loss is a mean over the whole global batch, so it changes rounding and speed, not what is learned"
