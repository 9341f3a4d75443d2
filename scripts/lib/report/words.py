"""Sentences of the report that name model, hardware, configuration, workload, software stack and n beside its numbers."""

import json
from typing import Any

from lib.methods import title_of
from lib.report.story import Story
from lib.report.text import vocabulary_of


def trained(story: Story) -> str:
    """Return the context in which the proxies were trained and evaluated."""
    if not len(story.proxies):
        return "Nothing has been trained yet."
    row = story.proxies.iloc[0]
    context = {name.removeprefix("context."): row[name] for name in row.index if name.startswith("context.")}
    method = json.loads(row["recipe"])["draft"]["method"]
    seeds = sorted(int(seed) for seed in story.proxies["seed"].unique())
    vocabulary = ""
    if context.get("workload.vocabulary.size", 0) > 0:  # NaN without a draft vocabulary
        vocabulary = f"{vocabulary_of(*(context[f'workload.vocabulary.{name}'] for name in ('size', 'filler', 'coverage')))}; "
    return (
        f"{title_of(method)} head for target {target(story)}; trained on {context['hardware.devices']:g} x "
        f"{context['hardware.device_name']}, {context['hardware.threads']:g} thread(s), torch {context['stack.torch']}, speculators "
        f"{context['stack.speculators']}; {context['workload.train_samples']:g} training and {context['workload.heldout_samples']:g} "
        f"held-out samples; {vocabulary}n = {story.proxies['arm'].nunique()} arms, one training each (seed {', '.join(map(str, seeds))})."
    )


def served(context: dict[str, Any] | None) -> str:
    """Return the context in which acceptance lengths were measured, from the `context` of a serving record."""
    if context is None:
        return "vLLM has not measured a champion or a verdict yet."
    identity, engine, workload, stack = (context[name] for name in ("identity", "configuration", "workload", "stack"))
    prompts = sum(subset["num_prompts"] for subset in workload["subsets"].values())
    lengths = sum(subset["num_prompts"] * subset["input_tokens_mean"] for subset in workload["subsets"].values()) / prompts
    most = "up to " if workload["stop"] == "eos" else ""
    sampling = "".join(f", {name} {workload[name]:g}" for name in ("temperature", "top_p", "top_k") if workload[name] is not None)
    return (
        f"{identity['model']}, {identity['dtype'].removeprefix('torch.')}, {title_of(engine['method'])} head, k = "
        f"{engine['num_speculative_tokens']}; {context['parallelism']['workers']} x {identity['device_name']} "
        f"({context['parallelism']['strategy']}); vLLM {stack['vllm']}, torch {stack['torch']}, up to {engine['max_num_seqs']} sequences; "
        f"{prompts} prompts of {lengths:.0f} tokens in {len(workload['subsets'])} subset(s), {workload['dataset']}; "
        f"{most}{workload['output_tokens']} output tokens each{sampling}, {workload['concurrency']} in flight, "
        f"{context['regime']['start']}."
    )


def serving_context(story: Story) -> dict[str, Any] | None:
    """Return the context of the verdict's measurements, before a verdict the champion's, None when there is neither."""
    if story.verdict:
        return story.verdict.context.model_dump() if story.verdict.context else None
    return story.champion.context.model_dump() if story.champion else None


def target(story: Story) -> str:
    """Return the name of the target, or its digest before anything was served."""
    known = "context.identity.model" in story.table
    named = story.selected["context.identity.model"].dropna().tolist() if known else []
    return str([*named, story.search.recipe["target"]][0])


def saving(story: Story) -> str:
    """Return what early stopping has saved so far."""
    own = story.proxies[story.proxies["fate"] != "standing"]
    used, full = int((own["samples"] - own["resumed_from_samples"]).sum()), story.in_full()
    if not full:
        return "Nothing has been trained yet."
    arms = own["arm"].nunique()
    said = f"The search trained {used:,} samples. Its {arms} arms in full would take {full:,}, so {1 - used / full:.0%} is saved so far"
    pace = story.plan["pace"]
    hours = f", about {pace['per_sample'] * (full - used) / 3600:.2g} device-hours (DRAFT estimate)" if pace and full > used else ""
    return f"{said}{hours}."
