"""Draft heads: what one is made of, how it is built, and how samples are packed for its forward pass.

The models, losses and collation are speculators'; this module fixes what they leave to chance, to the command line or to the batch.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from speculators import DFlashDraftModel, Eagle3DraftModel, SpeculatorModelConfig
from speculators.models.dflash import core
from speculators.models.eagle3.data import shift_batch
from speculators.train.cli import create_transformer_layer_config
from speculators.train.data import CollateFn
from speculators.train.utils import resolve_mask_token_id
from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution
from torch import Tensor

from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.target.load import check_target, register_config, trusts_code

Vocabulary = tuple[Tensor, Tensor]
"""(t2d, d2t) in speculators' encoding: which target tokens are drafted [target's size], and each drafted token's offset [draft's size]."""

_DRAFT_LAYERS = {"eagle3": "llama", "dflash": "qwen3"}  # the decoder layers that speculators and vLLM share for each method
_FLEX_BLOCK = 128  # flex attention wants whole blocks of this many positions

dflash_core: Any = core  # it exports nothing by name

# speculators 0.9 has "" here. transformers takes that for a model with code of its own: it puts a config.py into every head and names it in
# `auto_map`, for readers to run.
SpeculatorModelConfig._auto_class = None


@dataclass(frozen=True)
class HeadSpec:
    """Architecture of a draft head.

    `aux_layers`: the target's layers whose outputs feed the head; id n is the output of n layers, 0 the embedding.
    `k`: speculative tokens at serving; the held-out evaluation looks as far ahead.
    `draft_vocab_size`: None is the target's full vocabulary; a smaller one keeps the tokens most frequent in the training answers.
    `ttt_steps` and the norms concern EAGLE3; `block_size`, `max_anchors_per_sample` (blocks drawn from a sample in training) and
    `mask_token_id` DFlash (None: the tokenizer's mask token or an unused one, by speculators' rule).
    """

    method: Literal["eagle3", "dflash"]
    num_layers: int
    aux_layers: tuple[int, ...]
    k: int
    draft_vocab_size: int | None = None
    ttt_steps: int = 3
    norm_before_residual: bool = True
    norm_before_fc: bool = True
    norm_output: bool = True
    block_size: int = 8
    max_anchors_per_sample: int = 64
    mask_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.method not in _DRAFT_LAYERS:
            raise UserError(f"head.method={self.method!r} is unknown; choose {' or '.join(_DRAFT_LAYERS)}")
        for name in ("num_layers", "k", "ttt_steps", "max_anchors_per_sample"):
            if getattr(self, name) < 1:
                raise UserError(f"head.{name}={getattr(self, name)} must be at least 1")
        if self.method == "dflash" and self.k >= self.block_size:
            raise UserError(
                f"head.k={self.k} must be below head.block_size={self.block_size}: a DFlash block drafts one token less than its size"
            )


def build_head(spec: HeadSpec, target: Path, features: FeatureSet, seed: int) -> Any:
    """Return a fresh head in fp32 on the CPU; its trainable weights are a pure function of `spec`, the target's shape and `seed`.

    Embedding, output projection and final norm are the target's, frozen.
    Raises UserError when the head does not fit the target or the features.
    """
    if list(spec.aux_layers) != list(features.aux_layers):
        found = f"features {features.path} have {features.aux_layers}"
        raise UserError(f"head.aux_layers={list(spec.aux_layers)} but {found}; extract them again")
    vocab_size = _check_fit(spec, target)
    vocabulary = None
    if spec.draft_vocab_size is not None:
        vocabulary = frequent_vocabulary(features, spec.draft_vocab_size, vocab_size)
    return assemble_head(spec, target, vocabulary, seed)


def assemble_head(spec: HeadSpec, target: Path, vocabulary: Vocabulary | None, seed: int) -> Any:
    """Do what `build_head` does with a draft vocabulary chosen before; None is the target's own."""
    vocab_size = _check_fit(spec, target)
    options: dict[str, Any] = {
        "verifier_name_or_path": str(target),
        "trust_remote_code": trusts_code(),
        "target_layer_ids": list(spec.aux_layers),
        "draft_vocab_size": spec.draft_vocab_size or vocab_size,
        "draft_attn_impl": "simple_flex_attention" if torch.cuda.is_available() else "sdpa",
    }
    if spec.method == "eagle3":
        model_class: Any = Eagle3DraftModel
        options |= {name: getattr(spec, name) for name in ("ttt_steps", "norm_before_residual", "norm_before_fc", "norm_output")}
    else:
        model_class = DFlashDraftModel
        mask_token_id = resolve_mask_token_id(str(target), vocab_size, spec.mask_token_id, trust_remote_code=trusts_code())
        # Every layer attends to its whole block in training. vLLM reads this one flag, and without it would serve them causal.
        options |= {"block_size": spec.block_size, "mask_token_id": mask_token_id, "sliding_window_non_causal": True}
    layers = create_transformer_layer_config(
        str(target),
        spec.num_layers,
        _DRAFT_LAYERS[spec.method],
        hidden_act=None,
        sliding_window=0,
        full_attention_indices=list(range(spec.num_layers)),
        trust_remote_code=trusts_code(),
    )
    register_config(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class.from_training_args(layers, *(vocabulary or (None, None)), **options)
    model.config.speculators_config.proposal_methods[0].speculative_tokens = spec.k
    return model.float()


def frequent_vocabulary(features: FeatureSet, size: int, target_size: int) -> Vocabulary:
    """Return the draft vocabulary of the `size` tokens most frequent in the answers, ties to the lower id."""
    counts: Counter[int] = Counter()
    for index in range(len(features)):
        counts.update(features.answer(index))
    d2t, t2d = build_vocab_mappings_from_distribution(counts, size, target_size)
    return t2d, d2t


def head_tensors(model: Any) -> dict[str, Tensor]:
    """Return what a head owns by name: its trainable parameters and its draft vocabulary. Everything else is the target's."""
    owned = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return owned | {name: buffer for name, buffer in model.named_buffers() if name in ("t2d", "d2t")}


def head_hash(model: Any) -> str:
    """Return the SHA-256 of `head_tensors`: equal weights, equal hash."""
    return tensor_hash(head_tensors(model))


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over sorted names and raw bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Pack:
    """Samples in one row: `inputs` are forward's tensors [1, W] or [1, W, ...].

    DFlash alone has `anchors` [A], the positions where blocks start; unused slots are -1.
    """

    inputs: dict[str, Tensor]
    anchors: Tensor | None


def pack_samples(
    spec: HeadSpec, samples: Sequence[dict[str, Tensor]], anchors: Sequence[Tensor] | None, longest: int, device: torch.device
) -> Pack:
    """Pack samples one behind the other, as speculators does, so that no sample's loss depends on its neighbours.

    `anchors`: for DFlash, where blocks start within each sample (at most `max_anchors_per_sample`).
    `longest`: the longest sample that can come; on CUDA all packs of as many samples are equally wide, for the compiled forward's sake.
    """
    rows = [_eagle3_sample(sample, spec.ttt_steps) if spec.method == "eagle3" else sample for sample in samples]
    lengths = [len(row["input_ids"]) for row in rows]
    width = sum(lengths) if device.type == "cpu" else len(rows) * longest
    if anchors is not None:
        width += spec.block_size  # a block may start at the end of the last sample and reach beyond it
    if device.type != "cpu":
        width = -(-width // _FLEX_BLOCK) * _FLEX_BLOCK
    hidden_size = rows[0]["verifier_last_hidden_states"].shape[-1]
    batch = CollateFn(width, hidden_size, len(spec.aux_layers), torch.float32)(rows)
    inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    inputs["loss_mask"] = inputs["loss_mask"].bool()
    if anchors is None:
        return Pack(inputs, None)
    slots = torch.full((len(rows), spec.max_anchors_per_sample), -1)
    first = 0
    for slot, length, own in zip(slots, lengths, anchors, strict=True):
        slot[: len(own)] = own + first
        first += length
    return Pack(inputs, slots.flatten().to(device))


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return what forward and backward pass are computed in: bfloat16 on a GPU. Weights, gradients and moments are fp32 everywhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def run_head(model: Any, pack: Pack, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Run speculators' training forward with its `options`; return its loss, a mean over the pack's targets, and its metrics."""
    device = pack.inputs["input_ids"].device
    dtype = compute_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if pack.anchors is None:
            _, loss, metrics = model(**pack.inputs, **options)
        else:
            with _fixed_anchors(pack.anchors):
                _, loss, metrics = model(**pack.inputs, max_anchors=len(pack.anchors), **options)
    return loss, metrics


@contextmanager
def _fixed_anchors(anchors: Tensor) -> Iterator[None]:
    """Let DFlash's forward start its blocks at `anchors`: its own choice draws from the global RNG and over the whole pack."""
    draw = dflash_core.select_anchors
    dflash_core.select_anchors = lambda *_: (anchors.clamp(min=0), anchors >= 0)
    try:
        yield
    finally:
        dflash_core.select_anchors = draw


def _eagle3_sample(sample: dict[str, Tensor], ttt_steps: int) -> dict[str, Tensor]:
    """Shift a sample as EAGLE3 wants it and drop its first `ttt_steps` - 1 targets.

    Step t pairs a draft with the target t positions on, which for the end of one sample is the start of the next in the pack.
    """
    shifted: dict[str, Tensor] = shift_batch(sample)
    shifted["loss_mask"] = shifted["loss_mask"].clone()
    shifted["loss_mask"][: ttt_steps - 1] = 0
    return shifted


def _check_fit(spec: HeadSpec, target: Path) -> int:
    """Return the target's vocabulary size."""
    facts = check_target(target)
    layers = list(spec.aux_layers)
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= facts.num_layers for layer in layers):
        raise UserError(f"head.aux_layers={layers} must be distinct ids within 0..{facts.num_layers}, the layers of target.path={target}")
    if spec.draft_vocab_size is not None and not 1 <= spec.draft_vocab_size <= facts.vocab_size:
        limit = f"1..{facts.vocab_size}, the vocabulary of target.path={target}"
        raise UserError(f"head.draft_vocab_size={spec.draft_vocab_size} must be within {limit}; leave it out for the whole")
    return facts.vocab_size
