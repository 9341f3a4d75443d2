"""The layout of the working directory. Only this module spells the names of files under results/.

Names are paths from the root of the tree, as in the rules. To read a tree elsewhere, join them to its root.
"""

from dataclasses import dataclass
from pathlib import Path

RESULTS = "results"
PLAN = "results/plan.json"
LEDGER_CSV = "results/ledger.csv"
LEDGER_PARQUET = "results/ledger.parquet"
CALIBRATION = "results/calibration.json"
HANDOFF = "results/HANDOFF.md"
CHAMPION = "results/champion.json"
VERDICT = "results/verdict.json"
PACKAGE = "results/champion"
REPORT = "results/report"
LOGS = "results/logs"


def acc(arm: str, rung: int) -> str:
    """Return the training record of an arm at a rung."""
    return f"results/{arm}/rung{rung}.acc"


def state(arm: str, rung: int) -> str:
    """Return the folder of the training state of an arm at a rung."""
    return f"results/{arm}/rung{rung}.state"


def serving(arm: str) -> str:
    """Return the selection's measurement of an arm."""
    return f"results/{arm}/serving.json"


def unfiled(arm: str) -> str:
    """Return the measurement of an arm while other heads are measured in the same engine."""
    return f"results/{arm}/serving.unfiled.json"


def head(arm: str) -> str:
    """Return the folder of an arm's exported head."""
    return f"results/{arm}/head"


def preflight(name: str) -> str:
    """Return the record of a successful preflight, by the digest of its inputs."""
    return f"results/preflight/{name}/preflight.json"


def untrained_head(name: str) -> str:
    """Return the folder of the untrained head that a preflight serves."""
    return f"results/preflight/{name}/head"


def search(folder: str) -> str:
    """Return the folder of a bracket's decisions, or of the files after the finalists."""
    return f"results/search/{folder}"


def decision(folder: str, rung: int) -> str:
    """Return the decision on the arms of a bracket that train to a rung."""
    return f"{search(folder)}/rung{rung}.json"


def lever(lever: str) -> str:
    """Return the record of a lever."""
    return f"results/levers/{lever}/lever.json"


def lever_space(lever: str) -> str:
    """Return the search space of a lever."""
    return f"results/levers/{lever}/space.yaml"


def resource(kind: str, digest: str) -> str:
    """Return the folder of a target or of features made by the workflow, by the digest of their inputs."""
    return f"resources/{kind}/{digest}"


def find_accs(root: Path) -> list[Path]:
    """Return the training records under `root`, ordered by arm and rung."""
    return sorted(root.glob(acc("*", 0).replace("rung0", "rung*")))


def find_levers(root: Path) -> list[Path]:
    """Return the records of all levers under `root`."""
    return sorted(root.glob(lever("*")))


def find_contests(root: Path) -> list[Path]:
    """Return the measurements of all verdicts under `root`."""
    return sorted(root.glob(f"{search('*')}/contest-*.json"))


def find_verdicts(root: Path, folder: str) -> list[Path]:
    """Return the verdicts under `root` on the finalists filed in `folder`."""
    return sorted(root.glob(f"{search(folder)}/verdict-*.json"))


@dataclass(frozen=True)
class VerdictFiles:
    """Paths of champion and verdict files from the root of the tree.

    `publications` needs the id of a verdict. `servings` needs the number of one of the `engines`. It is the folder of the records that the
    engine has measured, until they are filed with their arms.
    """

    champion: str
    measurements: str
    verdict: str
    handoff: str
    next_levers: str
    publications: str
    servings: str
    engines: int

    def publication(self, verdict: str) -> str:
        """Return the path of the record that a verdict was published."""
        return self.publications.format(verdict=verdict)
