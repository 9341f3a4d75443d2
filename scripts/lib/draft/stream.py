"""Checkpoints of a rung in progress, so that a job that dies loses a few minutes instead of the rung.

On this machine they are in `rung<r>.stream/<samples>/` beside the rung's outputs, each a state folder of `save_state`. A store gets copies
of the states and of the log under the same names, in case the machine dies. Two states are kept in case one is damaged. A state's manifest
is copied last. A state without it, or with a wrong digest, is never used. Only files of states are fetched from a store.
"""

import logging
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from lib.devices import node
from lib.draft.state import FILE, save_state
from lib.draft.trainer import Tally, Training
from lib.files import whole_directory
from lib.manifest import MANIFEST, CorruptState, read_manifest
from lib.storage import Storage, not_vital, or_refused, sift

KEPT = 2
"""States kept of a rung in progress."""

PATIENCE_S = 60.0
"""Seconds that the end of a rung waits for a copy in progress."""

logger = logging.getLogger(__name__)


def recover(folder: Path, store: Storage | None) -> Path | None:
    """Return the newest complete state of a rung in `folder`, fetched from `store` if that has a newer one. None without a state.

    Damaged and incomplete states are removed in both places. Raises UserError when store or folder cannot be read, because they may hold
    work that this job would otherwise repeat.
    """
    stored: dict[str, list[str]] = {}
    with or_refused(f"{folder}: the states there cannot be listed or cleared", "make the folder accessible"):
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        here = {path.name for path in folder.glob("[0-9]*")}
    if store:
        with or_refused("streaming.url: the states there cannot be listed", "try again, or change it"):
            stored = {state: names for state, names in _states(store.names(folder.name)).items() if names[0].endswith(f"/{MANIFEST}")}
    for state in sorted(here | stored.keys(), reverse=True):
        if _is_whole(folder / state) or (store and state in stored and _fetch(folder / state, stored[state], store)):
            return folder / state
    return None


def forget(folder: Path, store: Storage | None) -> None:
    """Remove the states of a finished rung in `folder` and `store`. Its logs in the store stay."""
    shutil.rmtree(folder, ignore_errors=True)
    with not_vital(f"remove the states of {folder.name}"):
        if store:
            _remove(store, _states(store.names(folder.name)).values())


class Stream:
    """Saves the state of a training every `every_s` seconds in `folder`, and copies it and `log` to `store` in the background.

    Errors here never end a training. They are logged, and the next state is tried later. A state saved during a copy is not copied. A job
    that dies loses at most the interval, a machine that dies also the time of a copy.
    """

    def __init__(
        self, folder: Path, log: Path, every_s: float, store: Storage | None, seconds: float, patience_s: float = PATIENCE_S
    ) -> None:
        """Add `seconds` of earlier attempts to the rung's time. At its end, wait `patience_s` for a copy in progress."""
        self._folder, self._log, self._every_s, self._store, self._patience_s = folder, log, every_s, store, patience_s
        self._log_name = f"{folder.name}/logs/{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{node()}.log"
        self._started = self._last = time.monotonic()
        self._seconds = seconds
        self._copying: Path | None = None
        self._copies: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._copier = Thread(target=self._work, name="stream", daemon=True)  # a pool's thread would delay the end of the process
        self._copier.start()
        self._copies.put(self._copy_log)
        self._asked_to_end = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._asked_to_end = True

    def __call__(self, training: Training, tally: Tally) -> None:
        """Save the state after a step if it is time, or before ending this process after SIGTERM."""
        now = time.monotonic()
        ending = self._asked_to_end
        if now - self._last < self._every_s and not ending:
            return
        self._last = now
        state = self._folder / f"{training.samples:012d}"
        with not_vital(f"save the state at {training.samples} samples"):
            tally.seconds = self._seconds + now - self._started
            save_state(state, training, tally)
            logger.info("state at %d samples saved in %.1f s", training.samples, time.monotonic() - now)
            if self._copying is None or ending:
                self._copying = state
                self._copies.put(partial(self._copy, state))
            for old in sorted(self._folder.glob("[0-9]*"), reverse=True)[KEPT:]:
                if old != self._copying:
                    shutil.rmtree(old)
        if ending:
            logger.warning("asked to end; another attempt resumes from here")
            sys.exit(128 + signal.SIGTERM)

    def close(self) -> None:
        """Copy the log once more after the copy in progress. Give up on both after the wait."""
        self._copies.put(self._copy_log)
        self._copies.put(None)
        self._copier.join(self._patience_s)
        if self._copier.is_alive():
            logger.warning("streaming.url: a copy was not finished after %.0f s and is abandoned", self._patience_s)
        signal.signal(signal.SIGTERM, self._before)

    def _work(self) -> None:
        while copy := self._copies.get():
            copy()

    def _copy(self, state: Path) -> None:
        if self._store:
            started = time.monotonic()
            with not_vital("copy the state to streaming.url"):
                name = f"{self._folder.name}/{state.name}"
                _remove(self._store, [self._store.names(name)])
                for file in sorted(filter(Path.is_file, state.rglob("*")), key=lambda file: file.name == MANIFEST):
                    with file.open("rb") as content:
                        self._store.put(content, f"{name}/{file.relative_to(state).as_posix()}")
                stored = _states(self._store.names(self._folder.name))
                _remove(self._store, [stored[old] for old in sorted(stored, reverse=True)[KEPT:]])
                logger.info("%s copied to streaming.url in %.1f s", name, time.monotonic() - started)
        self._copying = None
        self._copy_log()

    def _copy_log(self) -> None:
        if self._store and self._log.exists():
            with not_vital("copy the log to streaming.url"), self._log.open("rb") as content:
                self._store.put(content, self._log_name)


def _states(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of each state's files, with the manifest first."""
    states: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        _, state, *file = name.split("/")
        if re.fullmatch("[0-9]{12}", state) and file:
            states.setdefault(state, []).append(name)
    return states


def _in_state(name: str) -> str:
    return name.split("/", 2)[2]


def _remove(store: Storage, states: Iterable[list[str]]) -> None:
    for names in states:
        store.remove(names)


def _is_whole(state: Path) -> bool:
    """Return whether a state exists and every digest is right. A damaged state is removed."""
    if not state.exists():
        return False
    with or_refused(f"{state}: the state there cannot be read or removed", "make the folder accessible"):
        try:
            read_manifest(state)
        except CorruptState as damage:
            logger.warning("passed over: %s", damage)
            shutil.rmtree(state)
            return False
    return True


def _fetch(state: Path, names: list[str], store: Storage) -> bool:
    """Copy a state from the store and return whether it is complete there. A damaged state is removed from the store."""
    started = time.monotonic()
    what = f"streaming.url: {state.parent.name}/{state.name} cannot be fetched to {state}"
    with or_refused(what, "make room there, or try again"), whole_directory(state) as fresh:
        for name in sift(names, lambda name: FILE.fullmatch(_in_state(name))):
            file = fresh / _in_state(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            store.get(name, file)
    if not _is_whole(state):
        with or_refused(f"streaming.url: {state.parent.name}/{state.name} is damaged and cannot be removed", "remove it by hand"):
            store.remove(names)
        return False
    logger.info("state at %d samples fetched from streaming.url in %.1f s", int(state.name), time.monotonic() - started)
    return True
