"""Records of heads that outlive an interrupted job: here, and copies in a store in case the machine dies."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.records import layout
from lib.records.measurement import ProxyRecord, ServingRecord, read_record, write_record
from lib.storage import not_vital, open_storage, or_refused


class Kept:
    """The unfiled records on this machine, and in the store at `url` if there is one."""

    def __init__(self, url: str | None) -> None:
        self._store = open_storage(url, "streaming.url") if url else None

    def keep(self, record: ServingRecord) -> None:
        """Write a record. It replaces an earlier one of the arm."""
        path = Path(layout.unfiled(record.arm))
        write_record(path, record)
        if self._store:
            with not_vital("copy a measurement to streaming.url"), path.open("rb") as content:
                self._store.put(content, _name(record.arm))

    def find(self, trained: Iterable[ProxyRecord], asked: dict[str, Any]) -> list[ServingRecord]:
        """Return the records that an interrupted job has kept of these heads and settings, in the order of measurement.

        Raises UserError when the store cannot be read, because it may hold work that this job would otherwise repeat.
        """
        records = []
        for one in trained:
            path = Path(layout.unfiled(one.arm))
            if self._store and not path.exists():
                self._fetch(one.arm, path)
            with suppress(UserError):  # missing or damaged
                record = read_record(path, ServingRecord)
                if record.engine and (record.arm, record.asked, record.head_sha256) == (one.arm, asked, one.head_sha256):
                    records.append((record.engine.started_at, record.engine.exchange, record))
        return [record for *_, record in sorted(records, key=lambda one: one[:2])]

    def forget(self, arms: Iterable[str]) -> None:
        """Remove the records of arms, which are in the output of the job."""
        for arm in arms:
            Path(layout.unfiled(arm)).unlink(missing_ok=True)
            if self._store:
                with not_vital("remove a measurement from streaming.url"):
                    if self._store.size(_name(arm)) is not None:
                        self._store.remove([_name(arm)])

    def _fetch(self, arm: str, path: Path) -> None:
        assert self._store
        with or_refused("streaming.url: the measurements there cannot be read", "try again, or change it"):
            if self._store.size(_name(arm)) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._store.get(_name(arm), path)


def _name(arm: str) -> str:
    return layout.unfiled(arm).removeprefix(f"{layout.RESULTS}/")
