"""`features`: prompts and offline training data."""

from pydantic import Field, model_validator

from lib.section import Positive, Section


class Features(Section):
    """Offline training data: the target's own responses to prompts, and its hidden states along them."""

    prompts: str | None = Field(None, description='JSONL file with {"prompt": ...} per line; empty: the Python standard library')
    dataset: str | None = Field(
        None,
        min_length=1,
        description="directory of a speculators data set, whose rows are used in place of prompts and responses; empty: none",
    )
    train_prompts: Positive = Field(
        512, le=10_000_000, description="prompts whose responses the head is trained on; one prompt is one sample"
    )
    heldout_prompts: Positive = Field(64, le=10_000_000, description="prompts on which the proxy is computed")
    serving_prompts: Positive = Field(64, le=10_000_000, description="prompts of the serving workload")
    prompt_tokens: Positive = Field(32, description="tokens per prompt (ISL)")
    response_tokens: Positive = Field(96, description="tokens per response in the training data")
    seed: int = Field(0, ge=0, description="seed of the split into train, held-out and serving prompts")

    @model_validator(mode="after")
    def _one_source(self) -> "Features":
        if self.prompts and self.dataset:
            raise ValueError("prompts and dataset are both set; set only one of them")
        return self
