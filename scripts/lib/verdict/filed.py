"""Where champion, contest and verdict are filed: by what they depend on, beside the decision that picked the finalists."""

from dataclasses import dataclass

from lib.experiment import Experiment
from lib.files import digest


@dataclass(frozen=True)
class VerdictFiles:
    """Paths from the root of the tree. `id` names the verdict where it is acknowledged; its letter keeps YAML from reading a number."""

    id: str
    champion: str
    measurements: str
    verdict: str
    publication: str
    handoff: str
    next_levers: str


def verdict_files(experiment: Experiment) -> VerdictFiles:
    """Return the names that an experiment's champion and verdict have."""
    search, options = experiment.search, experiment.config.verdict
    folder = f"results/search/{search.finalists_folder}"
    measured = [search.standing.id, experiment.asked]
    contested = digest([measured, options.seeds, options.repeats])
    name = "v" + digest([search.id, contested, options.confidence, options.smallest_effect])
    publish = experiment.config.publish
    return VerdictFiles(
        id=name,
        champion=f"{folder}/champion-{digest(measured)}.json",
        measurements=f"{folder}/contest-{contested}.json",
        verdict=f"{folder}/verdict-{name}.json",
        publication=f"{folder}/publication-{name}-{digest(publish.model_dump())}.json",
        handoff=f"{folder}/handoff-{name}.md",
        next_levers=f"{folder}/next-{name}.txt",
    )
