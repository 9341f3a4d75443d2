"""The report's files under results/report/. Every file is always written, and says so if it has nothing to show yet."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from lib.files import whole_file
from lib.records import layout
from lib.report import drawings, pages
from lib.report.story import Story, read_story

FIGURES = {
    "curves.svg": drawings.learning_curves,
    "map.svg": drawings.search_map,
    "proxies.svg": drawings.proxies_against_measured,
    "acceptance.svg": drawings.acceptance,
    "spending.svg": drawings.spending,
}


def draw_report(root: Path) -> None:
    """Write figures and pages of the search under `root`/results/, finished or not.

    Raises:
        UserError: no run has been started there, or a record cannot be read.
    """
    story = read_story(root)
    for name, text in _texts(story, root).items():
        with whole_file(root / layout.REPORT / name) as path:
            path.write_text(text)


def _texts(story: Story, root: Path) -> dict[str, str]:
    return {
        "verdict.html": pages.verdict_card(story, root),
        **{name: drawings.svg(figure(story)) for name, figure in FIGURES.items()},
        "ledger.html": pages.ledger_page(story),
        "provenance.html": pages.provenance_page(story, software(root)),
        "levers.html": pages.levers_page(story),
    }


def software(root: Path) -> dict[str, str]:
    """Return the commit of the repository at `root`, if there is one, and the versions of the software that draws the report."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = ", with uncommitted changes" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    tools = {name: version(name) for name in ("snakemake", "altair", "vl-convert-python")}
    return {"commit": f"{commit}{changed}" if commit else "not a git repository", "python": platform.python_version(), **tools}


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
