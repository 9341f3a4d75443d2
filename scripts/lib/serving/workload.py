"""The fixed workload of a measurement, its prompts and its sampling."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.features.conversations import read_source


@dataclass(frozen=True)
class Workload:
    """Prompts, output length, concurrency and sampling.

    `subsets`: files of JSON lines `{"prompt": text}` by name, sent in order and without a chat template. Other keys are ignored.
    `prompts_per_subset`: number of prompts from the start of each file, None for all. `output_tokens`: exact number per request, as the
    end-of-sequence token is ignored. `concurrency`: requests in flight. `temperature`: 0 is greedy. `top_p`, `top_k`: None does not
    truncate the distribution. `seed`: each request's seed is derived from it, the subset's name and the request's index. `leading`: text
    that the tokenizer adds before every prompt, removed from prompts so that it is sent once.
    """

    subsets: Mapping[str, Path]
    output_tokens: int
    concurrency: int
    prompts_per_subset: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    leading: str = ""

    def prompts(self, subset: str) -> list[str]:
        """Return the prompts sent for `subset`. Raises UserError if its file has no prompts or fewer than asked for."""
        path, asked = self.subsets[subset], self.prompts_per_subset
        source = read_source(path, "prompts")
        if not source.plain:
            raise UserError(f'prompts={path} holds conversations; give one {{"prompt": "..."}} per line')
        prompts = [str(one.messages[0]["content"]) for one in source.conversations]
        if asked is not None and not 1 <= asked <= len(prompts):
            raise UserError(
                f"prompts_per_subset={asked}, but prompts={path} holds {len(prompts)}; give 1 to {len(prompts)}, or leave it empty for all"
            )
        return [prompt.removeprefix(self.leading) for prompt in prompts[:asked]]


def find_subsets(path: Path, key: str) -> dict[str, Path]:
    """Return the prompt files at `path` by name, sorted. `path` is a file or a directory. Raises UserError naming `key` without any.

    A directory has one `.jsonl` file per subset, as RedHatAI's speculator_benchmarks has.
    """
    if not path.exists():
        raise UserError(f"{key}={path} does not exist; give a .jsonl file of prompts or a directory of such files")
    if path.is_dir():
        files = sorted(path.glob("[!.]*.jsonl"))
        if not files:
            raise UserError(f"{key}={path} holds no .jsonl file; put one there for each subset of prompts")
        return {file.stem: file for file in files}
    return {path.stem: path}


def identify(workload: Workload) -> dict[str, Any]:
    """Return the JSON-ready identity of a workload, its settings and each file's SHA-256. Raises UserError for bad prompts."""
    return {
        "subsets": {
            name: {"prompts_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_prompts": len(workload.prompts(name))}
            for name, path in workload.subsets.items()
        },
        "output_tokens": workload.output_tokens,
        "concurrency": workload.concurrency,
        "temperature": workload.temperature,
        "top_p": workload.top_p,
        "top_k": workload.top_k,
        "seed": workload.seed,
    }


def require_room(workload: Workload, length: Callable[[str], int], max_model_len: int) -> None:
    """Raise UserError naming the file if a prompt and its answer do not fit into `max_model_len` tokens.

    `length` returns the number of tokens of a text including special tokens.
    """
    for name, path in workload.subsets.items():
        longest = max(map(length, workload.prompts(name)))
        if longest + workload.output_tokens > max_model_len:
            raise UserError(
                f"serving.max_model_len = {max_model_len} is too short for a prompt of {longest} tokens in {path} and "
                f"serving.workload.output_tokens = {workload.output_tokens}; raise it, or shorten prompt or answer"
            )
