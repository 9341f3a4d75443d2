"""DFlash drafts a block at once from an anchor token followed by masks. It is trained on blocks drawn from a sample."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lib.errors import UserError
from lib.methods import Draft, Pack
from lib.section import Positive, added

if TYPE_CHECKING:
    from torch import Tensor


class DFlash(Draft):
    """A DFlash head."""

    method: Literal["dflash"] = Field(description="DFlash: drafts a block of tokens at once")
    block_size: int = Field(4, ge=2, description="tokens per block, the first of which is the anchor")
    anchors: Positive = Field(32, description="anchors drawn per sample in training")
    mask_token_id: int | None = added(
        None, ge=0, description="token that stands for what is to be drafted; empty: the tokenizer's mask token or an unused one"
    )
    per_position_loss_weight: Literal["fixed-exp-decay", "dpace"] = added(
        "fixed-exp-decay", description="how the positions of a block are weighted in the loss; dpace wants loss_fn: ce"
    )
    dflash_decay_gamma: float = added(4.0, gt=0, description="fixed-exp-decay: positions over which the weight falls to 1/e")
    dpace_alpha: float = added(0.5, ge=0, description="dpace: smoothing constant")

    title = "DFlash"
    served_as = "dflash"
    decoder = "qwen3"
    counted = "full_acc_total"

    @model_validator(mode="after")
    def _weights_go_with_the_loss(self) -> "DFlash":
        if self.per_position_loss_weight == "dpace" and self.loss_fn != "ce":
            raise ValueError(f"loss_fn = {self.loss_fn!r} does not go with per_position_loss_weight = 'dpace'; set ce")
        return self

    @property
    def positions(self) -> int:
        """The tokens of a block behind its anchor."""
        return self.block_size - 1

    @property
    def max_anchors(self) -> int:
        """The number of anchors drawn per sample."""
        return self.anchors

    @property
    def overhang(self) -> int:
        """A block may start at the end of the last sample and reach beyond it."""
        return self.block_size

    def for_tokens(self, tokens: int) -> tuple[dict[str, int], str]:
        """Return the required block size."""
        if tokens < self.block_size:
            return {}, ""
        return {"block_size": tokens + 1}, f"DFlash needs a block of {tokens + 1} for that, so heads are retrained"

    def misfit(self, vocab_size: int) -> str | None:
        """Return the fault if the mask token is beyond the target's vocabulary."""
        if self.mask_token_id is None or self.mask_token_id < vocab_size:
            return super().misfit(vocab_size)
        return f"draft.mask_token_id = {self.mask_token_id} is beyond the target's vocabulary of {vocab_size}; lower it, or leave it empty"

    def build(self, layers: Any, told: dict[str, Any]) -> Any:
        """Return a model with block and mask token."""
        from speculators import DFlashDraftModel
        from speculators.train.utils import resolve_mask_token_id

        target = told["verifier_name_or_path"]
        try:
            mask_token_id = resolve_mask_token_id(
                target, layers.vocab_size, self.mask_token_id, trust_remote_code=told["trust_remote_code"]
            )
        except ValueError as error:
            raise UserError(
                f"target.path={target}: its tokenizer has no token for what is to be drafted ({error}); set draft.mask_token_id of the "
                "space to one that answers do not hold"
            ) from None
        if mask_token_id >= layers.vocab_size:
            raise UserError(
                f"target.path={target}: the mask token of its tokenizer, {mask_token_id}, is beyond its vocabulary of {layers.vocab_size}; "
                "set draft.mask_token_id of the space to one that answers do not hold"
            )
        # In training every layer attends to its whole block. vLLM reads this flag, and serves causal layers without it.
        own: dict[str, Any] = {"block_size": self.block_size, "mask_token_id": mask_token_id, "sliding_window_non_causal": True}
        return DFlashDraftModel.from_training_args(layers, **told, **own)

    def anchors_in(self, loss_mask: "Tensor", seed: tuple[int, ...]) -> "Tensor":
        """Draw from the same positions as speculators' `select_anchors`, but without the global random state."""
        import numpy as np
        import torch

        starts = loss_mask[: max(0, len(loss_mask) - self.block_size)].nonzero().squeeze(1)
        drawn = np.random.default_rng(seed).permutation(len(starts))[: self.anchors]
        return starts[torch.from_numpy(np.sort(drawn))]

    def evaluated(self, starts: "Tensor") -> "Tensor":
        """Return `anchors` evenly spaced starts."""
        import torch

        return starts if len(starts) <= self.anchors else starts[torch.linspace(0, len(starts) - 1, self.anchors).long()]

    def forward(self, model: Any, pack: Pack, options: dict[str, Any]) -> Any:
        """Start blocks at the pack's anchors. The forward's own choice uses the global random state and the whole pack."""
        from speculators.models.dflash import core

        module: Any = core  # it exports nothing by name
        draw = module.select_anchors
        module.select_anchors = lambda *_: (pack.anchors.clamp(min=0), pack.anchors >= 0)
        try:
            return model(**pack.inputs, **options | {"max_anchors": len(pack.anchors)})
        finally:
            module.select_anchors = draw

    def hits(self, calls: "list[Tensor]", pack: Pack) -> "list[Tensor]":
        """Return the agreement within the used blocks. Slot 0 of a block is the start itself."""
        return list(calls[0].view(-1, self.block_size)[pack.anchors >= 0, 1:].T)
