"""Prompts for training, evaluation and serving, split so that no document and no prompt is in two splits."""

import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.features.prompts import read_prompts
from lib.files import whole_directory
from lib.target.corpus import name_hash, split_documents, stdlib_documents
from lib.target.load import leading_text, load_tokenizer

logger = logging.getLogger(__name__)

SPLITS = ("serving", "heldout", "train")
"""Order of filling. More training prompts then do not change the prompts used for measurement."""


def write_prompts(
    out_dir: Path, tokenizer_path: Path, counts: Mapping[str, int], prompt_tokens: int, seed: int, source: Path | None = None
) -> None:
    """Write `train.jsonl`, `heldout.jsonl` and `serving.jsonl` (`{"prompt": text}` per line) into `out_dir`, pairwise disjoint.

    Prompts are stored as text. With the target's tokenizer and its special tokens, a prompt from the standard library (`source` None) has
    exactly `prompt_tokens` tokens, one from the JSONL file `source` at most that many. Prompts of the file that are blank when cut are
    dropped and counted in the log.
    Raises UserError for a file that is missing or malformed, and when there are fewer distinct prompts than `counts` asks for.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    if source is None:
        splits = _stdlib_prompts(tokenizer, counts, prompt_tokens, seed)
    else:
        splits = _user_prompts(tokenizer, counts, prompt_tokens, seed, source)
    with whole_directory(out_dir) as folder:
        for split, prompts in splits.items():
            lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _stdlib_prompts(tokenizer: Any, counts: Mapping[str, int], prompt_tokens: int, seed: int) -> dict[str, list[str]]:
    parts = split_documents(stdlib_documents())
    taken: set[str] = set()
    splits = {}
    for split in SPLITS:
        starts = [(document, start) for document in parts[split] for start in _line_starts(document)]
        random.Random(f"{seed} {split}").shuffle(starts)
        splits[split] = _take(counts[split], _cut(tokenizer, starts, prompt_tokens), taken)
        if len(splits[split]) < counts[split]:
            raise UserError(f"features.{split}_prompts={counts[split]}: the standard library yields {len(splits[split])}; lower it")
    return splits


def _user_prompts(tokenizer: Any, counts: Mapping[str, int], prompt_tokens: int, seed: int, source: Path) -> dict[str, list[str]]:
    leading = leading_text(tokenizer)
    prompts = [_truncate(tokenizer, prompt.removeprefix(leading), prompt_tokens) for prompt in read_prompts(source)]
    distinct = {prompt for prompt in prompts if prompt.strip()}
    dropped = sum(not prompt.strip() for prompt in prompts)
    if dropped:
        logger.warning("%d of %d prompts are dropped: their first %d tokens are blank", dropped, len(prompts), prompt_tokens)
    wanted = sum(counts[split] for split in SPLITS)
    if len(distinct) < wanted:
        blank = f", after {dropped} that begin with {prompt_tokens} blank tokens," if dropped else ""
        raise UserError(
            f"features.prompts={source} holds {len(distinct)} distinct prompts{blank} of {wanted} wanted; add some or lower the counts"
        )
    ranked = iter(sorted(distinct, key=lambda prompt: name_hash(f"{seed} {prompt}")))
    return {split: [next(ranked) for _ in range(counts[split])] for split in SPLITS}


def _line_starts(document: str) -> Iterator[int]:
    offset = 0
    for line in document.splitlines(keepends=True):
        if line.strip():
            yield offset
        offset += len(line)


def _cut(tokenizer: Any, starts: Iterable[tuple[str, int]], prompt_tokens: int) -> Iterator[str]:
    """Yield the texts at `starts` that survive the round trip text -> `prompt_tokens` tokens -> text -> the same tokens."""
    plain = prompt_tokens - tokenizer.num_special_tokens_to_add(pair=False)
    for document, start in starts:
        window = document[start : start + 8 * prompt_tokens]
        text = tokenizer.decode(tokenizer.encode(window, add_special_tokens=False)[:plain])
        if window.startswith(text) and len(tokenizer.encode(text)) == prompt_tokens:
            yield text


def _truncate(tokenizer: Any, prompt: str, prompt_tokens: int) -> str:
    text = prompt
    keep = prompt_tokens
    while len(tokenizer.encode(text)) > prompt_tokens:
        # A cut can split a character or change merges at its end. Keep fewer tokens until the text fits.
        text = tokenizer.decode(tokenizer.encode(prompt, add_special_tokens=False)[:keep]).rstrip("\N{REPLACEMENT CHARACTER}")
        keep -= 1
    return text


def _take(count: int, prompts: Iterator[str], taken: set[str]) -> list[str]:
    fresh: list[str] = []
    while len(fresh) < count and (prompt := next(prompts, None)) is not None:
        if prompt not in taken:
            taken.add(prompt)
            fresh.append(prompt)
    return fresh
