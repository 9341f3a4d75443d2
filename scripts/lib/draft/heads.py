"""Build draft heads, and pack samples for their forward pass.

Models, losses and collation come from speculators. This module makes them deterministic and sets what speculators takes from its command
line.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from speculators import SpeculatorModelConfig
from speculators.train.cli import create_transformer_layer_config
from speculators.train.data import CollateFn
from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution
from torch import Tensor
from transformers import AutoConfig

from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.files import whole_directory
from lib.methods import Draft, Pack
from lib.records.context import DraftVocabulary
from lib.target.load import check_target, register_config, trusts_code
from lib.target.output import match_final_norm

Vocabulary = tuple[Tensor, Tensor]
"""(t2d, d2t) in speculators' encoding: the drafted target tokens [target's size], the offset of each draft token [draft's size]."""

_FLEX_BLOCK = 128  # flex attention needs whole blocks of this many positions


# speculators 0.9 has "" here. transformers then treats the model as one with custom code, writes a config.py into every head and names it
# in `auto_map`.
SpeculatorModelConfig._auto_class = None


def build_head(draft: Draft, target: Path, features: FeatureSet, seed: int) -> Any:
    """Return a fresh head in fp32 on the CPU. Its trainable weights are a pure function of `draft`, the target's shape and `seed`.

    Embedding, output projection and final norm are copied from the target and frozen.
    Raises UserError when the head does not fit the target or the features.
    """
    if list(draft.aux_layers) != list(features.aux_layers):
        found = f"features {features.path} have {features.aux_layers}"
        raise UserError(f"draft.aux_layers={list(draft.aux_layers)} but {found}; extract them again")
    vocab_size = _check_fit(draft, target)
    vocabulary = None
    if draft.draft_vocab_size is not None:
        vocabulary = frequent_vocabulary(features, draft.draft_vocab_size, vocab_size)
    return assemble_head(draft, target, vocabulary, seed)


def assemble_head(draft: Draft, target: Path, vocabulary: Vocabulary | None, seed: int) -> Any:
    """Build a head as `build_head` does, with a given draft vocabulary. None is the target's vocabulary."""
    vocab_size = _check_fit(draft, target)
    t2d, d2t = vocabulary or (None, None)
    told = {
        "t2d": t2d,
        "d2t": d2t,
        "verifier_name_or_path": str(target),
        "trust_remote_code": trusts_code(),
        "target_layer_ids": list(draft.aux_layers),
        "draft_vocab_size": draft.draft_vocab_size or vocab_size,
        "draft_attn_impl": "simple_flex_attention" if torch.cuda.is_available() else "sdpa",
    }
    layers = _decoder_layers(draft, target)
    register_config(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = draft.build(layers, told)
    model.config.speculators_config.proposal_methods[0].speculative_tokens = draft.positions
    model = model.float()
    match_final_norm(model.verifier_norm, target)
    # vLLM and speculators take a frozen embedding from the target. For a large vocabulary it is most of a head.
    model.__dict__["_keys_to_ignore_on_save"] = sorted({*model._keys_to_ignore_on_save, "embed_tokens.weight"})
    return model


def learnt_output(draft: Draft, target: Path) -> Callable[[Tensor], Tensor]:
    """Return the function from last hidden states [T, H] to the logits [T, vocabulary] that heads of a target learn."""
    head = assemble_head(draft.model_copy(update={"draft_vocab_size": None}), target, None, seed=0)
    return lambda states: head.verifier_lm_head(head.verifier_norm(states))


def _decoder_layers(draft: Draft, target: Path) -> Any:
    """Return the configuration of a head's decoder layers, with the target's shape and the only activation vLLM serves in heads."""

    def of(path: Path) -> Any:
        return create_transformer_layer_config(
            str(path),
            draft.layers,
            draft.decoder,
            hidden_act="silu",
            sliding_window=0,
            full_attention_indices=list(range(draft.layers)),
            trust_remote_code=trusts_code(),
        )

    config = AutoConfig.from_pretrained(target, local_files_only=True, trust_remote_code=trusts_code()).get_text_config()
    if hasattr(config, "allow_global_per_layer_attribute_access"):  # for layers of different shapes speculators takes the global one too
        config.allow_global_per_layer_attribute_access = True
    if getattr(config, "head_dim", None):
        return of(target)
    config.head_dim = config.hidden_size // config.num_attention_heads  # speculators assumes it, but does not set it for every decoder
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return of(Path(folder))


def build_untrained_head(draft: Draft, target: Path, out: Path) -> None:
    """Write a head with random weights to `out` in vLLM's format. It has the shape of all heads trained for the target."""
    vocabulary = None
    if (size := draft.draft_vocab_size) is not None:
        d2t, t2d = build_vocab_mappings_from_distribution(Counter(range(size)), size, _check_fit(draft, target))
        vocabulary = t2d, d2t
    with whole_directory(out) as folder:
        assemble_head(draft, target, vocabulary, seed=0).save_pretrained(folder)


def frequent_vocabulary(features: FeatureSet, size: int, target_size: int) -> Vocabulary:
    """Return the draft vocabulary of the `size` most frequent tokens in the answers. Ties go to the lower id."""
    d2t, t2d = build_vocab_mappings_from_distribution(_counted(features), size, target_size)
    return t2d, d2t


def describe_vocabulary(t2d: Tensor, features: FeatureSet, unseen: FeatureSet) -> DraftVocabulary:
    """Return the facts of the draft vocabulary `t2d` for training data and held-out data."""
    drafted = set(t2d.nonzero()[:, 0].tolist())
    held = _counted(unseen)
    covered = sum(count for token, count in held.items() if token in drafted)
    return DraftVocabulary(size=len(drafted), filler=len(drafted - _counted(features).keys()), coverage=covered / held.total())


def _counted(features: FeatureSet) -> Counter[int]:
    """Return how often each token occurs in the answers."""
    counts: Counter[int] = Counter()
    for index in range(len(features)):
        counts.update(features.answer(index))
    return counts


def head_tensors(model: Any) -> dict[str, Tensor]:
    """Return a head's own tensors by name: trainable parameters and draft vocabulary. All others are the target's."""
    owned = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return owned | {name: buffer for name, buffer in model.named_buffers() if name in ("t2d", "d2t")}


def head_hash(model: Any) -> str:
    """Return the SHA-256 of `head_tensors`."""
    return tensor_hash(head_tensors(model))


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over sorted names and raw bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack_samples(
    draft: Draft, samples: Sequence[dict[str, Tensor]], starts: Sequence[Tensor] | None, longest: int, device: torch.device
) -> Pack:
    """Concatenate samples as speculators does, so that no sample's loss depends on its neighbours.

    `starts`: starts of drafts within each sample, at most `draft.max_anchors`. None means everywhere, for a method without anchors.
    `longest`: length of the longest sample. On CUDA all packs with equally many samples have one width, to avoid recompilation.
    """
    rows = [draft.shifted(sample) for sample in samples]
    lengths = [len(row["input_ids"]) for row in rows]
    width = (sum(lengths) if device.type == "cpu" else len(rows) * longest) + draft.overhang
    if device.type != "cpu":
        width = -(-width // _FLEX_BLOCK) * _FLEX_BLOCK
    hidden_size = rows[0]["verifier_last_hidden_states"].shape[-1]
    batch = CollateFn(width, hidden_size, len(draft.aux_layers), torch.float32)(rows)
    inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    inputs["loss_mask"] = inputs["loss_mask"].bool()
    placed = []
    slots = torch.full((len(rows), draft.max_anchors or 0), -1)
    first = 0
    for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        own = torch.empty(0, dtype=torch.long) if starts is None else starts[place] + first + length - len(sample["input_ids"])
        placed.append(own)
        if draft.max_anchors:
            slots[place, : len(own)] = own
        first += length
    return Pack(inputs, torch.cat(placed).to(device), slots.flatten().to(device))


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of forward and backward pass, bfloat16 on a GPU. Weights, gradients and moments are always fp32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def run_head(draft: Draft, model: Any, pack: Pack, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Run speculators' training forward with `options`. Return the loss, a mean over the pack's targets, and the metrics."""
    device = pack.inputs["input_ids"].device
    dtype = compute_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        _, loss, metrics = draft.forward(model, pack, options)
    return loss, metrics


def loss_options(draft: Draft, model: Any) -> dict[str, Any]:
    """Return the options of `run_head` for the head's loss, which have the same names in `draft` and in speculators."""
    implementation = "fused" if model.device.type == "cuda" else "eager"
    options, _ = model.get_trainer_kwargs(**dict(draft), loss_implementation=implementation)
    options.pop("max_anchors", None)  # anchors come with the pack
    return dict(options)


def _check_fit(draft: Draft, target: Path) -> int:
    """Return the target's vocabulary size."""
    facts = check_target(target)
    layers = list(draft.aux_layers)
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= facts.num_layers for layer in layers):
        raise UserError(f"draft.aux_layers={layers} must be distinct ids within 0..{facts.num_layers}, the layers of target.path={target}")
    if draft.draft_vocab_size is not None and not 1 <= draft.draft_vocab_size <= facts.vocab_size:
        limit = f"1..{facts.vocab_size}, the vocabulary of target.path={target}"
        raise UserError(f"draft.draft_vocab_size={draft.draft_vocab_size} must be within {limit}; leave it empty for the whole")
    return facts.vocab_size
