"""The private interfaces that the code uses still exist, and installed versions are below the tested bounds."""

import importlib
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import snakemake.api  # noqa: F401 - its modules import each other, and can only be begun here
from packaging.version import Version

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
ROWS = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \| `([\w.]+)` \| (.+) \|$", ARCHITECTURE, re.MULTILINE)


def resolve(name: str) -> object:
    """Return what a dotted name stands for: a module's attribute, or that of a class in it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_the_table_is_found() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize(("distribution", "bound"), sorted({(row[0], row[1]) for row in ROWS}))
def test_the_installed_version_is_one_that_was_looked_at(distribution: str, bound: str) -> None:
    installed = version(distribution)
    assert Version(installed) < Version(bound), (
        f"{distribution} {installed} is installed: look at its rows in docs/architecture.md, then raise the bound from {bound}"
    )


@pytest.mark.parametrize(("distribution", "name", "used"), [(row[0], row[2], row[3]) for row in ROWS], ids=[row[2] for row in ROWS])
def test_a_name_of_another_project_has_not_moved(distribution: str, name: str, used: str) -> None:
    try:
        resolve(name)
    except (ModuleNotFoundError, AttributeError) as error:
        pytest.fail(f"{name} of {distribution} has moved ({error}); it is used by {used}")


def test_the_users_of_a_name_exist() -> None:
    assert not [place for row in ROWS for place in re.findall(r"`([\w./-]+/[\w./-]*)`", row[3]) if not (ROOT / place).exists()]
