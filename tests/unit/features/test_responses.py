"""Greedy responses equal the model's own generate()."""

from pathlib import Path

import torch
from lib.features.responses import greedy_responses
from lib.target.load import load_target


def test_responses_equal_generate_for_prompts_of_any_length(target: Path) -> None:
    model, tokenizer = load_target(target)
    prompts = [tokenizer.encode(text) for text in ("import os\n", "def f(x):\n    return", "class A:\n", "x = 1\n", "y = 2\n")]
    assert len({len(prompt) for prompt in prompts}) > 1
    responses = greedy_responses(model, prompts, new_tokens=12, batch=2)
    for prompt, response in zip(prompts, responses, strict=True):
        own = model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=12, max_new_tokens=12, eos_token_id=None)
        assert response == own[0, len(prompt) :].tolist()


def test_end_of_text_does_not_end_a_response(target: Path) -> None:
    model, _ = load_target(target)
    # A head of zeros scores all tokens alike, and the first of equals, token 0, is end-of-text.
    model.get_input_embeddings().weight.zero_()
    assert greedy_responses(model, [[5, 6]], new_tokens=4, batch=1) == [[0, 0, 0, 0]]
