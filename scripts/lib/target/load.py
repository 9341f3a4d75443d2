"""Check and describe the target model."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lib.errors import UserError
from lib.files import sampled
from lib.reading import LARGEST, read_json, read_text, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRUST = "SPEC_DECODE_TUNE_TRUST_REMOTE_CODE"
"""Environment variable of every job, 1 if `target.trust_remote_code` is set. Otherwise no code of a model directory runs."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt")


Size = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]
"""A size in a model's configuration."""


@dataclass(frozen=True)
class TargetFacts:
    """Facts of a decoder from its config.json. In a multimodal model they come from the section of the text decoder."""

    architecture: str
    model_type: str
    hidden_size: Size
    num_layers: Size
    vocab_size: Size
    max_positions: Size
    heads: int | None = None
    end_tokens: tuple[int, ...] = ()
    """The tokens that end an answer, of config.json and generation_config.json."""


_NAMES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
}
"""Sizes of a decoder, as config.json names them."""


def check_target(path: Path) -> TargetFacts:
    """Read the facts of the Hugging Face directory `path` without loading it.

    Raises UserError naming `target.path` when the directory, its config.json, a weight file or the tokenizer is missing, or when heads
    cannot be trained for this kind of target.
    """
    name, cure = f"target.path={path}", "give a local Hugging Face model directory"
    if not path.is_dir():
        raise UserError(f"{name} is not a directory; {cure}")
    if not (path / "config.json").is_file():
        raise UserError(f"{name} has no config.json; {cure}")
    facts = _read_facts(path)
    names = _weight_names(path)
    pickled = [file for file in names or sorted(file.name for file in path.iterdir()) if file.endswith((".bin", ".pt", ".pth", ".pkl"))]
    if pickled:
        raise UserError(f"{name} has pickled weights ({pickled[0]}), which are never loaded; convert them to .safetensors")
    missing = [file for file in names if Path(file).name != file or not (path / file).is_file()]
    if missing or not names:
        raise UserError(f"{name} lacks weights ({missing[0] if missing else '*.safetensors'}); finish the download")
    if not any((path / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(f"{name} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); copy it beside the weights")
    return facts


def _read_facts(path: Path) -> TargetFacts:
    """Return the facts in config.json. Missing ones come from the defaults of transformers, which takes seconds to import."""
    file = f"target.path={path}: config.json"
    config = read_json(path / "config.json", file, "download it again")
    architectures, nested = config.get("architectures"), config.get("text_config", config)
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise UserError(f"{file} does not say 'architectures'; give a decoder in Hugging Face format")
    if not isinstance(nested, dict):
        raise UserError(f"{file}: text_config = {nested!r} is no section; download it again")
    wanted = (*_NAMES.values(), "rms_norm_eps")
    if any(nested.get(key) is None for key in wanted):
        nested = _with_defaults(path, file) | {key: value for key, value in nested.items() if value is not None}
    for key in _NAMES.values():
        if not isinstance(nested.get(key), int) or isinstance(nested[key], bool) or nested[key] < 1:
            raise UserError(f"{file} does not say '{key}' ({shown(nested.get(key))}); give a decoder in Hugging Face format")
    model_type = str(nested.get("model_type") or config.get("model_type"))
    if nested.get("rms_norm_eps") is None:
        raise UserError(
            f"{file}: a {model_type} model has no RMS norm (rms_norm_eps) before its output, which heads of speculators need; "
            "choose another target"
        )
    heads = nested.get("num_attention_heads")
    sizes = {field: nested[key] for field, key in _NAMES.items()}
    ends = _end_tokens(path, [config, nested], sizes["vocab_size"])
    return TargetFacts(architectures[0], model_type, **sizes, heads=heads if isinstance(heads, int) else None, end_tokens=ends)


def _end_tokens(path: Path, sections: list[dict[str, Any]], vocab_size: int) -> tuple[int, ...]:
    """Return the end tokens in sections of config.json and in generation_config.json, sorted."""
    file = path / "generation_config.json"
    told = [("config.json", section.get("eos_token_id")) for section in sections]
    if file.is_file():
        told.append((file.name, read_json(file, f"target.path={path}: {file.name}", "download it again").get("eos_token_id")))
    ends = set()
    for name, value in told:
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
                raise UserError(
                    f"target.path={path}: {name}: eos_token_id = {shown(token)} is no token of a vocabulary of {vocab_size}; correct it"
                )
            ends.add(token)
    return tuple(sorted(ends))


def _with_defaults(path: Path, file: str) -> dict[str, Any]:
    """Return the text decoder's section of config.json with the defaults of its transformers class."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trusts_code()).get_text_config()
        values = {key: getattr(config, key, None) for key in (*_NAMES.values(), "rms_norm_eps", "num_attention_heads", "model_type")}
    except Exception as error:  # each class raises its own exceptions
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not one that transformers reads ({said}); give a decoder in Hugging Face format") from None
    return values


def target_fingerprint(path: Path) -> str:
    """Return a partial hash of 12 hex digits, from config.json and name, size and content of each file of weights, tokenizer or code.

    The files of a tokenizer include its settings and chat templates.

    For a file above 64 MiB the content is 64 evenly spaced blocks of 64 KiB, so the hash is cheap enough for every job. It misses edits in
    place outside these blocks, but further training changes nearly every byte.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    tokenizer_files = (name for name in (*_TOKENIZER_FILES, *_tokenizer_settings(path)) if (path / name).is_file())
    for name in (*_weight_names(path), *tokenizer_files, *sorted(file.name for file in path.glob("*.py"))):
        digest.update(f"\n{name} {(path / name).stat().st_size}\n".encode())
        digest.update(sampled(path / name))
    return digest.hexdigest()[:12]


def find_code(path: Path) -> str | None:
    """Return the configuration file that names code in the model directory to run (`auto_map`), None without one.

    Raises UserError naming `target.path` for a file that cannot be read or is not JSON.
    """
    for file in sorted(path.glob("*config.json")):
        sections: list[dict[str, Any]] = []
        try:
            json.loads(read_text(file, f"target.path={path}: {file.name}", "download it again"), object_hook=sections.append)
        except (ValueError, RecursionError) as error:
            raise UserError(f"target.path={path}: {file.name} is not JSON ({error}); download it again") from None
        if any("auto_map" in section for section in sections):
            return file.name
    return None


def has_chat_template(path: Path) -> bool:
    """Return whether the tokenizer in the directory `path` has a chat template. Raises UserError for a file that is not JSON."""
    config, *templates = _tokenizer_settings(path)
    if templates or not (path / config).is_file():
        return bool(templates)
    return bool(read_json(path / config, f"target.path={path}: {config}", "download it again").get("chat_template"))


def _tokenizer_settings(path: Path) -> list[str]:
    """Return the names of the file of a tokenizer's settings, which may be missing, and of its files of chat templates."""
    templates = [*path.glob("chat_template.jinja"), *path.glob("additional_chat_templates/*.jinja")]
    return ["tokenizer_config.json", *sorted(file.relative_to(path).as_posix() for file in templates)]


def trusts_code() -> bool:
    """Return whether code of the target's directory may run in this process."""
    return os.environ.get(TRUST) == "1"


def register_config(path: Path) -> None:
    """Register the configuration class of a trusted target for calls without a `trust_remote_code` argument."""
    from transformers import AutoConfig

    if trusts_code():
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        AutoConfig.register(config.model_type, type(config), exist_ok=True)


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of the directory `path`, never from the network."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trusts_code())


def leading_text(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text of the tokens that a tokenizer adds before every sequence, such as a BOS. Empty without any.

    This text is removed from prompts that already begin with it, as from a chat template, because the tokenizer adds it again.
    """
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    first = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return str(tokenizer.decode(whole[:first]))


def _weight_names(path: Path) -> list[str]:
    """Return the weight files in the directory or in its index. Pickled files count only if an index names them.

    Raises UserError naming `target.path` for an index without files.
    """
    for index in sorted(path.glob("*.safetensors.index.json")):
        return sorted(set(read_weight_map(index).values()))
    return sorted(file.name for file in path.glob("*.safetensors"))


def read_weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor in an index of weights. Raises UserError naming `target.path` for a damaged index."""
    name = f"target.path={index.parent}: {index.name}"
    try:
        content = json.loads(read_text(index, name, "download it again", largest_mib=256))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not JSON ({error}); download it again") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{name} has no weight_map that names a file for each tensor; download it again")
    return files
