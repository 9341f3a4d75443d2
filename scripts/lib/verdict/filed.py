"""Where champion, contest and verdict are filed: by what they depend on, beside the decision that picked the finalists."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.errors import UserError
from lib.experiment import Experiment
from lib.files import digest, read_json, read_whole_json


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


def require_acknowledged(verdict: Path, acknowledged: str) -> None:
    """Refuse an acknowledgement of anything but the verdict that is filed. Raises UserError."""
    if not verdict.exists():
        raise UserError(f"ack_publish = {acknowledged!r}, but this configuration has no verdict yet; run without it first")
    found = read_whole_json(verdict, "delete it, the next run gives it again").get("id")
    if found != acknowledged:
        raise UserError(f"ack_publish = {acknowledged!r} is not the id of this configuration's verdict; read it, and acknowledge {found}")


def handed_over(folder: Path, verdict: Path, there: Callable[[str], bool]) -> bool:
    """Return whether a folder holds, with every file, what the verdict that is filed hands over. `there` tells of a file's path."""
    try:
        manifest, given = read_json(folder / "manifest.json"), read_json(verdict)
        return manifest["verdict"] == given["id"] and all(there(str(folder / name)) for name in manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):  # not there or not whole
        return False


def verdict_files(experiment: Experiment) -> VerdictFiles:
    """Return the names that an experiment's champion and verdict have."""
    search, options = experiment.search, experiment.config.verdict
    folder = f"results/search/{search.finalists_folder}"
    measured = [search.standing.id, experiment.asked]
    contested = digest([measured, options.seeds, options.repeats])
    name = digest([search.id, contested, options.confidence, options.smallest_effect])
    publish = experiment.config.publish
    return VerdictFiles(
        champion=f"{folder}/champion-{digest(measured)}.json",
        measurements=f"{folder}/contest-{contested}.json",
        verdict=f"{folder}/verdict-{name}.json",
        handoff=f"{folder}/handoff-{name}.md",
        next_levers=f"{folder}/next-{name}.txt",
        publications=f"{folder}/publication-{{verdict}}-{digest(publish.model_dump())}.json",
    )
