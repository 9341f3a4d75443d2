"""Training: schedule, order of samples, settings that must not change the result, and the two failures that are results."""

import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lib.arm import Arm, Layout
from lib.config import Recipe, Streaming
from lib.draft import evaluate, heads, trainer
from lib.draft.evaluate import evaluate_head
from lib.draft.heads import head_tensors, tensor_hash
from lib.draft.rung import FAILURE, Places, _run_rank
from lib.draft.state import load_state, optimizer_tensors, save_state
from lib.draft.trainer import Training, divergence, learning_rate, sample_at, train_rung
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.files import read_json
from lib.methods import Draft, read_draft
from lib.records.measurement import ProxyRecord, read_record
from safetensors.torch import load_file

from tests.unit.draft.rungs import ALONE, TWO_RANKS, in_no_memory, make_arm, on_ranks

Start = Callable[..., Training]


@pytest.mark.parametrize(
    ("schedule", "floor", "warmup", "samples", "expected"),
    [
        ("linear", 0.0, 0.2, 0, 0.5),  # the first of two warm-up steps
        ("linear", 0.0, 0.2, 10, 1.0),  # the step that completes the warm-up
        ("linear", 0.0, 0.2, 20, 1.0),
        ("linear", 0.0, 0.2, 60, 0.5),
        ("linear", 0.0, 0.2, 90, 0.125),  # the last step still learns
        ("linear", 0.1, 0.2, 60, 0.55),
        ("linear", 0.1, 0.2, 100, 0.1),
        ("cosine", 0.0, 0.2, 60, 0.5),
        ("cosine", 0.0, 0.2, 40, 0.853553),
        ("cosine", 0.5, 0.2, 60, 0.75),
        ("cosine", 0.0, 0.0, 0, 1.0),  # no warm-up
        ("linear", 0.0, 0.05, 0, 1.0),  # a warm-up shorter than a step
    ],
)
def test_the_learning_rate_follows_the_samples(schedule: Any, floor: float, warmup: float, samples: int, expected: float) -> None:
    recipe = Recipe(schedule=schedule, final_lr_fraction=floor)
    arm = make_arm(Layout(1, 10, 1), lr=1.0, warmup=warmup, rungs=(100,))
    training = Training(arm, read_draft(arm.recipe["draft"]), recipe, features=None, model=None, optimizer=None)
    assert learning_rate(training, samples) == pytest.approx(expected, abs=1e-6)


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    epochs = [[sample_at(position, 3, 7) for position in range(7 * epoch, 7 * (epoch + 1))] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [sample_at(position, 4, 7) for position in range(7)] != epochs[0]


@pytest.mark.parametrize("cap", [6, 964])
def test_a_cap_that_cannot_be_hit_is_refused(cap: int, start: Start) -> None:
    with pytest.raises(UserError, match=f"cap={cap} must be a multiple of global_batch=4"):
        train_rung(start(), cap)


def test_features_of_another_target_are_refused(start: Start, features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "target", "0123456789ab")
    with pytest.raises(UserError, match=r"features .* are from target 0123456789ab"):
        start()


def test_a_head_learns(start: Start, heldout: FeatureSet) -> None:
    training = start()
    untrained = evaluate_head(training.model, training.draft, heldout, 4)
    outcome = train_rung(training, 320)
    trained = evaluate_head(training.model, training.draft, heldout, 4)
    assert outcome.status == "ok"
    assert (outcome.samples, outcome.steps) == (320, 80)
    assert untrained.acc0 < 0.1 < 0.3 < trained.acc0
    assert trained.accuracies[1] > untrained.accuracies[1] + 0.1


def test_rungs_may_be_cut_anywhere(start: Start) -> None:
    """Across the end of an epoch of 96 samples, too; and training draws nothing from the global random state."""
    before = torch.random.get_rng_state()
    whole, cut = start(), start()
    outcome = train_rung(whole, 120)
    for cap in (4, 92, 120):
        last = train_rung(cut, cap)
    assert last.head == outcome.head
    assert tensor_hash(optimizer_tensors(whole)) == tensor_hash(optimizer_tensors(cut))
    assert last.lr == outcome.lr
    assert torch.equal(before, torch.random.get_rng_state())


def test_computing_in_bfloat16_keeps_weights_and_moments_in_fp32(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but on the CPU: the loss is that of fp32 to rounding, and a training resumes to the same bits."""
    exact = train_rung(start(), 32)
    monkeypatch.setattr(heads, "compute_dtype", lambda _: torch.bfloat16)
    whole, cut, resumed = start(), start(), start()
    outcome = train_rung(whole, 32)
    assert outcome.train_loss == pytest.approx(exact.train_loss, rel=1e-2) and outcome.head != exact.head
    kept = [*head_tensors(whole.model).values(), *optimizer_tensors(whole).values()]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}
    train_rung(cut, 12)
    save_state(tmp_path / "state", cut)
    load_state(tmp_path / "state", resumed)
    assert train_rung(resumed, 32).head == outcome.head
    assert tensor_hash(optimizer_tensors(resumed)) == tensor_hash(optimizer_tensors(whole))


def test_the_seed_changes_the_course(start: Start) -> None:
    assert train_rung(start(), 8).head != train_rung(start(seed=1), 8).head


def test_splits_of_a_global_batch_agree(start: Start) -> None:
    trainings = [start(micro_batch=micro, accumulation=4 // micro) for micro in (4, 2, 1)]
    losses = [train_rung(training, 32).train_loss for training in trainings]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in trainings[1:]:
        _assert_close(head_tensors(trainings[0].model), head_tensors(other.model))


def test_a_reduced_vocabulary_trains_alike(draft: Draft, start_head: Start, heldout: FeatureSet) -> None:
    small = draft.model_copy(update={"draft_vocab_size": 100})
    first, second = start_head(small), start_head(small, micro_batch=1, accumulation=4)
    train_rung(first, 32)
    train_rung(second, 32)
    _assert_close(head_tensors(first.model), head_tensors(second.model))
    assert evaluate_head(first.model, small, heldout, 4).counted[0] == evaluate_head(start_head(draft).model, draft, heldout, 4).counted[0]


def _assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5, msg=name)


def test_two_ranks_equal_one_and_resume_exactly(start: Start, tmp_path: Path) -> None:
    alone = start()
    train_rung(alone, 32)
    split = {"ranks": 2, "micro_batch": 1}
    on_ranks(2, _train_and_save, start, split, [(None, 32, tmp_path / "whole")])
    on_ranks(2, _train_and_save, start, split, [(None, 12, tmp_path / "part"), (tmp_path / "part", 32, tmp_path / "resumed")])
    whole, resumed = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "resumed"))
    _assert_close(head_tensors(alone.model), whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    optimizers = [(tmp_path / name / "optimizer.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert optimizers[0] == optimizers[1]


def test_two_ranks_have_the_gradients_of_one(start: Start, tmp_path: Path) -> None:
    """After one step AdamW's first moment is the gradient, scaled alike; so is it with any micro-batch and accumulation on two ranks."""
    alone = start(micro_batch=4)
    train_rung(alone, 8)
    gradients = {name: tensor for name, tensor in optimizer_tensors(alone).items() if name.startswith("exp_avg.")}
    assert gradients and all(float(gradient.abs().max()) > 0 for gradient in gradients.values())
    for micro, accumulation in ((4, 1), (2, 2), (1, 4)):
        split = {"ranks": 2, "micro_batch": micro, "accumulation": accumulation}
        out = tmp_path / str(micro)
        on_ranks(2, _train_and_save, start, split, [(None, 8, out)])
        shared = load_file(out / "optimizer.safetensors")
        for name, gradient in gradients.items():
            torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()), msg=name)


