"""The layout of the results tree. This module alone knows the names of its files, as paths from the root of the tree."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VerdictFiles:
    """Paths from the root of the tree, but for `publication`, which takes the id of a verdict."""

    champion: str
    measurements: str
    verdict: str
    handoff: str
    next_levers: str
    publications: str

    def publication(self, verdict: str) -> str:
        """Return where it is filed that a verdict was recorded."""
        return self.publications.format(verdict=verdict)
