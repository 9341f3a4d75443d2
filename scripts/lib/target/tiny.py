"""The tiny target of the embedded default: a small Llama trained on the Python standard library."""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lib.files import whole_directory
from lib.target.corpus import split_documents, stdlib_documents

END_OF_TEXT = "<|endoftext|>"
logger = logging.getLogger(__name__)


def train_tiny_target(
    out: Path,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab_size: int,
    context: int,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    threads: int,
) -> float:
    """Train a byte-level BPE tokenizer and a Llama in fp32 and write them to `out` as a Hugging Face directory.

    A step uses `batch` windows of `context` tokens, which becomes the model's longest sequence. `hidden / heads` must be a head size that
    vLLM's attention supports. The result is a pure function of the arguments, the interpreter's version and the machine's arithmetic.
    Returns the mean loss of the last tenth of the steps, in nats per token.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    documents = split_documents(stdlib_documents())["target"]
    tokenizer = _train_tokenizer(documents, vocab_size)
    windows = _windows(tokenizer, documents, steps * batch, context + 1)
    model = LlamaForCausalLM(  # type: ignore[no-untyped-call]
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocab_size,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=0.06,  # the usual 0.02 is for wide models and would double the steps at this width
            bos_token_id=0,
            eos_token_id=0,
            dtype="float32",
        )
    )
    losses = list(_training(model, windows.view(steps, batch, context + 1), lr))
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer,
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            pad_token=END_OF_TEXT,
            model_max_length=context,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(folder)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _train_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _windows(tokenizer: Tokenizer, documents: Sequence[str], count: int, length: int) -> torch.Tensor:
    """Return `count` windows [count, length] of the documents in random order, without repeats before all documents are used."""
    order = torch.randperm(len(documents)).tolist()
    tokens: list[int] = []
    for index in itertools.cycle(order):
        tokens += tokenizer.encode(END_OF_TEXT + documents[index]).ids
        if len(tokens) >= count * length:
            break
    return torch.tensor(tokens[: count * length]).view(count, length)[torch.randperm(count)]


def _training(model: LlamaForCausalLM, batches: torch.Tensor, lr: float) -> Iterator[float]:
    """Train in place on `batches` [steps, B, T + 1] with AdamW, a short warmup and a cosine to a tenth of `lr`. Yield each step's loss."""
    steps = len(batches)
    warmup = max(1, steps // 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * step / steps))
    )
    model.train()
    started = reported = time.monotonic()
    for step, windows in enumerate(batches, start=1):
        logits = model(windows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()
        now = time.monotonic()
        if now - reported > 5 or step == steps:
            reported = now
            logger.info("step %d of %d, loss %.3f, %.0f s left", step, steps, loss.item(), (now - started) / step * (steps - step))
