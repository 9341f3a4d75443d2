"""EAGLE3 drafts token by token from its own hidden states. It is trained by unrolling these steps."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lib.methods import Draft, Pack
from lib.section import Positive, added

if TYPE_CHECKING:
    from torch import Tensor


class Eagle3(Draft):
    """An EAGLE3 head."""

    method: Literal["eagle3"] = Field(description="EAGLE3: drafts token by token")
    ttt_steps: Positive = Field(3, description="positions unrolled in training")
    ttt_step_loss_decay: float = added(1.0, gt=0, le=1, description="weight of a position's loss, as a fraction of that of the one before")
    norm_before_residual: bool = added(True, description="the first layer's residual is taken after its norm")
    norm_before_fc: bool = added(True, description="the target's hidden states are normalised before the first projection")
    norm_output: bool = added(True, description="a step hands its normalised hidden state to the next one")

    title = "EAGLE3"
    served_as = "eagle3"
    decoder = "llama"
    counted = "full_acc_0_total"

    @property
    def positions(self) -> int:
        """The steps unrolled."""
        return self.ttt_steps

    def for_tokens(self, tokens: int) -> tuple[dict[str, int], str]:
        """Return no change. Positions beyond the unrolled steps can be drafted, but are untrained."""
        return {}, "" if tokens <= self.ttt_steps else "the head was not trained for that position"

    def misfit(self, vocab_size: int) -> str | None:
        """Return the fault if the head does not read three layers, the only number that vLLM serves."""
        if len(self.aux_layers) == 3:
            return super().misfit(vocab_size)
        return f"draft.aux_layers = {list(self.aux_layers)} are {len(self.aux_layers)}, and vLLM serves EAGLE3 heads that read 3; name 3"

    def build(self, layers: Any, told: dict[str, Any]) -> Any:
        """Return a model with these norms and steps."""
        from speculators import Eagle3DraftModel

        own: dict[str, Any] = {name: getattr(self, name) for name in ("ttt_steps", "norm_before_residual", "norm_before_fc", "norm_output")}
        return Eagle3DraftModel.from_training_args(layers, **told, **own)

    def shifted(self, sample: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Pair hidden states with the next token, and drop the first `ttt_steps` - 1 targets.

        Step t pairs a draft with the target t positions later. At the end of a sample this is the start of the next one in the pack.
        """
        from speculators.models.eagle3.data import shift_batch

        row: dict[str, Tensor] = shift_batch(sample)
        row["loss_mask"] = row["loss_mask"].clone()
        row["loss_mask"][: self.ttt_steps - 1] = 0
        return row

    def evaluation(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"ttt_steps": self.positions}

    def hits(self, calls: "list[Tensor]", pack: Pack) -> "list[Tensor]":
        """Return each step's agreement at the starts."""
        return [step[pack.starts] for step in calls]
