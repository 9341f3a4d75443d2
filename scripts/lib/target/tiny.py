"""The tiny target of the embedded default: a small Llama trained on the Python standard library."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lib.files import whole_directory
from lib.target.corpus import split_documents, stdlib_documents

END_OF_TEXT = "<|endoftext|>"


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
    window: int,
    lr: float,
    seed: int,
    threads: int,
) -> float:
    """Train a byte-level BPE tokenizer and a Llama in fp32 and write them to `out` as a Hugging Face directory.

    A step sees `batch` windows of `window` tokens; `context` is the longest sequence the model declares, `hidden / heads` a head size that vLLM's
    attention supports (32, 64, 80, 96, 112, 128). The result is a pure function of the arguments, the interpreter's version and the machine's
    floating point. Returns the mean loss of the last tenth of the steps, in nats per token.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    documents = split_documents(stdlib_documents())["target"]
    tokenizer = _train_tokenizer(documents, vocab_size)
    tokens = _token_stream(tokenizer, documents)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocab_size,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            dtype="float32",
        )
    )
    losses = list(_training(model, tokens, steps=steps, batch=batch, window=window, lr=lr))
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(
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


def _token_stream(tokenizer: Tokenizer, documents: Sequence[str]) -> torch.Tensor:
    encodings = tokenizer.encode_batch([END_OF_TEXT + document for document in documents])
    return torch.cat([torch.tensor(encoding.ids) for encoding in encodings])


def _training(model: LlamaForCausalLM, tokens: torch.Tensor, *, steps: int, batch: int, window: int, lr: float) -> Iterator[float]:
    """Train in place with AdamW, a short warmup and a cosine to a tenth of `lr`; yield the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * step / steps))
    )
    model.train()
    started = reported = time.monotonic()
    for step in range(1, steps + 1):
        starts = torch.randint(len(tokens) - window, (batch,))
        windows = tokens[starts[:, None] + torch.arange(window + 1)]
        logits = model(windows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()
        now = time.monotonic()
        if now - reported > 5 or step == steps:
            reported = now
            left = (now - started) / step * (steps - step)
            print(f"target: step {step}/{steps}, loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr, flush=True)
