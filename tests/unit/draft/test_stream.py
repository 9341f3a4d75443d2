"""A killed rung resumes from its last state, also on a machine that has only the store. Damaged states are never used."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from lib.arm import Layout
from lib.config import Streaming
from lib.draft import rung
from lib.draft.rung import Places
from lib.draft.state import load_state, read_state
from lib.draft.stream import Stream, forget, recover
from lib.draft.trainer import Tally, Training, train_rung
from lib.errors import UserError
from lib.records.measurement import ProxyRecord, read_record
from lib.storage import Storage, open_storage

from tests.s3 import BUCKET, S3Server, s3_server  # noqa: F401 - a fixture
from tests.unit.draft.rungs import ALONE, TWO_RANKS, make_arm, make_head, on_ranks, run, start, wait_until

Start = Callable[..., Training]
At = Callable[..., Places]
RUNGS = 4, 320


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eagle3", "dflash"])
def test_another_machine_goes_on_from_s3_bit_for_bit(method: str, places: At, s3_server: S3Server) -> None:  # noqa: F811
    """The first is killed for good in the middle of the rung; its state and its log are in the bucket, and no key in the log."""
    arm, first, second = make_arm(ALONE, method=method, rungs=RUNGS), places("first"), places("second")
    streaming = Streaming(every_s=1, url=s3_server.store.url("side"))
    bucket = s3_server.root / BUCKET / f"side/{arm.id}/rung1.stream"
    process = start(arm, 1, first, streaming)
    wait_until(lambda: any("copied to streaming.url" in log.read_text() for log in bucket.glob("logs/*.log")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not first.acc_out.exists() and not first.state_out.exists()
    assert any(bucket.glob("0*/manifest.json"))
    assert "planted" not in first.log.read_text()
    resumed, straight = run(arm, 1, second, streaming), run(arm, 1, places("straight"))
    assert (resumed.samples, resumed.resumed_from_samples, resumed.head_sha256) == (320, 0, straight.head_sha256)
    assert (resumed.train_loss, resumed.accuracies) == (straight.train_loss, straight.accuracies)
    for name in ("head/model.safetensors", "optimizer.safetensors", "manifest.json"):
        assert (second.state_out / name).read_bytes() == (places("straight").state_out / name).read_bytes()


@pytest.mark.slow
def test_the_same_machine_goes_on_from_its_own_folder(places: At) -> None:
    arm, torn = make_arm(ALONE, rungs=RUNGS), places("torn")
    process = start(arm, 1, torn, Streaming(every_s=0.1))
    wait_until(lambda: any(torn.stream(1).glob("0*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    held = recover(torn.stream(1), None)
    assert held and 0 < read_state(held).samples < 320
    assert run(arm, 1, torn).head_sha256 == run(arm, 1, places("straight")).head_sha256
    assert not torn.stream(1).exists()


@pytest.mark.slow
@pytest.mark.parametrize("layout", [ALONE, TWO_RANKS])
def test_a_training_that_is_asked_to_end_brings_its_state_away_first(layout: Layout, places: At, tmp_path: Path) -> None:
    arm, torn, streaming = make_arm(layout, rungs=(4, 4000)), places("torn"), Streaming(every_s=3600, url=str(tmp_path / "store"))
    process = start(arm, 1, torn, streaming)
    wait_until(lambda: torn.log.exists() and " samples" in torn.log.read_text(), process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, torn.log.read_text()
    assert "asked to end" in torn.log.read_text() and "Traceback" not in torn.log.read_text()
    found = recover(places("elsewhere").stream(1), open_storage(f"{streaming.url}/{arm.id}", "streaming.url"))
    assert found and 0 < read_state(found).samples < 4000


def test_the_state_is_kept_before_a_process_ends_that_is_asked_to(start: Start, folder: Path, store: Storage) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stream = Stream(folder, folder.parent / "log", 3600, store, 0.0)
    training = start()
    with closing(stream), pytest.raises(SystemExit, match="143"):
        train_rung(training, 8, Tally(), lambda *step: (os.kill(os.getpid(), signal.SIGTERM), stream(*step)))
    assert signal.getsignal(signal.SIGTERM) is before
    assert recover(folder.with_name("elsewhere") / folder.name, store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "here/rung1.stream"


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"), "streaming.url")


def keep(training: Training, samples: list[int], folder: Path, store: Storage | None) -> Tally:
    """Train on, and keep a state at each of the `samples`."""
    tally = Tally(first=training.samples)
    (folder.parent).mkdir(parents=True, exist_ok=True)
    (folder.parent / "log").write_text("what was said\n")
    for cap in samples:
        train_rung(training, cap, tally)
        stream = Stream(folder, folder.parent / "log", 1e-9, store, 100.0)
        stream(training, tally)
        stream.close()
    return tally


def elsewhere(folder: Path) -> Path:
    return folder.parent.with_name("elsewhere") / folder.name


def test_two_states_are_kept_and_the_newest_comes_back(start: Start, folder: Path, store: Storage) -> None:
    training = start()
    tally = keep(training, [4, 8, 12], folder, store)
    assert [path.name for path in sorted(folder.iterdir())] == ["000000000008", "000000000012"]
    for place in (folder, elsewhere(folder)):
        found = recover(place, store)
        assert found == place / "000000000012"
        assert read_state(found).tally == tally and 100 < tally.seconds < 200 and tally.steps == 3
    kept = {name.split("/")[1] for name in store.names(folder.name)}
    assert kept == {"000000000008", "000000000012", "logs"}


def test_of_what_is_planted_in_a_store_nothing_but_the_files_of_states_is_fetched(
    start: Start, folder: Path, store: Storage, tmp_path: Path
) -> None:
    keep(start(), [4], folder, store)
    stored, state = tmp_path / "store" / folder.name, "000000000004"
    for name in ("head/modeling.py", "head/pytorch_model.bin", "head/deep/config.json", "optimizer.pt", "x.py", "head/.hidden.json"):
        (stored / state / name).parent.mkdir(exist_ok=True)
        (stored / state / name).write_text("planted")
    for other in ("9", "\u0669" * 12, "9" * 13, "999999999999x"):
        (stored / other).mkdir()
        (stored / other / "manifest.json").write_text("{}")
    found = recover(elsewhere(folder), store)
    assert found == elsewhere(folder) / state
    fetched = {file.relative_to(found).as_posix() for file in found.rglob("*") if file.is_file()}
    assert fetched == {"manifest.json", "optimizer.safetensors", "head/config.json", "head/model.safetensors"}
    assert [path.name for path in elsewhere(folder).iterdir()] == [state]


def damage_head(state: Path) -> None:
    file = state / "head/model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        damage_head,
        lambda state: (state / "manifest.json").unlink(),  # the copy was cut off
        lambda state: (state / "optimizer.safetensors").unlink(),
        lambda state: (state / "manifest.json").write_text("{"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    damage: Callable[[Path], None], stored: bool, start: Start, folder: Path, store: Storage, tmp_path: Path
) -> None:
    training = start()
    keep(training, [4, 8], folder, store if stored else None)
    damage((tmp_path / "store" / folder.name if stored else folder) / "000000000008")
    place = elsewhere(folder) if stored else folder
    found = recover(place, store if stored else None)
    assert found == place / "000000000004" and not (place / "000000000008").exists()
    resumed = start()
    tally = load_state(found, resumed)
    assert train_rung(resumed, 8, tally).head == train_rung(training, 8).head
    keep(resumed, [8], place, store if stored else None)
    assert recover(place, store if stored else None) == place / "000000000008"


def test_without_a_whole_state_there_is_none(start: Start, folder: Path, store: Storage) -> None:
    assert recover(folder, store) is None
    keep(start(), [4], folder, None)
    damage_head(folder / "000000000004")
    assert recover(folder, None) is None


def test_a_state_of_another_training_is_passed_over(places: At, start_head: Start, caplog) -> None:
    arm, here = make_arm(ALONE), places("here")
    keep(start_head(make_head("eagle3")), [4], here.stream(1), None)
    with caplog.at_level(logging.WARNING):
        record = run(arm, 1, here)
    assert "belongs to another training" in caplog.text
    assert record.head_sha256 == run(arm, 1, places("straight")).head_sha256


def test_a_store_that_is_gone_does_not_stop_training_but_starting(start: Start, folder: Path, tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    broken = open_storage(str(tmp_path / "file/states"), "streaming.url")
    with caplog.at_level(logging.WARNING):
        keep(start(), [4], folder, broken)
    assert "could not copy the state to streaming.url (" in caplog.text
    assert recover(folder, None)

    class Down:
        def names(self, folder: str) -> list[str]:
            raise ConnectionError(f"no {folder}")

    with pytest.raises(UserError) as refusal:
        recover(folder, Down())
    assert (
        str(refusal.value) == "streaming.url: the states there cannot be listed (ConnectionError: no rung1.stream); try again, or change it"
    )


def test_what_fails_on_this_machine_is_not_laid_to_the_store(start: Start, folder: Path, store: Storage) -> None:
    keep(start(), [4], folder, store)
    place = elsewhere(folder)
    place.parent.mkdir(parents=True)
    place.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=rf"^streaming.url: rung1.stream/000000000004 cannot be fetched to {place}/000000000004 \("):
        recover(place, store)
    (folder / "000000000004/manifest.json").unlink()
    (folder / "000000000004/manifest.json").mkdir()
    with pytest.raises(UserError, match=rf"^state: {folder}/000000000004/manifest.json cannot be read \(Is a directory\)"):
        recover(folder, None)


class Slow:
    """A local store that keeps what it is given waiting until it is let go."""

    def __init__(self, store: Storage) -> None:
        self._store, self.let_go, self.asked = store, threading.Event(), threading.Event()

    def put(self, content: BinaryIO, name: str) -> None:
        """Store a log at once, a file of a state when it is let go."""
        if "/logs/" not in name:
            self.asked.set()
            self.let_go.wait()
        self._store.put(content, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_slow_copy_holds_up_neither_the_states_here_nor_itself(start: Start, folder: Path, store: Storage) -> None:
    """The state that is being copied stays until it is; a state that comes meanwhile is not copied, the one after it is."""
    training, slow, tally = start(), Slow(store), Tally()
    stream = Stream(folder, folder.parent / "log", 1e-9, slow, 0.0)
    for cap in (4, 8, 12, 16):
        train_rung(training, cap, tally)
        stream(training, tally)
        assert slow.asked.wait(60)
    assert [path.name for path in sorted(folder.iterdir())] == [f"{samples:012d}" for samples in (4, 12, 16)]
    assert recover(elsewhere(folder), store) is None
    slow.let_go.set()
    wait_for(lambda: (found := recover(elsewhere(folder), store)) is not None and found.name == "000000000004")
    wait_for(lambda: stream._copying is None)
    train_rung(training, 20, tally)
    stream(training, tally)
    stream.close()
    assert [path.name for path in sorted(folder.iterdir())] == ["000000000016", "000000000020"]
    assert recover(elsewhere(folder), store) == elsewhere(folder) / "000000000020"


def wait_for(there: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_copy_that_never_ends_is_given_up_and_the_process_ends(start: Start, folder: Path, store: Storage) -> None:
    on_ranks(1, _copy_for_ever, start, folder, store)
    assert recover(folder, None)


def _copy_for_ever(start: Start, folder: Path, store: Storage) -> None:
    training, tally = start(), Tally()
    stream = Stream(folder, folder.parent / "log", 1e-9, Slow(store), 0.0, patience_s=0.2)
    train_rung(training, 4, tally)
    stream(training, tally)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 5


def test_no_rank_waits_for_a_slow_store(places: At, store: Storage) -> None:
    """The other one is done, evaluation included, while the first still hopes for its copy and has written its results."""
    at = places("slow")
    on_ranks(2, _run_against_a_slow_store, at, store)
    ended = [float((at.acc_out.parent / f"rank{rank}").read_text()) for rank in range(2)]
    assert read_record(at.acc_out, ProxyRecord).samples == 24
    assert ended[0] - ended[1] > 3


def _run_against_a_slow_store(at: Places, store: Storage) -> None:
    rung.Stream, rung._store = partial(Stream, patience_s=4.0), lambda *_: Slow(store)
    rung._run_rank(make_arm(TWO_RANKS), 1, at, Streaming(every_s=1e-9), None)
    (at.acc_out.parent / f"rank{os.environ['RANK']}").write_text(str(time.monotonic()))


def test_states_below_are_forgotten_and_logs_are_not(start: Start, folder: Path, store: Storage) -> None:
    keep(start(), [4], folder, store)
    forget(folder, store)
    assert not folder.exists()
    (log,) = store.names(folder.name)
    assert log.startswith("rung1.stream/logs/") and log.endswith(".log")
