"""Many heads in one engine: one start, the check at the end, and what happens when a head, the check or the process fails."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from lib.draft.heads import tensor_hash
from lib.errors import UserError
from lib.features.prompts import Prompt, write_lines
from lib.records.comparison import require_comparable
from lib.records.measurement import ServingRecord, read_record
from lib.serving import bench
from lib.serving.bench import Bench
from lib.serving.counters import SpeculationCounters
from lib.serving.engine import Answers, EngineError
from lib.serving.exported import ExchangeFailed
from lib.serving.kept import Kept
from lib.serving.series import Contender, Series
from lib.serving.workload import Workload
from measure_serving import measure_serving
from safetensors.torch import save_file

from tests.stub_engine import engine as stub
from tests.unit.made_records import proxy

ASKED = {
    **{"engine": "stub", "repeats": 2, "dtype": "float32", "max_model_len": 64, "max_num_seqs": 1, "enforce_eager": True},
    **{"tensor_parallel": 1, "gpu_memory_utilization": 0.9, "kv_cache_gib": None},
}


class Rig:
    """Heads, and an engine that notes its starts and exchanges.

    `fault` is called before an exchange and may raise. A `stale` engine goes on with the old weights when the first head comes back. The
    counters of a `noisy` one never repeat.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target = folder, target
        self.done: list[str] = []
        self.kept: list[ServingRecord] = []
        self.fault: Callable[[Path], None] = lambda _: None
        self.stale = self.noisy = False
        write_lines(folder / "qa.jsonl", [Prompt("abc", (1, 2, 3))])

    def contender(self, number: int, size: int = 4) -> Contender:
        """Return an arm with a head whose weights depend on its number."""
        head = self.folder / f"head{number}"
        head.mkdir(exist_ok=True)
        tensors = {"fc.weight": torch.full((size, size), 0.1 * (number + 1))}
        save_file(tensors, head / "model.safetensors")
        (head / "config.json").write_text("{}")
        return Contender("finalist", proxy(f"arm{number}").model_copy(update={"head_sha256": tensor_hash(tensors)}), head)

    def bench(self, temperature: float = 0) -> Bench:
        """Return the settings, and forget what was done before."""
        self.done.clear()
        self.kept.clear()
        workload = Workload({"qa": self.folder / "qa.jsonl"}, output_tokens=8, concurrency=1, stop="fixed", temperature=temperature)
        described = {"target": self.target, "model": "t", "method": "eagle3", "k": 3, "workload": workload, "dataset": "d"}
        return Bench(**described, asked=ASKED, threads=1, start_timeout_s=10, ceiling=None)

    def series(self, contenders: Sequence[Contender], temperature: float = 0) -> Series:
        """Return the series of contenders."""
        return Series(self.bench(temperature), contenders, self.folder / "log", self.kept.append)

    @contextmanager
    def running(self, *args: Any) -> Iterator[stub.Stub]:
        """Start a stub."""
        with stub.running(*args) as one:
            first = one.speculation.path.name
            self.done.append(f"start {first}")
            exchange, send, number = one.exchange, one.send, count()

            def exchanged(head: Path) -> None:
                self.fault(head)
                before = one.rate
                exchange(head)
                self.done.append(f"exchange {head.name}")
                if self.stale and head.name == first:
                    one.rate = before

            def sent(*args: Any) -> Answers:
                one.rate *= 0.9 ** next(number) if self.noisy else 1
                return send(*args)

            one.exchange, one.send = exchanged, sent  # type: ignore[method-assign]
            yield one


