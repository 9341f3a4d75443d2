"""Write the ledger of this folder again, at any point of the search. Run by hand (`make ledger`)."""

from pathlib import Path

from lib.controller import refuse
from lib.report.tables import write_ledger

if __name__ == "__main__":
    with refuse():
        write_ledger(Path())
