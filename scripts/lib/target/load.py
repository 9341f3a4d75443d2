"""What a target is, read from its files, and the target itself."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import UserError
from lib.files import sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class TargetFacts:
    """A decoder as its config.json declares it (the text decoder's section, where a multimodal model nests one)."""

    architecture: str
    model_type: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    max_positions: int


def check_target(path: Path) -> TargetFacts:
    """Read the facts of the Hugging Face directory `path` without loading it.

    Raises UserError naming `target.path` when the directory, its config.json, one of its weight files or its tokenizer is missing.
    """
    if not path.is_dir():
        raise UserError(f"target.path={path} is not a directory; give a local Hugging Face model directory")
    config_file = path / "config.json"
    if not config_file.is_file():
        raise UserError(f"target.path={path} has no config.json; give a local Hugging Face model directory")
    try:
        config = json.loads(config_file.read_text())
        text = config.get("text_config", config)
        facts = TargetFacts(
            architecture=config["architectures"][0],
            model_type=text.get("model_type", config["model_type"]),
            hidden_size=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            vocab_size=text["vocab_size"],
            max_positions=text["max_position_embeddings"],
        )
    except json.JSONDecodeError as error:
        raise UserError(f"target.path={path}: config.json is not JSON ({error}); download it again") from None
    except (KeyError, IndexError) as error:
        raise UserError(f"target.path={path}: config.json does not say {error}; give a decoder in Hugging Face format") from None
    missing = [name for name in _weight_names(path) if not (path / name).is_file()]
    if missing or not _weight_names(path):
        raise UserError(f"target.path={path} lacks weights ({missing[0] if missing else '*.safetensors'}); finish the download")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"target.path={path} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); copy it beside the weights")
    return facts


def target_fingerprint(path: Path) -> str:
    """Return 12 hex digits that tell targets apart: config.json, and each weight and tokenizer file's name, size and content.

    Of a file above 64 MiB the content is 64 blocks of 64 KiB, evenly spaced from its first byte to its last, so that asking in every job
    stays cheap: an edit in place that touches none of them is missed. Training a model on changes nearly every byte.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    tokenizer_files = (name for name in _TOKENIZER_FILES if (path / name).is_file())
    for name in (*_weight_names(path), *tokenizer_files):
        digest.update(f"\n{name} {(path / name).stat().st_size}\n".encode())
        digest.update(sampled(path / name))
    return digest.hexdigest()[:12]


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of the directory `path`, never from the network."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def load_target(path: Path, dtype: str = "float32") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load model and tokenizer for inference in `dtype`, on the GPU where there is one. Raises UserError as check_target does."""
    import torch
    from transformers import AutoModelForCausalLM

    check_target(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return model, load_tokenizer(path)


def _weight_names(path: Path) -> list[str]:
    """Return the weight files that the directory has, or that its index says it should have."""
    for pattern in ("*.safetensors", "*.bin"):
        for index in path.glob(f"{pattern}.index.json"):
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if names := sorted(file.name for file in path.glob(pattern)):
            return names
    return []
