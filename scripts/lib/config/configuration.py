"""The whole configuration of a run, except the search space, which has its own file."""

from typing import Any

from pydantic import Field, model_validator

from lib.config.budget import Budget, Cost
from lib.config.features import Features
from lib.config.publish import Publish
from lib.config.search import STRATEGIES, SearchOptions
from lib.config.serving import Serving
from lib.config.streaming import Streaming
from lib.config.target import Target
from lib.config.training import Training
from lib.config.verdict import VerdictOptions
from lib.section import Section, checked

FIRST_FRESH_SEED = 1000
"""First seed reserved for verdicts. No search proposes, promotes or learns from an arm with such a seed."""


class Config(Section):
    """Everything a run is told, except the search space, which is a file of its own."""

    space: str = Field("config/spaces/eagle3-draft.yaml", description="the search space file")
    strategy: str = Field("hyperband", description="how arms are proposed and dropped", json_schema_extra={"enum": list(STRATEGIES)})
    search: SearchOptions = Field(SearchOptions(), description="the size of the search")
    seed_from: str | None = Field(None, min_length=1, description="arms measured before: prior-arms JSON, or a ledger.parquet; empty: none")
    budget: Budget = Field(Budget(), description="what the search may use at most")
    cost: Cost = Field(Cost(), description="what work costs, for the plan")
    seed: int = Field(0, ge=0, lt=FIRST_FRESH_SEED, description="seed of the search and of every arm's training; the verdict has its own")
    baseline: str | None = Field(
        None, min_length=1, description="file of `publish.baselines` that replaces `standing` of the space; empty: the space's own"
    )
    target: Target = Field(Target(), description="the target model")
    manifest: str | None = Field(
        None,
        min_length=1,
        description="what scripts/describe.py prints where target.path and features.dataset are mounted, as a file; empty: look there",
    )
    features: Features = Field(Features(), description="prompts and offline training data")
    training: Training = Field(Training(), description="the recipe every arm shares")
    streaming: Streaming = Field(Streaming(), description="the state of a rung in progress")
    serving: Serving = Field(Serving(), description="the serving measurement")
    verdict: VerdictOptions = Field(VerdictOptions(), description="champion against standing configuration, measured afresh")
    publish: Publish = Field(Publish(), description="where an improvement is recorded")
    run_id: str | None = Field(None, min_length=1, description="name of this run where jobs run on other machines; empty: not yet")
    ack_train: str | None = Field(None, min_length=1, description="the run id, to let jobs on other machines train; empty: none may")
    ack_serve: str | None = Field(None, min_length=1, description="the run id, to let jobs on other machines serve; empty: none may")
    ack_publish: str | None = Field(None, min_length=1, description="id of the verdict that may be recorded; empty: none")

    @model_validator(mode="after")
    def _dataset_is_complete(self) -> "Config":
        if self.features.dataset and not self.target.path:
            raise ValueError("features.dataset holds the hidden states of one target; set target.path to it")
        if self.features.dataset and not self.serving.workload.path:
            raise ValueError("features.dataset has no serving prompts; set serving.workload.path")
        return self

    @model_validator(mode="after")
    def _manifest_describes_something(self) -> "Config":
        if self.manifest and not self.target.path:
            raise ValueError("manifest describes the model at target.path, which is empty; set target.path, or leave manifest empty")
        return self

    @model_validator(mode="after")
    def _extraction_fits(self) -> "Config":
        tokens, features = self.serving.max_num_batched_tokens, self.features
        if features.dataset:
            return self
        if tokens is not None and tokens < features.concurrency:
            raise ValueError(
                f"features.concurrency = {features.concurrency} is more than serving.max_num_batched_tokens = {tokens}, and each sequence "
                "takes a token of a step; lower it, or raise serving.max_num_batched_tokens"
            )
        key = min(("train_prompts", "heldout_prompts"), key=lambda name: getattr(features, name))
        if features.engines > getattr(features, key):
            raise ValueError(
                f"features.engines = {features.engines} is more than features.{key} = {getattr(features, key)}, and each engine extracts "
                "a part of them; lower it"
            )
        return self

    @model_validator(mode="after")
    def _sequences_fit(self) -> "Config":
        workload = self.serving.workload
        if workload.output_tokens >= self.serving.max_model_len:
            raise ValueError(
                f"serving.workload.output_tokens = {workload.output_tokens} leaves no room for a prompt in "
                f"serving.max_model_len = {self.serving.max_model_len}; raise serving.max_model_len"
            )
        served = self.features.prompt_tokens + workload.output_tokens
        if workload.path is None and served > self.serving.max_model_len:
            raise ValueError(
                f"serving.max_model_len = {self.serving.max_model_len} is shorter than features.prompt_tokens + "
                f"serving.workload.output_tokens = {served}; raise it"
            )
        return self


def parse_config(values: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration as Snakemake merged it. Raises UserError, one line per fault."""
    return checked(Config, values, source)
