"""The layout of a tree: what lies where below the working directory. This module alone spells the names of files under results/.

Names are paths from the root of the tree, as the rules spell them. Whoever reads a tree elsewhere joins them to its root.
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
    """Return the measurement of an arm that was taken for the selection."""
    return f"results/{arm}/serving.json"


def head(arm: str) -> str:
    """Return the folder of an arm's exported head."""
    return f"results/{arm}/head"


def preflight(name: str) -> str:
    """Return the record that a target can be served with a head of this kind, by the digest of what it depends on."""
    return f"results/preflight/{name}/preflight.json"


def untrained_head(name: str) -> str:
    """Return the folder of the untrained head that a preflight serves."""
    return f"results/preflight/{name}/head"


def search(folder: str) -> str:
    """Return the folder of the decisions of a bracket, or of what follows from the finalists."""
    return f"results/search/{folder}"


def decision(folder: str, rung: int) -> str:
    """Return the decision that says which arms of a bracket train to a rung."""
    return f"{search(folder)}/rung{rung}.json"


def lever(lever: str) -> str:
    """Return the record of a lever."""
    return f"results/levers/{lever}/lever.json"


def lever_space(lever: str) -> str:
    """Return the search space of a lever."""
    return f"results/levers/{lever}/space.yaml"


def resource(kind: str, digest: str) -> str:
    """Return the folder of a target or of features that are made here, by the digest of what they depend on."""
    return f"resources/{kind}/{digest}"


def find_accs(root: Path) -> list[Path]:
    """Return the training records of every arm under `root`, those of an arm together, by rung."""
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
