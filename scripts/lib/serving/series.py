"""Measure many heads in one engine: one start, an exchange of the head before each further measurement, and a check at the end.

For the check the first head is exchanged back and measured again at temperature 0. If its counters differ, all heads of that engine are
measured again, each from a start of its own.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lib.errors import UserError
from lib.records.measurement import Check, EngineStart, ProxyRecord, ServingRecord
from lib.serving.acceptance import measure
from lib.serving.bench import Bench, failed_record, serving, serving_record
from lib.serving.engine import RunningEngine
from lib.serving.exported import ExchangeFailed, HeadDiffers, require_whole
from lib.serving.workload import Workload

logger = logging.getLogger(__name__)

Counted = dict[str, tuple[int, int, int]]
"""Drafts, draft tokens and accepted tokens by subset."""


@dataclass(frozen=True)
class Contender:
    """An arm to measure: its training record, the folder of its head, and its role in words."""

    role: str
    trained: ProxyRecord
    head: Path


class Series:
    """The measurements of several arms with one bench."""

    def __init__(
        self, bench: Bench, contenders: Sequence[Contender], log: Path, keep: Callable[[ServingRecord], None] = lambda _: None
    ) -> None:
        """Measure `contenders`. `keep` takes each record as soon as it is there, and again when the check of its engine is known."""
        self._bench, self._log, self._keep = bench, log, keep
        self._contenders = {one.trained.arm: one for one in contenders}
        self._records: dict[str, ServingRecord] = {}

    def measure(self, known: Iterable[ServingRecord] = ()) -> list[ServingRecord]:
        """Measure all arms in order, and return their records. A failed arm gets a record of its failure.

        A head that cannot be exchanged gets a start of its own.

        Args:
            known: records of an earlier attempt that ended before its check, in the order of measurement. They are not measured again. The
                engine starts with the head of the last of them, and checks it.

        Raises:
            UserError: bad input. For a damaged head it is raised after all others are measured.
            EngineError: the engine died. The message gives the reason.
        """
        damaged, waiting = [], []
        for arm, one in self._contenders.items():
            if one.trained.status != "ok":
                self._file(failed_record(self._bench, one.trained))
                continue
            try:
                require_whole(one.head, str(one.trained.head_sha256))
                waiting.append(arm)
            except UserError as error:
                damaged.append(str(error))
        pending = {record.arm: record for record in known if record.arm in waiting}
        if self._bench.workload.temperature:  # there are no counters to compare
            for record in pending.values():
                self._file(_checked(record, "undecided"))
            waiting, pending = [arm for arm in waiting if arm not in pending], {}
        while waiting:
            measured, check = self._share_engine(waiting, pending)
            if check == "differs":
                measured = {arm: self._share_engine([arm], {})[0][arm] for arm in waiting}
            for record in measured.values():
                self._file(_checked(record, check))
            waiting, pending = [arm for arm in waiting if arm not in measured], {}
        if damaged:
            raise UserError("\n".join(damaged))
        return [self._records[arm] for arm in self._contenders]

    def _share_engine(self, arms: Sequence[str], pending: dict[str, ServingRecord]) -> tuple[dict[str, ServingRecord], Check]:
        """Measure in one engine those of `arms` whose heads can be exchanged. Return their records, the pending ones, and the check."""
        first = next(reversed(pending), arms[0])
        others = [arm for arm in arms if arm != first and arm not in pending]
        measured = dict(pending)
        begun, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        with serving(self._bench, self._contenders[first].head, self._log) as server:
            start = EngineStart(
                started_at=started_at, start_seconds=time.monotonic() - begun, exchange=0, check="pending" if others else "none"
            )
            workload = self._bench.workload
            greedy = replace(workload, temperature=0)
            if pending:
                expected = _counted(pending[first])
                if (check := _check(server, greedy, expected)) != "equal":
                    return measured, check
            else:
                measured[first] = self._take(first, server, workload, begun, start)
                expected = _counted(measured[first]) if workload.temperature == 0 or not others else _count(server, greedy)
            try:
                for arm in others:
                    begun = time.monotonic()
                    try:
                        server.exchange(self._contenders[arm].head)
                    except HeadDiffers as why:
                        logger.info("%s; it gets a start of its own", why)
                        continue
                    start = start.model_copy(update={"exchange": start.exchange + 1})
                    measured[arm] = self._take(arm, server, workload, begun, start)
                if start.exchange == 0:
                    return measured, "equal" if pending else "none"
                server.exchange(self._contenders[first].head)
                return measured, _check(server, greedy, expected)
            except ExchangeFailed as why:
                logger.warning("%s", why)
                return measured, "differs"

    def _take(self, arm: str, server: RunningEngine, workload: Workload, begun: float, start: EngineStart) -> ServingRecord:
        number, one = list(self._contenders).index(arm) + 1, self._contenders[arm]
        logger.info("%d of %d: %s, %s", number, len(self._contenders), one.role, arm)
        values = measure(server, workload, self._bench.asked["repeats"])
        record = serving_record(self._bench, one.trained, values, time.monotonic() - begun, start)
        self._file(record)
        return record

    def _file(self, record: ServingRecord) -> None:
        self._records[record.arm] = record
        self._keep(record)


def _check(server: RunningEngine, greedy: Workload, expected: Counted) -> Check:
    """Measure the head in the engine again. Counters that do not even repeat without an exchange decide nothing."""
    counted = _count(server, greedy)
    if counted == expected:
        return "equal"
    check: Check = "differs" if _count(server, greedy) == counted else "undecided"
    logger.warning("the counters of the head that was exchanged back are %s and were %s: %s", counted, expected, check)
    return check


def _count(server: RunningEngine, workload: Workload) -> Counted:
    """Send the workload once and return its counters."""
    runs = measure(server, workload, 1)["repeats"][0]["subsets"]
    return {name: (run["drafts"], run["draft_tokens"], run["accepted"]) for name, run in runs.items()}


def _counted(record: ServingRecord) -> Counted:
    """Return the counters of a record's first repeat."""
    assert record.repeats is not None
    return {name: (run.drafts, run.draft_tokens, run.accepted) for name, run in record.repeats[0].subsets.items()}


def _checked(record: ServingRecord, check: Check) -> ServingRecord:
    assert record.engine is not None
    return record.model_copy(update={"engine": record.engine.model_copy(update={"check": check})})
