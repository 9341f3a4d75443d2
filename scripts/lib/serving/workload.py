"""The fixed workload of a measurement, its prompts and its sampling."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib.config import Features
from lib.errors import UserError
from lib.features.chat import Chat, require_template
from lib.features.conversations import Conversation, Source, UnusableError, read_source
from lib.features.prompts import Prompt, read_prompts, write_lines
from lib.files import whole_directory
from lib.target.load import load_tokenizer

KEY = "serving.workload.path"


@dataclass(frozen=True)
class Workload:
    """Prompts, output length, concurrency and sampling.

    `subsets`: files of prompts by name, for `read_prompts`, sent in order. `prompts_per_subset`: number of prompts from the start of each
    file, None for all. `output_tokens`: the most tokens per request. `stop`: `eos` ends an answer at the target's end-of-sequence tokens,
    `fixed` ignores them. `concurrency`: requests in flight. `temperature`: 0 is greedy. `top_p`, `top_k`: None does not truncate the
    distribution. `seed`: each request's seed is derived from it, the subset's name and the request's index.
    """

    subsets: Mapping[str, Path]
    output_tokens: int
    concurrency: int
    stop: Literal["eos", "fixed"]
    prompts_per_subset: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0

    def prompts(self, subset: str) -> list[Prompt]:
        """Return the prompts sent for `subset`. Raises UserError if its file has fewer than asked for."""
        path, asked = self.subsets[subset], self.prompts_per_subset
        prompts = read_prompts(path)
        if asked is not None and not 1 <= asked <= len(prompts):
            raise UserError(
                f"prompts_per_subset={asked}, but {path} holds {len(prompts)}; give 1 to {len(prompts)}, or leave it empty for all"
            )
        return prompts[:asked]


def find_files(path: Path) -> list[Path]:
    """Return the files of prompts at `path`, sorted. `path` is a file or a directory. Raises UserError without any."""
    if not path.exists():
        raise UserError(f"{KEY}={path} does not exist; give a .jsonl file of prompts or a directory of such files")
    if path.is_dir():
        files = sorted(path.glob("[!.]*.jsonl"))
        if not files:
            raise UserError(f"{KEY}={path} holds no .jsonl file; put one there for each subset of prompts")
        return files
    return [path]


def read_subsets(path: Path) -> dict[str, Source]:
    """Return the subsets at `path` by name, sorted.

    A file is one subset, as in RedHatAI's speculator_benchmarks, or one for each `category` of its lines, as in SPEED-Bench. It is named
    after the file, the category, or both with several files. Other characters than letters, digits, `_`, `.` and `-` become `_`.

    Raises:
        UserError: a file is missing or malformed or has lines that cannot be used, or two subsets have the same name.
    """
    files, subsets = find_files(path), dict[str, Source]()
    for file in files:
        source = read_source(file, KEY)
        source.require_all()
        for category, part in source.by_category().items():
            words = [file.stem] if category is None else [category] if len(files) == 1 else [file.stem, category]
            name = re.sub(r"[^\w.-]+", "_", "-".join(words))
            if name in subsets:
                raise UserError(f"{KEY}={path} has two subsets named {name}; rename a file or a category")
            subsets[name] = part
    return dict(sorted(subsets.items()))


def write_workload(path: Path, target: Path, features: Features, out_dir: Path) -> None:
    """Write the prompts of the workload at `path` into `out_dir`, a file for `read_prompts` per subset.

    The chat template of `features` turns them into text, as it does for training.

    Raises:
        UserError: as `read_subsets` does, or for a line that the template refuses.
    """
    chat = Chat(load_tokenizer(target), features.chat_template, features.template_arguments)
    with whole_directory(out_dir) as folder:
        for name, source in read_subsets(path).items():
            require_template(source, features.chat_template, own=chat.templated)
            prompts = []
            for conversation in source.conversations:
                try:
                    prompts.append(chat.prompt(conversation, source))
                except UnusableError as reason:
                    source.dropped.add(str(reason), conversation.line)
            source.require_all()
            write_lines(folder / f"{name}.jsonl", prompts)


def identify(workload: Workload) -> dict[str, Any]:
    """Return the JSON-ready identity of a workload, its settings and each file's SHA-256. Raises UserError for bad prompts."""
    return {
        "subsets": {
            name: {"prompts_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_prompts": len(workload.prompts(name))}
            for name, path in workload.subsets.items()
        },
        "output_tokens": workload.output_tokens,
        "stop": workload.stop,
        "concurrency": workload.concurrency,
        "temperature": workload.temperature,
        "top_p": workload.top_p,
        "top_k": workload.top_k,
        "seed": workload.seed,
    }


def longest_texts(subsets: Mapping[str, Source], count: int | None, length: Callable[[str], int]) -> dict[str, int]:
    """Return the longest of the first `count` prompts by subset in tokens, only of the user's turns.

    A chat template adds to them, and may leave out parts of the assistant's.
    """

    def tokens(conversation: Conversation) -> int:
        return sum(length(turn["content"]) for turn in conversation.asked if turn["role"] == "user")

    return {name: max(map(tokens, source.conversations[:count])) for name, source in subsets.items()}


def longest_prompts(workload: Workload) -> dict[str, int]:
    """Return the tokens of the longest prompt sent by subset."""
    return {name: max(len(prompt.token_ids) for prompt in workload.prompts(name)) for name in workload.subsets}


def require_room(longest: Mapping[str, int], output_tokens: int, max_model_len: int) -> None:
    """Raise UserError naming the subset if its longest prompt and an answer do not fit into `max_model_len` tokens."""
    for name, tokens in longest.items():
        if tokens + output_tokens > max_model_len:
            raise UserError(
                f"serving.max_model_len = {max_model_len} is too short for a prompt of {tokens} tokens in the subset {name} and "
                f"serving.workload.output_tokens = {output_tokens}; raise it, or shorten prompt or answer"
            )
