"""States of a rung in progress, so that a job that dies loses a few minutes instead of the rung.

On this machine they lie in `rung<r>.stream/<samples>/` beside the rung's outputs, each a state folder as `save_state` writes it. A store
gets a copy of them, and of the log, under the same names: what a machine that dies leaves behind. Two are kept, for one may prove damaged.
A state's manifest is copied last: without it, or with a digest that does not hold, a state is never used.
"""

import logging
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lib.draft.manifest import MANIFEST, CorruptState, read_manifest
from lib.draft.state import save_state
from lib.draft.trainer import Tally, Training
from lib.errors import UserError
from lib.files import whole_directory
from lib.store import Store

KEPT = 2
"""States kept of a rung in progress."""

logger = logging.getLogger(__name__)


def recover(folder: Path, store: Store | None) -> Path | None:
    """Return the newest whole state of a rung in `folder`, fetched from `store` if that has a newer one; None when there is none.

    Whatever is damaged or half written is removed, here and there. Raises UserError when the store cannot be read, for it may hold what
    this job would otherwise train again.
    """
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover)
    stored: dict[str, list[str]] = {}
    try:
        if store:
            stored = {state: names for state, names in _states(store.names(folder.name)).items() if names[0].endswith(f"/{MANIFEST}")}
        for state in sorted({path.name for path in folder.glob("[0-9]*")} | stored.keys(), reverse=True):
            if _is_whole(folder / state) or (store and state in stored and _fetch(folder / state, stored[state], store)):
                return folder / state
    except Exception as error:
        raise UserError(f"streaming.url: the states there cannot be read ({error}); try again, or change it") from error
    return None


def forget(folder: Path, store: Store | None) -> None:
    """Remove the states of a rung that a higher one starts from. Its logs in the store stay."""
    shutil.rmtree(folder, ignore_errors=True)
    with _not_vital(f"remove the states of {folder.name}"):
        if store:
            _remove(store, _states(store.names(folder.name)).values())


class Stream:
    """Keeps the state of a training every `every_s` seconds in `folder`, and copies it and `log` to `store` while training goes on.

    Nothing that goes wrong here ends a training: it is logged, and the next state is tried in its turn. While one is still being copied
    no other is kept, so a job that dies loses the interval and the time of a copy.
    """

    def __init__(self, folder: Path, log: Path, every_s: float, store: Store | None, seconds: float) -> None:
        """Count `seconds` of earlier attempts to what the rung takes."""
        self._folder, self._log, self._every_s, self._store = folder, log, every_s, store
        self._log_name = f"{folder.name}/logs/{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{socket.gethostname()}.log"
        self._started = self._last = time.monotonic()
        self._seconds = seconds
        self._copier = ThreadPoolExecutor(1, "stream")
        self._copying: Future[None] | None = None
        self._copier.submit(self._copy, None)

    def __call__(self, training: Training, tally: Tally) -> None:
        """Keep the state after a step, if it is time."""
        now = time.monotonic()
        if now - self._last < self._every_s or (self._copying and not self._copying.done()):
            return
        self._last = now
        state = self._folder / f"{training.samples:012d}"
        with _not_vital(f"keep the state at {training.samples} samples"):
            tally.seconds = self._seconds + now - self._started
            save_state(state, training, tally)
            logger.info("state at %d samples kept in %.1f s", training.samples, time.monotonic() - now)
            for old in sorted(self._folder.glob("[0-9]*"), reverse=True)[KEPT:]:
                shutil.rmtree(old)
            self._copying = self._copier.submit(self._copy, state)

    def close(self) -> None:
        """Copy the log once more, after what is being copied now."""
        self._copier.submit(self._copy, None)
        self._copier.shutdown()

    def _copy(self, state: Path | None) -> None:
        if self._store is None:
            return
        started = time.monotonic()
        with _not_vital("copy state and log to streaming.url"):
            if state:
                name = f"{self._folder.name}/{state.name}"
                _remove(self._store, [self._store.names(name)])
                for file in sorted(filter(Path.is_file, state.rglob("*")), key=lambda file: file.name == MANIFEST):
                    self._store.put(file, f"{name}/{file.relative_to(state).as_posix()}")
                stored = _states(self._store.names(self._folder.name))
                _remove(self._store, [stored[old] for old in sorted(stored, reverse=True)[KEPT:]])
                logger.info("%s copied to streaming.url in %.1f s", name, time.monotonic() - started)
            if self._log.exists():
                self._store.put(self._log, self._log_name)


def _states(names: Iterable[str]) -> dict[str, list[str]]:
    """Return by state the names of its files, the manifest first."""
    states: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        _, state, *file = name.split("/")
        if state.isdecimal() and file:
            states.setdefault(state, []).append(name)
    return states


def _remove(store: Store, states: Iterable[list[str]]) -> None:
    for names in states:
        store.remove(names)


def _is_whole(state: Path) -> bool:
    """Return whether a state is there with every digest right; remove it when it is damaged."""
    if not state.exists():
        return False
    try:
        read_manifest(state)
    except CorruptState as damage:
        logger.warning("passed over: %s", damage)
        shutil.rmtree(state)
        return False
    return True


def _fetch(state: Path, names: list[str], store: Store) -> bool:
    """Copy a state from the store and return whether it is whole there; remove it there when it is not."""
    started = time.monotonic()
    with whole_directory(state) as fresh:
        for name in names:
            file = fresh / Path(name).relative_to(*Path(name).parts[:2])
            file.parent.mkdir(parents=True, exist_ok=True)
            store.get(name, file)
    if not _is_whole(state):
        store.remove(names)
        return False
    logger.info("state at %d samples fetched from streaming.url in %.1f s", int(state.name), time.monotonic() - started)
    return True


@contextmanager
def _not_vital(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each library has its own
        logger.warning("could not %s (%s: %s); going on", what, type(error).__name__, error)
