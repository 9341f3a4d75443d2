"""The ledger is every record of the tree, a row each."""

from pathlib import Path

from lib.arm import make_arm
from lib.config import Point
from lib.files import write_json
from lib.report.tables import ledger
from lib.verdict.record import write_record

from tests.unit.records import proxy


def test_the_ledger_shows_the_chain_over_every_position_that_was_evaluated(tmp_path: Path) -> None:
    for rate, record in ((1e-3, {"accuracies": (0.5, 0.25)}), (1e8, {"status": "diverged"})):
        arm = make_arm(Point(global_batch=8, lr=rate, warmup=0.0), seed=0, ranks=1, micro_batch_limit=8, recipe={})
        write_json(tmp_path / arm.id / "arm.json", arm.record())
        write_record(tmp_path / arm.id / "rung0.acc", proxy(arm.id, **record))
    table = ledger(tmp_path).set_index("lr")
    assert table.loc[1e-3, "chain_of_all_positions"] == 1.625
    assert table["chain_of_all_positions"].isna().tolist() == [False, True] == table["acc0"].isna().tolist()