def test_ranks_share_the_held_out_samples(start: Start, heldout: FeatureSet, tmp_path: Path) -> None:
    alone = start()
    score = evaluate_head(alone.model, alone.draft, heldout, 2)
    on_ranks(2, _evaluate, start, heldout, tmp_path)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == [str(score)] * 2


def _evaluate(start: Start, heldout: FeatureSet, out: Path) -> None:
    training = start(ranks=2, micro_batch=1)
    (out / str(dist.get_rank())).write_text(str(evaluate_head(training.model, training.draft, heldout, 2)))


def _train_and_save(start: Start, split: dict[str, int], legs: list[tuple[Path | None, int, Path]]) -> None:
    for resumed, cap, out in legs:
        training = start(**split)
        if resumed is not None:
            load_state(resumed, training)
        train_rung(training, cap)
        save_state(out, training)
        if dist.get_rank() == 0:
            torch.save(head_tensors(training.model), out.with_suffix(".pt"))
        dist.barrier()


def test_ranks_that_nobody_started_are_refused(start: Start) -> None:
    with pytest.raises(UserError, match=r"training\.ranks=2 but WORLD_SIZE=1; start the job with torchrun"):
        start(ranks=2, micro_batch=1)


def test_divergence_is_a_result(start: Start) -> None:
    outcome = train_rung(start(lr=1e6), 480)
    assert outcome.status == "diverged"
    assert re.match(r"loss .*(, gradient norm (nan|inf)| above )", outcome.reason)
    assert outcome.samples == 4 * outcome.steps < 480


