"""`features`: prompts and offline training data."""

from typing import Any, Literal

from pydantic import Field, model_validator

from lib.section import Positive, Section, Temperature

AUTO, NONE = "auto", "none"
"""Keywords of `chat_template`."""

_OWN_ARGUMENTS = {
    *("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
"""Parameters of the function that renders a template, which are no variables of the template."""


class Features(Section):
    """Offline training data: the target's own responses to prompts, and its hidden states along them."""

    prompts: str | None = Field(None, description="JSONL file of prompts or conversations; empty: the Python standard library")
    dataset: str | None = Field(
        None,
        min_length=1,
        description="directory of a speculators data set, whose rows are used in place of prompts and responses; empty: none",
    )
    chat_template: str = Field(
        AUTO,
        min_length=1,
        description="template of conversations: auto (the tokenizer's own, if it has one), none (prompts as they are), or a Jinja file",
    )
    template_arguments: dict[str, Any] = Field({}, description="arguments of the chat template, such as enable_thinking: false")
    answers: Literal["regenerate", "given"] = Field(
        "regenerate", description="regenerate: the target answers the last turn of the user; given: the answers in the conversations"
    )
    max_dropped: float = Field(0.1, ge=0, le=1, description="share of the lines that may be unusable or too long")
    train_prompts: Positive = Field(
        512, le=10_000_000, description="prompts whose responses the head is trained on; one prompt is one sample"
    )
    heldout_prompts: Positive = Field(64, le=10_000_000, description="prompts on which the proxy is computed")
    serving_prompts: Positive = Field(64, le=10_000_000, description="prompts of the serving workload")
    prompt_tokens: Positive = Field(32, description="tokens per prompt (ISL); in a file of prompts the most, longer ones are dropped")
    response_tokens: Positive = Field(96, description="most tokens of an answer in the training data; an end token ends it earlier")
    temperature: Temperature = Field(0.0, description="sampling temperature of the answers; 0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="sample from the most likely tokens of this total probability; empty: all")
    top_k: Positive | None = Field(None, description="sample from so many most likely tokens; empty: all")
    states_dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="dtype in which hidden states are stored; empty: the engine's, serving.dtype"
    )
    concurrency: int = Field(64, ge=1, le=4096, description="sequences in flight while answers and hidden states are extracted")
    engines: int = Field(1, ge=1, le=1000, description="engines that extract at the same time, each a job with a part of the prompts")
    seed: int = Field(0, ge=0, description="seed of the split into train, held-out and serving prompts")

    @property
    def template_file(self) -> str | None:
        """The file that `chat_template` names, None for a keyword."""
        return None if self.chat_template in (AUTO, NONE) else self.chat_template

    @model_validator(mode="after")
    def _arguments_are_of_the_template(self) -> "Features":
        if own := sorted(_OWN_ARGUMENTS & self.template_arguments.keys()):
            raise ValueError(f"template_arguments.{own[0]} is set by the workflow for every conversation; remove it")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "Features":
        if self.prompts and self.dataset:
            raise ValueError("prompts and dataset are both set; set only one of them")
        if self.answers == "given" and not self.prompts:
            raise ValueError("answers = 'given' needs conversations; set prompts, or set answers to regenerate")
        return self
