"""The reason of a server's failure, read from its log."""

import re
from pathlib import Path

_RAISED = re.compile(
    r"^(?:\(\w+ pid=\d+\) )?(?:(?P<level>[A-Z]+) [-\d]+ [\d:]+ \[[^\]]*\] )?"  # vLLM's prefix of each line
    r"(?P<said>(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:: .*|$)|[\w.]+: error: .*)(?:\n(?:\([^)]*\) )?(?P<next>.*))?",
    re.MULTILINE,
)
"""The line of an exception or of refused arguments."""

_UNTOLD = re.compile(r"\d+ validation errors? for \S+$")
"""End of an exception's line if the details are on the next line."""

LONGEST = 500


def reason_in(log: Path, begin: int = 0) -> str | None:
    """Return the root exception in a server's log from byte `begin` on, in one line. None without an exception.

    The first exception is the root. Later ones follow from it or repeat it.
    """
    with log.open("rb") as handle:
        handle.seek(begin)
        text = handle.read().decode(errors="replace")
    told = [found for found in _RAISED.finditer(text) if found["level"] in (None, "ERROR", "CRITICAL")]
    if not told:
        return None
    root = next((found for found in told if "root cause" not in found["said"]), told[0])  # "see above for the root cause"
    more = root["next"] if _UNTOLD.search(root["said"]) else None
    return " ".join(f"{root['said']} {more or ''}".split())[:LONGEST]
