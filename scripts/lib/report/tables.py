"""Tables of the results tree."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from lib.arm import Arm
from lib.errors import UserError
from lib.files import whole_file, write_json
from lib.hyperparameters import HYPERPARAMETERS, IDENTITY
from lib.records import layout
from lib.records.measurement import Measurement, ProxyRecord, ServingRecord, read_record
from lib.report.plan import planned_search, read_plan
from lib.search.calibration import calibrate, recommend
from lib.search.proxy import proxy_value
from lib.verdict.contest import Measurements


def ledger(root: Path) -> pd.DataFrame:
    """Return every measurement under `root`/results/ as one table with a row per record and the context in dotted columns.

    `taken_for` is `selection` or names the contest that a measurement in vLLM belongs to. Rows are ordered by arm, kind, rung and
    `taken_for`, so the same tree always gives the same table. Raises UserError when a record cannot be read.
    """
    rows, arms = [], {}
    for path in layout.find_accs(root):
        record = read_record(path, ProxyRecord)
        arm = _read_arm(path, record)
        arms[arm.id] = arm
        rows.append(_row(arm, record, None))
    for name, arm in arms.items():
        if (path := root / layout.serving(name)).exists():
            rows.append(_row(arm, read_record(path, ServingRecord), "selection"))
    for path in layout.find_contests(root):
        contest = read_record(path, Measurements)
        for number, (side, serving) in enumerate(zip(contest.order, contest.servings, strict=True), start=1):
            if serving.arm not in arms:
                raise UserError(
                    f"{path} names {serving.arm}, which is not under {root / layout.RESULTS}; copy its folder back, or delete {path}"
                )
            rows.append(_row(arms[serving.arm], serving, f"{path.stem}, {number}, {side}"))
    table = pd.DataFrame(rows)
    return table.sort_values(["arm", "kind", "rung", "taken_for"], ignore_index=True) if rows else table


def write_ledger(root: Path) -> None:
    """Write ledger.csv, ledger.parquet and calibration.json under `root`/results/.

    The calibration tells how well the proxies rank the measured arms of the search whose plan.json is there.
    """
    table = ledger(root)
    search = planned_search(read_plan(root))
    k = search.space.objective.draft_tokens
    calibration = {
        "rigor": "DRAFT",
        "recipe": search.recipe,
        "draft_tokens": k,
        "proxies": [asdict(one) for one in calibrate(table, k, search.recipe)],
        "recommended": recommend(table, k, search.recipe),
    }
    write_json(root / layout.CALIBRATION, calibration)
    with whole_file(root / layout.LEDGER_CSV) as path:
        table.to_csv(path, index=False)
    try:
        with whole_file(root / layout.LEDGER_PARQUET) as path:
            table.to_parquet(path, index=False)
    except (ArrowException, OverflowError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{layout.LEDGER_PARQUET} cannot be written ({said}); delete the edited record under results/") from None


def _read_arm(path: Path, record: ProxyRecord) -> Arm:
    try:
        return record.as_arm()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}; move the folder away, and the next run trains the arm again if it needs it") from None


def _row(arm: Arm, record: Measurement, taken_for: str | None) -> dict[str, Any]:
    fields = record.model_dump(mode="json")
    context = fields.pop("context")
    flat = pd.json_normalize({"context": context}).iloc[0].to_dict()
    if isinstance(record, ServingRecord):
        for bulk in ("repeats", "prompt_acceptance"):
            fields.pop(bulk)
        fields["subsets"] = json.dumps({name: one.acceptance_length for name, one in (record.subsets or {}).items()})
    if isinstance(record, ProxyRecord):
        accuracies = record.accuracies
        fields.pop("configuration")  # in columns of its own
        fields["chain_of_all_positions"] = proxy_value("chain", accuracies, len(accuracies)) if accuracies else None
    return {
        "arm": arm.id,
        "kind": record.kind,
        "taken_for": taken_for,
        **{HYPERPARAMETERS[name].column: arm.point.identity.get(name, math.nan) for name in IDENTITY},
        "seed": arm.seed,
        **asdict(arm.layout),
        "recipe": json.dumps(arm.recipe, sort_keys=True),
        **fields,
        **flat,
    }
