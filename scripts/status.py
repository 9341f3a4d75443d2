"""Show the state of this folder's search. Run by hand (`make status`), with or without a running search."""

from pathlib import Path

from lib.controller import refuse
from lib.report.status import status

if __name__ == "__main__":
    with refuse():
        print(status(Path()))
