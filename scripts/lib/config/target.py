"""`target`: the model that serves."""

from pydantic import Field, model_validator

from lib.section import Positive, Section


class TinyTarget(Section):
    """The target model that is trained on the spot when `target.path` is empty."""

    hidden: Positive = Field(128, le=8192, description="hidden size")
    intermediate: Positive = Field(384, le=65_536, description="width of the feed-forward layer")
    layers: int = Field(4, ge=2, le=128, description="number of decoder layers")
    heads: Positive = Field(2, description="attention heads; hidden / heads must be 32 or 64 for vLLM on CPU")
    kv_heads: Positive = Field(1, description="key-value heads")
    vocab_size: int = Field(1024, ge=512, le=262_144, description="size of the byte-level BPE vocabulary")
    context: int = Field(256, ge=64, le=65_536, description="longest sequence, in tokens")
    steps: Positive = Field(600, le=10_000_000, description="optimizer steps")
    batch: Positive = Field(2, le=65_536, description="sequences per optimizer step")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    seed: int = Field(0, ge=0, description="seed of initial weights and data order")

    @model_validator(mode="after")
    def _shapes_fit(self) -> "TinyTarget":
        if self.hidden % self.heads or self.hidden // self.heads not in (32, 64):
            raise ValueError(f"hidden / heads must be 32 or 64, not {self.hidden} / {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} and {self.kv_heads}")
        return self


class Target(Section):
    """The model that serves, and that verifies what the draft head proposes."""

    path: str | None = Field(None, min_length=1, description="directory of a Hugging Face model; empty: train the tiny target below")
    trust_remote_code: bool = Field(
        False, description="run code of the model directory in jobs, where its configuration names some (`auto_map`); read it first"
    )
    tiny: TinyTarget = Field(TinyTarget(), description="the tiny target, used when `path` is empty")
