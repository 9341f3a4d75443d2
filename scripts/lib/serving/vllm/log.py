"""Why a server failed, by its log."""

import re
from pathlib import Path

_RAISED = re.compile(
    r"^(?:\(\w+ pid=\d+\) )?(?:(?P<level>[A-Z]+) [-\d]+ [\d:]+ \[[^\]]*\] )?"  # who says it, as vLLM puts before each line
    r"(?P<said>(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:: .*|$)|[\w.]+: error: .*)(?:\n(?:\([^)]*\) )?(?P<next>.*))?",
    re.MULTILINE,
)
"""The line of an exception or of refused arguments."""

_UNTOLD = re.compile(r"\d+ validation errors? for \S+$")
"""What an exception's line ends with where the next line says what it is."""

LONGEST = 500


def reason_in(log: Path, begin: int = 0) -> str | None:
    """Return the root exception, in one line, that a server's log tells from byte `begin` on; None when it tells of none.

    The first one is the root: whatever fails because of it is told later, and a server's parts tell the same again.
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
