"""Files of prompts as the target receives them, with one JSON object `{"prompt": text, "token_ids": [...]}` per line."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from lib.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A prompt as the target receives it.

    `prompt`: its text with all special tokens. `token_ids`: its tokens. These are what is sent, because a text does not say whether the
    tokenizer adds a BOS. `answers`: first and end of each answer in `token_ids`, which then hold a conversation with its answers. An answer
    includes the token that ends the turn.
    """

    prompt: str
    token_ids: tuple[int, ...]
    answers: tuple[tuple[int, int], ...] = ()


_PROMPT = TypeAdapter(Prompt)


def write_lines(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write a file of prompts. Prompts without answers have no key `answers`."""
    values = (_PROMPT.dump_python(prompt, exclude=None if prompt.answers else {"answers"}) for prompt in prompts)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in values), encoding="utf-8")


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file that `write_lines` wrote. Raises UserError for any other file."""
    try:
        if prompts := [_PROMPT.validate_json(line) for line in path.read_bytes().splitlines()]:
            return prompts
        raise ValueError
    except (OSError, ValueError):  # pydantic's ValidationError is one
        raise UserError(f"{path} is missing or not whole; delete its folder, and it is written again") from None