@pytest.fixture
def rig(tmp_path: Path, hollow_target: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return heads and a stub engine."""
    one = Rig(tmp_path, hollow_target)
    monkeypatch.setattr(bench, "load_engine", lambda _: one)
    return one


@pytest.fixture
def three(rig: Rig) -> list[Contender]:
    """Return three arms whose heads are alike."""
    return [rig.contender(number) for number in range(3)]


SHARED = ["start head0", "exchange head1", "exchange head2", "exchange head0"]
ALONE = ["start head0", "start head1", "start head2"]


def said(records: Sequence[ServingRecord]) -> list[tuple[int, str]]:
    return [(one.engine.exchange, one.engine.check) for one in records if one.engine]


def test_one_start_measures_every_head_and_the_first_is_checked_at_the_end(rig: Rig, three: list[Contender]) -> None:
    records = rig.series(three).measure()
    assert rig.done == SHARED
    assert said(records) == [(0, "equal"), (1, "equal"), (2, "equal")]
    assert said(rig.kept) == [(0, "pending"), (1, "pending"), (2, "pending"), *said(records)], "each is kept at once"
    assert len({record.acceptance_length for record in records}) == 3
    assert [record.context.identity.head.path for record in records] == [str(one.head) for one in three]  # type: ignore[union-attr]
    require_comparable(records)
    for record, one in zip(records, three, strict=True):
        (alone,) = rig.series([one]).measure()
        assert (rig.done, said([alone])) == ([f"start {one.head.name}"], [(0, "none")])
        assert (alone.drafts, alone.accepted) == (record.drafts, record.accepted)


@pytest.mark.parametrize("temperature", [0, 0.6])
def test_a_check_that_differs_measures_all_again_from_starts_of_their_own(rig: Rig, three: list[Contender], temperature: float) -> None:
    rig.stale = True
    records = rig.series(three, temperature).measure()
    assert rig.done == SHARED + ALONE
    assert said(records) == [(0, "differs")] * 3


def test_counters_that_never_repeat_decide_nothing(rig: Rig, three: list[Contender]) -> None:
    rig.noisy = True
    assert said(rig.series(three).measure()) == [(0, "undecided"), (1, "undecided"), (2, "undecided")]
    assert rig.done == SHARED


def test_a_head_that_did_not_arrive_makes_the_engine_worthless(rig: Rig, three: list[Contender]) -> None:
    def fault(head: Path) -> None:
        if head.name == "head2":
            raise ExchangeFailed("fc.weight did not arrive")

    rig.fault = fault
    assert said(rig.series(three).measure()) == [(0, "differs")] * 3
    assert rig.done == [*SHARED[:2], *ALONE]


def test_an_engine_whose_counters_do_not_move_is_an_error(rig: Rig, three: list[Contender], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub.Stub, "counters", lambda _: SpeculationCounters(0, 0, 0, (0, 0, 0)))
    with pytest.raises(
        EngineError, match=r"^the engine answered the prompts of qa but drafted nothing, its counters did not move; see its log$"
    ):
        rig.series(three).measure()


def test_a_subset_whose_answers_all_end_with_their_first_token_is_refused(
    rig: Rig, three: list[Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = stub.Stub.send
    monkeypatch.setattr(stub.Stub, "counters", lambda _: SpeculationCounters(0, 0, 0, (0, 0, 0)))
    monkeypatch.setattr(stub.Stub, "send", lambda *given: replace(sent := send(*given), speed=sent.speed | {"output_tokens": 1}))
    with pytest.raises(UserError, match=r"^every answer to qa ends with its first token, so nothing is drafted; change its prompts"):
        rig.series(three).measure()


def test_a_head_of_another_shape_gets_a_start_of_its_own(rig: Rig, three: list[Contender]) -> None:
    wide = rig.contender(9, size=8)
    records = rig.series([three[0], wide, three[1], rig.contender(8, size=8)]).measure()
    assert rig.done == ["start head0", "exchange head1", "exchange head0", "start head9", "exchange head8", "exchange head9"]
    assert said(records) == [(0, "equal"), (0, "equal"), (1, "equal"), (1, "equal")]


def test_a_damaged_head_is_refused_before_any_start_and_the_others_are_measured(rig: Rig, three: list[Contender]) -> None:
    (three[0].head / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"^\S+/head0/model.safetensors is truncated or no safetensors file; delete the folder[^\n]*$"):
        rig.series(three).measure()
    assert rig.done == ["start head1", "exchange head2", "exchange head1"]
    assert [record.arm for record in rig.kept[-2:]] == ["arm1", "arm2"]


def test_an_arm_that_failed_in_training_needs_no_engine(rig: Rig) -> None:
    records = rig.series([Contender("finalist", proxy("a", "diverged"), Path("nowhere"))]).measure()
    assert ([record.status for record in records], rig.done) == (["diverged"], [])


def test_an_interrupted_attempt_goes_on_with_the_next_head_and_checks_the_last(rig: Rig, three: list[Contender]) -> None:
    rig.fault = partial(_ended, "head2")
    with pytest.raises(EngineError):
        rig.series(three).measure()
    known = list(rig.kept)
    assert said(known) == [(0, "pending"), (1, "pending")]
    rig.fault = lambda _: None
    records = rig.series(three).measure(known)
    assert rig.done == ["start head1", "exchange head2", "exchange head1"]
    assert said(records) == [(0, "equal"), (1, "equal"), (1, "equal")]
    assert [record.repeats for record in records[:2]] == [record.repeats for record in known], "not measured again"
    assert said(rig.series(three).measure(records[:1] + known[1:])) == said(rig.series(three).measure(known)), "whatever is known"
    only = rig.series(three[:2]).measure(known)
    assert (rig.done, said(only)) == (["start head1"], [(0, "equal"), (1, "equal")])
    wrong = known[1].model_copy(update={"repeats": records[2].repeats})
    again = rig.series(three).measure([known[0], wrong])
    assert (rig.done, said(again)) == (["start head1", *ALONE], [(0, "differs")] * 3)
    sampled = rig.series(three, temperature=0.6).measure(known)
    assert (rig.done, said(sampled)) == (["start head2"], [(0, "undecided"), (1, "undecided"), (0, "none")])


def test_a_job_that_dies_goes_on_from_what_it_kept_here_or_in_the_store(
    rig: Rig, three: list[Contender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, out = tmp_path / "store", tmp_path / "out"

    def attempt(where: Path | None, *contenders: Contender) -> list[tuple[int, str]]:
        measure_serving(rig.bench(), list(contenders), tmp_path / "log", Kept(where and str(where)), out)
        return said([read_record(out / f"{one.trained.arm}.json", ServingRecord) for one in contenders])

    for where, lost in ((None, False), (store, True)):
        rig.fault = partial(_ended, "head2")
        with pytest.raises(EngineError):
            attempt(where, *three)
        assert not out.exists()
        rig.fault = lambda _: None
        if lost:
            shutil.rmtree(tmp_path / "results")
        assert attempt(where, *three) == [(0, "equal"), (1, "equal"), (1, "equal")]
        assert rig.done == ["start head1", "exchange head2", "exchange head1"]
        assert not list(tmp_path.glob("**/serving.unfiled.json"))
        shutil.rmtree(out)


def test_what_was_measured_beside_a_damaged_head_is_not_measured_again(
    rig: Rig, three: list[Contender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = (three[2].head / "model.safetensors").read_bytes()
    (three[2].head / "model.safetensors").write_bytes(content[:-4])
    with pytest.raises(UserError, match="is truncated"):
        measure_serving(rig.bench(), three, tmp_path / "log", Kept(None), tmp_path / "out")
    (three[2].head / "model.safetensors").write_bytes(content)
    measure_serving(rig.bench(), three, tmp_path / "log", Kept(None), tmp_path / "out")
    assert rig.done == ["start head2"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["arm0.json", "arm1.json", "arm2.json"]


def _ended(head: str, exchanged: Path) -> None:
    if exchanged.name == head:
        raise EngineError("vLLM ended")
