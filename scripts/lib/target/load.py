"""What a target is, read from its files, and the target itself."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from lib.errors import UserError
from lib.files import read_json, sampled
from lib.reading import LARGEST, read_text, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUST = "SPEC_DECODE_TUNE_TRUST_REMOTE_CODE"
"""Environment variable of every job, 1 where `target.trust_remote_code` is set. Without it no code of a model directory runs."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt")


Size = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]


@dataclass(frozen=True)
class TargetFacts:
    """A decoder as its config.json declares it (the text decoder's section, where a multimodal model nests one)."""

    architecture: str
    model_type: str
    hidden_size: Size
    num_layers: Size
    vocab_size: Size
    max_positions: Size


def check_target(path: Path) -> TargetFacts:
    """Read the facts of the Hugging Face directory `path` without loading it.

    Raises UserError naming `target.path` when the directory, its config.json, one of its weight files or its tokenizer is missing.
    """
    if not path.is_dir():
        raise UserError(f"target.path={path} is not a directory; give a local Hugging Face model directory")
    config_file = path / "config.json"
    if not config_file.is_file():
        raise UserError(f"target.path={path} has no config.json; give a local Hugging Face model directory")
    config = read_json(config_file, "download it again", f"target.path={path}: config.json")
    try:
        text = config.get("text_config") or config
        facts = TypeAdapter(TargetFacts).validate_python(
            {
                "architecture": config["architectures"][0],
                "model_type": text.get("model_type", config["model_type"]),
                "hidden_size": text["hidden_size"],
                "num_layers": text["num_hidden_layers"],
                "vocab_size": text["vocab_size"],
                "max_positions": text["max_position_embeddings"],
            }
        )
    except (KeyError, IndexError) as error:
        raise UserError(f"target.path={path}: config.json does not say {error}; give a decoder in Hugging Face format") from None
    except ValidationError as error:
        fault = error.errors()[0]
        said = f"{fault['loc'][0]} = {shown(fault['input'])}: {fault['msg']}"
        raise UserError(f"target.path={path}: config.json: {said}; give a decoder in Hugging Face format") from None
    except (TypeError, AttributeError):
        raise UserError(f"target.path={path}: config.json is not that of a model; give a decoder in Hugging Face format") from None
    names = _weight_names(path)
    pickled = [name for name in names or sorted(file.name for file in path.iterdir()) if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    if pickled:
        raise UserError(f"target.path={path} has pickled weights ({pickled[0]}), and they are never loaded; convert it to .safetensors")
    missing = [name for name in names if Path(name).name != name or not (path / name).is_file()]
    if missing or not names:
        raise UserError(f"target.path={path} lacks weights ({missing[0] if missing else '*.safetensors'}); finish the download")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"target.path={path} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); copy it beside the weights")
    return facts


def target_fingerprint(path: Path) -> str:
    """Return 12 hex digits that tell targets apart: config.json, and the name, size and content of each file of weights, tokenizer or code.

    Of a file above 64 MiB the content is 64 blocks of 64 KiB, evenly spaced from its first byte to its last, so that asking in every job
    stays cheap: an edit in place that touches none of them is missed. Training a model on changes nearly every byte.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    tokenizer_files = (name for name in _TOKENIZER_FILES if (path / name).is_file())
    for name in (*_weight_names(path), *tokenizer_files, *sorted(file.name for file in path.glob("*.py"))):
        digest.update(f"\n{name} {(path / name).stat().st_size}\n".encode())
        digest.update(sampled(path / name))
    return digest.hexdigest()[:12]


def find_code(path: Path) -> str | None:
    """Return the configuration file of a model directory that names code of the directory to run (`auto_map`), None if none does.

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


def trusts_code() -> bool:
    """Return whether code of the target's directory may run in this process."""
    return os.environ.get(TRUST) == "1"


def register_config(path: Path) -> None:
    """Let calls that take no `trust_remote_code` find the configuration class of a target whose code is trusted."""
    from transformers import AutoConfig

    if trusts_code():
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        AutoConfig.register(config.model_type, type(config), exist_ok=True)


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of the directory `path`, never from the network."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trusts_code())


def leading_text(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text of the tokens that a tokenizer puts before every sequence by itself, such as a BOS; empty when there are none.

    A prompt that begins with this text, as a chat template writes it, is given to the tokenizer without it. Otherwise it would stand twice.
    """
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    first = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return str(tokenizer.decode(whole[:first]))


def load_target(path: Path, dtype: str = "float32") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load model and tokenizer for inference in `dtype`, on the GPU where there is one. Raises UserError as check_target does."""
    import torch
    from transformers import AutoModelForCausalLM

    check_target(path)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, trust_remote_code=trusts_code(), use_safetensors=True, dtype=dtype
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return model, load_tokenizer(path)


def _weight_names(path: Path) -> list[str]:
    """Return the weight files that the directory has, or that its index says it should have; pickled files that no index names are none."""
    for index in path.glob("*.safetensors.index.json"):
        listed = read_json(index, "finish the download", f"target.path={path}: {index.name}").get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise UserError(f"target.path={path}: {index.name} lists no weights under weight_map; finish the download")
        return sorted(set(listed.values()))
    return sorted(file.name for file in path.glob("*.safetensors"))
