"""The rooms of scripts/lib: imports between them run in one direction, and no two modules share a name."""

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LIB = Path(__file__).parents[2] / "scripts/lib"
MODULES = sorted(LIB.rglob("*.py"))


def room(module: str) -> str:
    """Return the room of a dotted module below `lib`: its package, or the module itself at the top."""
    return module.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the modules below `lib` that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            module = (node.module or "").removeprefix("lib").removeprefix(".")
            yield from [module] if module else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("lib.") for alias in node.names if alias.name.startswith("lib."))


def graph(node: object) -> dict[str, set[str]]:
    """Return for each node of the files its imports; `node` maps a dotted module to a node."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        own = ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__")
        found.setdefault(node(own), set()).update(node(module) for module in imports(path))
    return {name: needed - {name} for name, needed in found.items()}


def test_rooms_form_no_circle() -> None:
    try:
        list(graphlib.TopologicalSorter(graph(room)).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"rooms import each other: {' -> '.join(error.args[1])}")


def test_the_order_of_the_rooms_is_the_documented_one() -> None:
    """A room imports only rooms that stand further right in this order."""
    order = ["report", "next", "experiment", "publish", "verdict", "draft", "serving", "search", "features", "target", "records"]
    order += ["config", "hyperparameters", "methods", "section"]
    arrows = graph(room)
    wrong = [f"{one} -> {other}" for place, one in enumerate(order) for other in order[:place] if other in arrows[one]]
    assert not wrong


def test_the_search_never_imports_torch() -> None:
    assert not [path for path in LIB.glob("search/**/*.py") if re.search(r"^ *(import|from) torch", path.read_text(), re.MULTILINE)]


def test_no_two_modules_share_a_name() -> None:
    # A file of config/ has the name of its section.
    names = Counter(path.stem for path in MODULES if path.stem != "__init__" and path.parent.name != "config")
    protocols = {"engine"}  # serving/engine.py says what each serving/<name>/engine.py holds
    assert not [name for name, count in names.items() if count > 1 and name not in protocols]
