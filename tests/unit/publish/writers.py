"""Concurrent writer processes that tests kill."""

import os
import subprocess
import sys
from pathlib import Path


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python program that can import the library and the tests; its standard input and output are pipes."""
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": f"{root / 'scripts'}:{root}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
