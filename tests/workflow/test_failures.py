"""Arms that diverge or run out of memory are results. They are ranked last with their reason, and the search continues."""

from pathlib import Path

import pytest

from tests.workflow.clones import Clone, clone

pytestmark = [pytest.mark.slow, pytest.mark.long]

ADDRESS_SPACE = 8 * 2**30


def test_diverged_and_oom_arms_are_ranked_last_and_the_search_completes(finished: Clone, tmp_path: Path) -> None:
    """A batch of 1024 samples in one pack needs an attention mask of tens of GiB, which the address space does not have."""
    one = clone(tmp_path, adopt=finished)
    one.configure(
        "tests/configs/small-space.yaml", parameters={"global_batch": [8, 1024], "lr": [3e-3, 1e8]}, rungs={"samples": [1024, 2048]}
    )
    one.configure("tests/configs/small.yaml", training={"micro_batch_limit": 1024})
    one.snakemake(one.finalists(), prefix=("prlimit", f"--as={ADDRESS_SPACE}"))
    records = one.records("*/rung*.acc")
    failed = {record["arm"]: record["status"] for record in records.values() if record["status"] != "ok"}
    assert set(failed.values()) == {"diverged", "oom"}
    assert all(failed[arm] == "oom" for arm in failed if arm.startswith("gb1024"))
    dropped = {}
    for decision in one.records("search/*/rung*.json").values():
        assert not set(decision["arms"]) & set(failed) or "dropped" not in decision, "only a first cohort knows nothing of them"
        dropped |= {arm: reason for arm, reason in decision.get("dropped", {}).items() if arm in failed}
    assert set(dropped) == set(failed)
    assert all(reason.startswith(f"{failed[arm]}: ") for arm, reason in dropped.items())
    (finalists,) = one.records("search/finalists-*/rung1.json").values()
    assert finalists["arms"] and not set(finalists["arms"]) & set(failed)
    start_afresh_where_a_lower_rung_failed(one, next(record for record in records.values() if record["status"] == "diverged"))


def start_afresh_where_a_lower_rung_failed(one: Clone, diverged: dict) -> None:
    """The failed arm becomes the standing configuration: it has no state to resume from, and diverges again at the rung asked for."""
    arm = diverged["configuration"]
    one.configure("tests/configs/small-space.yaml", standing={name: arm[name] for name in ("global_batch", "lr", "warmup")})
    (one.root / f"results/{arm['arm']}/rung1.acc").unlink(missing_ok=True)
    one.snakemake(f"results/{arm['arm']}/rung1.acc")
    again = one.records(f"{arm['arm']}/rung1.acc")[f"{arm['arm']}/rung1.acc"]
    assert (again["status"], again["resumed_from_samples"]) == ("diverged", 0)
