"""Prompts for training, evaluation and serving, split so that no document and no prompt is in two splits."""

import logging
import random
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lib.config import Features
from lib.errors import UserError
from lib.features.chat import Chat, require_template
from lib.features.conversations import UnusableError, read_source
from lib.features.prompts import Prompt, write_lines
from lib.files import whole_directory
from lib.target.corpus import name_hash, split_documents, stdlib_documents
from lib.target.load import leading_text, load_tokenizer

logger = logging.getLogger(__name__)

SPLITS = ("serving", "heldout", "train")
"""Order of filling. More training prompts then do not change the prompts used for measurement."""


def write_prompts(out_dir: Path, target: Path, features: Features) -> None:
    """Write `train.jsonl`, `heldout.jsonl` and `serving.jsonl` into `out_dir`, pairwise disjoint, for `read_prompts`.

    A prompt from the standard library has exactly `features.prompt_tokens` tokens and is never put into a chat template. A prompt of a
    user's file has at most that many. Longer ones are dropped and counted in the log, and so are lines that cannot be used and duplicates.
    With `features.answers` given, training and held-out prompts are conversations with their answers, at most `features.response_tokens`
    longer.

    Raises:
        UserError: a file that is missing or malformed, more dropped lines than `features.max_dropped` allows, or fewer distinct prompts
            than wanted.
    """
    tokenizer = load_tokenizer(target)
    splits = _user_prompts(tokenizer, features) if features.prompts else _stdlib_prompts(tokenizer, features)
    with whole_directory(out_dir) as folder:
        for split, prompts in splits.items():
            write_lines(folder / f"{split}.jsonl", prompts)


def _wanted(features: Features) -> dict[str, int]:
    return {split: getattr(features, f"{split}_prompts") for split in SPLITS}


def _stdlib_prompts(tokenizer: Any, features: Features) -> dict[str, list[Prompt]]:
    parts = split_documents(stdlib_documents())
    taken: set[str] = set()
    splits = {}
    for split, count in _wanted(features).items():
        starts = [(document, start) for document in parts[split] for start in _line_starts(document)]
        random.Random(f"{features.seed} {split}").shuffle(starts)
        splits[split] = _take(count, _cut(tokenizer, starts, features.prompt_tokens), taken)
        if len(splits[split]) < count:
            raise UserError(f"features.{split}_prompts={count}: the standard library yields {len(splits[split])}; lower it")
    return splits


def _user_prompts(tokenizer: Any, features: Features) -> dict[str, list[Prompt]]:
    """Return distinct prompts of the user's file by split, chosen by a hash of `features.seed` and the prompt."""
    source = read_source(Path(str(features.prompts)))
    chat = Chat(tokenizer, features.chat_template, features.template_arguments)
    require_template(source, features.chat_template, own=chat.templated)
    given = features.answers == "given"
    longest = features.prompt_tokens + features.response_tokens
    usable = []
    for conversation in source.conversations:
        try:
            prompt = chat.prompt(conversation, source)
            sample = chat.answered(conversation) if given else prompt
            if len(prompt.token_ids) > features.prompt_tokens:
                raise UnusableError(f"longer than features.prompt_tokens = {features.prompt_tokens}")
            if len(sample.token_ids) > longest:
                raise UnusableError(f"longer with their answers than features.prompt_tokens + response_tokens = {longest}")
        except UnusableError as reason:
            source.dropped.add(str(reason), conversation.line)
        else:
            usable.append((prompt, sample))
    if source.dropped.count:
        logger.warning("%d of %d lines are dropped: %s", source.dropped.count, source.total, source.dropped)
    source.require_few_dropped(
        features.max_dropped,
        "correct these lines, raise features.prompt_tokens" + (", set features.answers to regenerate" if given else ""),
    )
    distinct = {prompt.prompt: (prompt, sample) for prompt, sample in sorted(usable, key=lambda pair: pair[1].prompt)}
    wanted = _wanted(features)
    if len(distinct) < sum(wanted.values()):
        dropped = f", after {source.dropped.count} that are dropped," if source.dropped.count else ""
        raise UserError(
            f"features.prompts={source.path} holds {len(distinct)} distinct prompts{dropped} of {sum(wanted.values())} wanted; "
            "add some or lower the counts"
        )
    logger.info("%d prompts, %d duplicates left out, of %s", len(distinct), len(usable) - len(distinct), _lengths(list(distinct.values())))
    if cut := sum(one.cut for one in source.conversations):
        logger.info("%d lines have several `turns`, of which the first is asked", cut)
    if given:
        turns = sum(turn["role"] == "assistant" for one in source.conversations for turn in one.messages)
        logger.info("%d answers in %d turns of the assistant", sum(len(sample.answers) for _, sample in distinct.values()), turns)
    ranked = iter(sorted(distinct.values(), key=lambda pair: name_hash(f"{features.seed} {pair[0].prompt}")))
    return {split: [next(ranked)[split != "serving"] for _ in range(count)] for split, count in wanted.items()}


def _lengths(pairs: list[tuple[Prompt, Prompt]]) -> str:
    lengths = sorted(len(prompt.token_ids) for prompt, _ in pairs)
    ninth = lengths[min(len(lengths) - 1, len(lengths) * 9 // 10)]
    return f"{lengths[0]} to {lengths[-1]} tokens (median {statistics.median(lengths):g}, 90 % at most {ninth})"


def _line_starts(document: str) -> Iterator[int]:
    offset = 0
    for line in document.splitlines(keepends=True):
        if line.strip():
            yield offset
        offset += len(line)


def _cut(tokenizer: Any, starts: Iterable[tuple[str, int]], prompt_tokens: int) -> Iterator[Prompt]:
    """Yield the texts at `starts` that survive the round trip text -> `prompt_tokens` tokens -> text -> the same tokens."""
    plain = prompt_tokens - tokenizer.num_special_tokens_to_add(pair=False)
    leading = leading_text(tokenizer)
    for document, start in starts:
        window = document[start : start + 8 * prompt_tokens]
        text = tokenizer.decode(tokenizer.encode(window, add_special_tokens=False)[:plain])
        if window.startswith(text) and len(tokens := tokenizer.encode(text)) == prompt_tokens:
            yield Prompt(leading + text, tuple(tokens))


def _take(count: int, prompts: Iterator[Prompt], taken: set[str]) -> list[Prompt]:
    fresh: list[Prompt] = []
    while len(fresh) < count and (prompt := next(prompts, None)) is not None:
        if prompt.prompt not in taken:
            taken.add(prompt.prompt)
            fresh.append(prompt)
    return fresh
