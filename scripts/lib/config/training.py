"""`training`: the recipe that every arm shares."""

from pydantic import Field

from lib.section import Fraction, Positive, Section


class Training(Section):
    """The training recipe that every arm shares; what is searched stands in the space file."""

    ranks: Positive = Field(1, description="data-parallel ranks (processes, one per GPU)")
    micro_batch_limit: Positive = Field(4, description="largest micro-batch, in samples per rank, that fits in memory")
    beta1: Fraction = Field(0.9, description="AdamW beta1")
    beta2: Fraction = Field(0.95, description="AdamW beta2")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay")
    grad_clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    final_lr_fraction: float = Field(0.1, ge=0, le=1, description="learning rate at the horizon, as a fraction of the peak (cosine decay)")
