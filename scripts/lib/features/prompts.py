"""Files of prompts with one JSON object `{"prompt": text}` per line."""

import json
from pathlib import Path

from lib.errors import UserError
from lib.reading import read_text

LARGEST_MIB = 256
"""Largest size of a file of prompts."""


def read_prompts(path: Path, key: str = "features.prompts") -> list[str]:
    """Read a JSONL file of prompts. Raises UserError naming `key` for a line that is not `{"prompt": "..."}`, or without any line."""
    text = read_text(path, f"{key}={path}", 'give a JSONL file with one {"prompt": "..."} per line', largest_mib=LARGEST_MIB)
    prompts = []
    # Split on newlines alone: str.splitlines() would also cut at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
            prompt.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no JSON, no text, or text with half a character
            prompt = None
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f'{key}={path} line {number} is not {{"prompt": "some text"}}; correct or remove the line')
        prompts.append(prompt)
    if not prompts:
        raise UserError(f'{key}={path} is empty; give at least one {{"prompt": "..."}} line')
    return prompts