@pytest.mark.parametrize(
    ("loss", "grad_norm", "samples", "diverged"),
    [
        (5.0, 1.0, 480, False),
        (16.0, 1.0, 480, False),  # ln 256 at each of three positions: it knows nothing, no more than that
        (51.0, 1.0, 480, True),
        (51.0, 1.0, 4, False),  # the warm-up is over at 48 samples
        (float("nan"), 1.0, 4, True),
        (5.0, float("inf"), 4, True),
    ],
)
def test_what_counts_as_divergence(loss: float, grad_norm: float, samples: int, diverged: bool, start: Start) -> None:
    training = start()
    training.samples = samples
    assert bool(divergence(training, loss, grad_norm)) is diverged


@pytest.mark.parametrize("ranks", [1, 2])
def test_running_out_of_memory_is_a_result(ranks: int, start: Start, tmp_path: Path) -> None:
    """For real, under a limit on the address space; with two ranks only the second meets it and both say so."""
    batch = {"ranks": ranks, "micro_batch": 192 // ranks, "accumulation": 1}
    on_ranks(ranks, _train_in_little_memory, start, batch, tmp_path)
    outcomes = sorted(tmp_path.iterdir())
    assert [outcome.read_text().split(":")[0] for outcome in outcomes] == ["oom 192"] * ranks


def _train_in_little_memory(start: Start, batch: dict[str, int], out: Path) -> None:
    training = start(**batch)
    rank = dist.get_rank() if batch["ranks"] > 1 else 0
    if rank == batch["ranks"] - 1:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
    outcome = train_rung(training, 192)
    (out / str(rank)).write_text(f"{outcome.status} {outcome.samples}: {outcome.reason}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_running_out_of_memory_in_the_first_update_is_a_result(ranks: int, start: Start, tmp_path: Path) -> None:
    """AdamW takes its moments then; the second of two ranks finds no room for them."""
    batch = {"ranks": ranks, "micro_batch": 4 // ranks, "accumulation": 1}
    on_ranks(ranks, _update_in_no_memory, start, batch, tmp_path)
    assert [path.read_text().split(":")[0] for path in sorted(tmp_path.iterdir())] == ["oom 4"] * ranks


def _update_in_no_memory(start: Start, batch: dict[str, int], out: Path) -> None:
    training = start(**batch)
    rank = dist.get_rank() if batch["ranks"] > 1 else 0
    if rank == batch["ranks"] - 1:
        trainer._update = in_no_memory(trainer._update)
    outcome = train_rung(training, 960)
    (out / str(rank)).write_text(f"{outcome.status} {outcome.samples}: {outcome.reason}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_running_out_of_memory_in_the_evaluation_is_a_result(ranks: int, places: Callable[..., Places]) -> None:
    arm, at = make_arm(TWO_RANKS if ranks == 2 else ALONE), places("short")
    on_ranks(ranks, _evaluate_in_no_memory, arm, at, ranks)
    record = read_record(at.acc_out, ProxyRecord)
    assert (record.status, record.samples, record.acc0, record.head_sha256) == ("oom", 24, None, None)
    assert record.reason.startswith("in the evaluation: " + ("1 of 2 ranks are out of memory" if ranks == 2 else ""))
    assert read_json(at.state_out / FAILURE, "") == {"status": "oom", "reason": record.reason}


def _evaluate_in_no_memory(arm: Arm, at: Places, ranks: int) -> None:
    if os.environ.get("RANK", "0") == str(ranks - 1):
        evaluate.run_head = in_no_memory(evaluate.run_head)
    _run_rank(arm, 1, at, Streaming(), None)
