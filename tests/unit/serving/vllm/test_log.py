"""The reason of a failure is the first exception of a server's log, in one line."""

from pathlib import Path

import pytest
from lib.serving.vllm.log import LONGEST, reason_in

CORE = "(EngineCore pid=7) ERROR 11-28 21:30:00 [core.py:1165] "
API = "(APIServer pid=6) "
CASES = {
    "of two parts the one that failed first": (
        f"{CORE}EngineCore failed to start.\n{CORE}Traceback (most recent call last):\n{CORE}  File x, line 1\n"
        f"{CORE}ValueError: Unsupported activation: xielu.\n{API}Traceback (most recent call last):\n"
        f"{API}RuntimeError: Engine core initialization failed. See root cause above.\n",
        "ValueError: Unsupported activation: xielu.",
    ),
    "after a warning that tells of another": (
        "WARNING 11-28 21:30:00 [x.py:1] ImportError: no triton\nTraceback (most recent call last):\n"
        "  File x\ntorch.OutOfMemoryError: no room\n",
        "torch.OutOfMemoryError: no room",
    ),
    "what a validation says": (
        f"{API}pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n{API}  Value error, too long [type=x]\n",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, too long [type=x]",
    ),
    "refused arguments": (
        "api_server.py: error: argument --dtype: invalid choice\n",
        "api_server.py: error: argument --dtype: invalid choice",
    ),
    "the part that noticed, where nothing else is told": (
        f"{API}EngineDeadError: See stack trace (above) for the root cause.\n",
        "EngineDeadError: See stack trace (above) for the root cause.",
    ),
    "none": ("INFO 11-28 21:30:00 [x.py:1] Error rate: 0\nall is well\n", None),
    "a long one": (f"ValueError: {'x' * 5000}\n", f"ValueError: {'x' * 5000}"[:LONGEST]),
}


@pytest.mark.parametrize(("text", "reason"), CASES.values(), ids=CASES)
def test_the_reason(tmp_path: Path, text: str, reason: str | None) -> None:
    log = tmp_path / "log"
    before = "ValueError: of the server before\n"
    log.write_text(before + text)
    assert reason_in(log, len(before)) == reason
