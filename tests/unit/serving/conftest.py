"""A small target, its prompts, and heads trained on its answers, made within a minute."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lib.draft.heads import assemble_head, loss_options, pack_samples, run_head
from lib.features.prompts import Prompt, write_lines
from lib.methods import Draft
from lib.serving.vllm.engine import EngineSettings
from lib.serving.workload import Workload
from lib.target.corpus import split_documents, stdlib_documents
from lib.target.tiny import train_tiny_target
from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution
from transformers import AutoTokenizer, LlamaForCausalLM

AUX_LAYERS = (1, 2, 3)


@pytest.fixture(scope="session")
def settings() -> EngineSettings:
    """Return the settings of a small server."""
    return EngineSettings("float32", max_model_len=128, max_num_seqs=8, enforce_eager=True, kv_cache_gib=0.02, threads=1)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a target that has learnt enough to be predictable, with a blank in its name."""
    out = tmp_path_factory.mktemp("serving") / "a target"
    shape = {"hidden": 64, "intermediate": 160, "layers": 4, "heads": 2, "kv_heads": 1, "vocab_size": 512, "context": 128}
    train_tiny_target(out, **shape, steps=80, batch=16, lr=4e-3, seed=0, threads=1)
    return out


@pytest.fixture(scope="session")
def prompts(target: Path) -> list[list[int]]:
    """Return 112 prompts of 16 token ids whose text has just these tokens."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    found: list[list[int]] = []
    for document in split_documents(stdlib_documents())["target"]:
        tokens = tokenizer.encode(document[:400])[8:24]
        if len(tokens) == 16 and tokenizer.encode(tokenizer.decode(tokens)) == tokens:
            found.append(tokens)
    assert len(found) >= 112
    return found[:112]


@pytest.fixture(scope="session")
def serving_prompts(prompts: list[list[int]]) -> list[list[int]]:
    """Return the prompts that no head was trained on."""
    return prompts[96:]


@pytest.fixture(scope="session")
def workload(target: Path, serving_prompts: list[list[int]]) -> Workload:
    """Return the serving prompts in subsets of 6 and 10."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    prompts = [Prompt(tokenizer.decode(prompt), tuple(prompt)) for prompt in serving_prompts]
    subsets = {name: target.parent / f"{name}.jsonl" for name in ("code", "qa")}
    write_lines(subsets["code"], prompts[:6])
    write_lines(subsets["qa"], prompts[6:])
    return Workload(subsets, output_tokens=40, concurrency=8, stop="fixed")


@pytest.fixture(scope="session")
def make_head(target: Path, prompts: list[list[int]]) -> Callable[[Draft, int], Path]:
    """Export a head after so many steps of training on what the target answers to its prompts.

    A reduced draft vocabulary holds the target's first tokens if the head is untrained, otherwise the most frequent ones.
    """
    verifier = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32)
    with torch.no_grad():
        answers = verifier.generate(torch.tensor(prompts[:96]), do_sample=False, min_new_tokens=56, max_new_tokens=56, pad_token_id=0)
        before_norm: list[torch.Tensor] = []
        hook = verifier.model.norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
        hidden = verifier.model(answers, output_hidden_states=True).hidden_states
        hook.remove()
    aux, last = torch.cat([hidden[layer] for layer in AUX_LAYERS], dim=-1), before_norm[0]
    mask = torch.ones(answers.shape[1], dtype=torch.long)

    def sample(index: int) -> dict[str, torch.Tensor]:
        return {
            "hidden_states": aux[index],
            "verifier_last_hidden_states": last[index],
            "input_ids": answers[index],
            "loss_mask": mask,
            "lengths": torch.tensor([len(mask)]),
            "position_ids": torch.arange(len(mask)),
        }

    def export(draft: Draft, steps: int) -> Path:
        torch.set_num_threads(1)
        vocabulary = None
        if size := draft.draft_vocab_size:
            drafted = Counter(answers.flatten().tolist() if steps else range(size))
            d2t, t2d = build_vocab_mappings_from_distribution(drafted, size, verifier.config.vocab_size)
            vocabulary = t2d, d2t
        model = assemble_head(draft, target, vocabulary, seed=0)
        options = loss_options(draft, model)
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
        for step in range(steps):
            rows = [sample((step * 8 + row) % len(answers)) for row in range(8)]
            anchors = None
            if draft.max_anchors:
                anchors = [step % 4 + torch.arange(draft.max_anchors) * (len(mask) // draft.max_anchors)] * len(rows)
            loss, _ = run_head(draft, model, pack_samples(draft, rows, anchors, len(mask), torch.device("cpu")), **options)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for index, layer in enumerate(model.layers):
            if draft.served_as == "dflash":  # so that using the first layer's norm for all shows in the counters
                layer.self_attn.k_norm.weight.data *= 1 + index
        out = target.parent / f"{draft.method}-{draft.draft_vocab_size}-{steps}"
        model.save_pretrained(out)
        return out

    return export
