"""Show how the search of this folder stands. Run by hand (`make status`), beside a running search or without one."""

from pathlib import Path

from lib.controller import refuse
from lib.report.status import status

if __name__ == "__main__":
    with refuse():
        print(status(Path()))
