"""Heads: construction, refusals, and packs in which samples do not attend to each other."""

import operator
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from lib.draft import evaluate
from lib.draft.evaluate import evaluate_head
from lib.draft.heads import build_head, frequent_vocabulary, head_hash, head_tensors, loss_options, pack_samples, run_head
from lib.draft.trainer import train_rung
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.methods import Draft
from safetensors.torch import load_file

from tests.stub_engine.engine import load_target

CPU = torch.device("cpu")


def test_weights_are_a_function_of_the_seed_alone(draft: Draft, target: Path, features: FeatureSet) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (head_hash(build_head(draft, target, features, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_target_s_own_weights_are_taken_over_and_frozen(draft: Draft, target: Path, features: FeatureSet) -> None:
    model = build_head(draft, target, features, seed=0)
    weights = load_file(target / "model.safetensors")
    assert torch.equal(model.embed_tokens.weight, weights["model.embed_tokens.weight"])
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(model.verifier_norm.weight, weights["model.norm.weight"])
    assert not {"embed_tokens.weight", "lm_head.weight", "verifier_lm_head.weight", "verifier_norm.weight"} & head_tensors(model).keys()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in head_tensors(model).values())


def test_a_reduced_vocabulary_keeps_the_most_frequent_answers(features: FeatureSet) -> None:
    samples = [features.sample(index) for index in range(len(features))]
    counts = Counter(
        token for s in samples for token, answer in zip(s["input_ids"].tolist(), s["loss_mask"].tolist(), strict=True) if answer
    )
    size = len(counts) // 2
    expected = sorted(sorted(counts, key=lambda token: (-counts[token], token))[:size])
    t2d, d2t = frequent_vocabulary(features, size, 256)
    assert t2d.nonzero().squeeze(1).tolist() == expected
    assert (torch.arange(size) + d2t).tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aux_layers": (1, 2)}, "draft.aux_layers=[1, 2] but features"),
        ({"draft_vocab_size": 257}, "draft.draft_vocab_size=257 must be within 1..256"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    change: dict[str, Any], message: str, draft: Draft, target: Path, features: FeatureSet
) -> None:
    with pytest.raises(UserError) as refusal:
        build_head(draft.model_copy(update=change), target, features, seed=0)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("layers", [(1, 2, 5), (-1, 2, 3), (1, 1, 2), ()])
def test_layers_that_the_target_lacks_are_refused(layers: tuple[int, ...], draft: Draft, target: Path, features: FeatureSet) -> None:
    extracted = FeatureSet(features.path)
    extracted.aux_layers = list(layers)
    with pytest.raises(UserError, match=r"draft\.aux_layers=.* must be distinct ids within 0\.\.4"):
        build_head(draft.model_copy(update={"aux_layers": layers}), target, extracted, seed=0)


def test_a_sample_s_loss_does_not_depend_on_its_neighbours(draft: Draft, target: Path, features: FeatureSet) -> None:
    """Not even when a neighbour is an answer from its first token on, which speculators' packs let leak into the sample before."""
    model = build_head(draft, target, features, seed=0)
    samples = [features.sample(index) for index in range(3)]
    samples[1]["loss_mask"] = torch.ones_like(samples[1]["loss_mask"])
    starts = [torch.tensor([10, 14]), torch.tensor([3]), torch.tensor([11, 12, 20])]
    options = loss_options(draft, model)

    def summed(chosen: list[int]) -> tuple[float, float]:
        anchors = [starts[index] for index in chosen] if draft.max_anchors else None
        loss, metrics = run_head(draft, model, pack_samples(draft, [samples[index] for index in chosen], anchors, 32, CPU), **options)
        targets = metrics[draft.counted]
        return float(loss.detach() * targets), float(targets)

    together, alone = summed([0, 1, 2]), [summed([index]) for index in range(3)]
    assert together == pytest.approx(tuple(map(sum, zip(*alone, strict=True))), rel=1e-5)


def test_evaluation_depends_on_nothing_but_the_head(start: Any, heldout: FeatureSet) -> None:
    training = start()
    train_rung(training, 96)
    before, weights = torch.random.get_rng_state(), head_hash(training.model)
    scores = [evaluate_head(training.model, training.draft, heldout, batch) for batch in (1, 5, 12)]
    assert scores[0] == scores[1] == scores[2]
    assert training.model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights == head_hash(training.model)


def test_where_no_draft_can_start_there_is_no_accuracy(start: Any, heldout: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start()
    monkeypatch.setattr(evaluate, "_draft_starts", lambda *_: torch.empty(0, dtype=torch.long))
    with pytest.raises(UserError, match=f"no held-out answer is long enough to draft {training.draft.positions} tokens ahead"):
        evaluate_head(training.model, training.draft, heldout, 4)


def test_evaluation_agrees_with_drafting_one_start_at_a_time(start: Any, target: Path, heldout: FeatureSet) -> None:
    """Against the whole target's greedy choice, each start drafted alone over the text up to it."""
    training = start()
    train_rung(training, 320)
    draft, model = training.draft, training.model.eval()
    llama = load_target(target)
    runs = []
    for index in range(len(heldout)):
        sample = heldout.sample(index)
        tokens = sample["input_ids"]
        choice = llama(tokens[None]).logits[0].argmax(-1)
        answer = int(sample["loss_mask"].nonzero()[0])
        starts = torch.arange(answer, len(tokens) - draft.positions)
        if draft.max_anchors:
            starts = starts[torch.linspace(0, len(starts) - 1, 6).long()]
        for begin in starts.tolist():
            drafted = _draft_alone(model, draft, sample, begin)
            hits = [drafted[ahead] == int(choice[begin + ahead]) for ahead in range(draft.positions)]
            runs.append((*hits, False).index(False))
    score = evaluate_head(model, draft, heldout, 4)
    assert score.counted == [sum(run >= ahead for run in runs) for ahead in range(draft.positions)]
    assert score.acc0 == pytest.approx(sum(run > 0 for run in runs) / len(runs))
    assert score.accuracies[1] == pytest.approx(sum(run > 1 for run in runs) / max(1, sum(run > 0 for run in runs)))
    assert sum(accumulate(score.accuracies, operator.mul)) == pytest.approx(sum(runs) / len(runs))


@torch.no_grad()
def _draft_alone(model: Any, draft: Draft, sample: dict[str, torch.Tensor], begin: int) -> list[int]:
    """Draft `positions` tokens after position `begin`. EAGLE3 sees the text before, then the answer's own tokens; DFlash one block."""
    if not draft.max_anchors:
        upto = begin + draft.positions  # forward reads the tokens that it is fed in later steps off the input
        steps = model(
            hidden_states=sample["hidden_states"][None, :upto],
            input_ids=sample["input_ids"][None, 1 : upto + 1],
            document_ids=torch.zeros(1, upto, dtype=torch.long),
            position_ids=torch.arange(1, upto + 1)[None],
            ttt_steps=draft.positions,
        )
        return [int(step[0, begin - 1]) for step in steps]
    seen: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits[0].argmax(-1)))
    run_head(draft, model, pack_samples(draft, [sample], [torch.tensor([begin])], 32, CPU), **loss_options(draft, model))
    hook.remove()
    return seen[0][1 : draft.positions + 1].tolist()
