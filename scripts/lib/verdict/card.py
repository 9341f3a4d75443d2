"""The model card of the exported head: what it is, how to serve it, and what was measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.arm import Arm
from lib.config import read_recipe
from lib.files import flat
from lib.hyperparameters import HYPERPARAMETERS
from lib.methods import read_draft, title_of
from lib.records.context import ServingContext
from lib.records.measurement import ProxyRecord, ServingRecord
from lib.serving.bench import engine_settings
from lib.serving.engine import Speculation, load_engine
from lib.verdict.contest import Side
from lib.verdict.gate import mean_interval
from lib.verdict.verdict import Contestant, Verdict

PYTHON = ".venv/bin/python"
NAMES = {"champion": "champion", "standing": "standing configuration"}


@dataclass(frozen=True)
class Winner:
    """A head of the contest behind a verdict, with its side, folder, arm, measurement in vLLM and training record."""

    side: Side
    head: Path
    arm: Arm
    serving: ServingRecord
    training: ProxyRecord

    @property
    def context(self) -> ServingContext:
        """The context of the measurement."""
        assert isinstance(self.serving.context, ServingContext), "the head has been served"
        return self.serving.context


def format_card(winner: Winner | None, verdict: Verdict, folder: Path, prompts: Mapping[str, str], records: Sequence[str]) -> str:
    """Return the card as Markdown, in the shape of a Hugging Face model card.

    Args:
        winner: the head. None when no head of the contest could be measured.
        verdict: the verdict on the contest.
        folder: the folder of the head, as passed to vLLM.
        prompts: the workload's files by subset.
        records: paths of the records behind the verdict.
    """
    if winner is None:
        return f"# No draft head to hand over\n\n{_said(verdict)}\n\nNo head of the contest could be measured.\n"
    parts = (_opening(winner, verdict), _serving(winner, folder), _measured(winner, verdict, prompts), _made(winner, verdict, records))
    return "".join(f"{line}\n" for part in parts for line in part)


def serve_command(winner: Winner, folder: Path) -> str:
    """Return the command that serves the target with the head in `folder`, with the settings of the measurement.

    The server listens at `$HOST` and `$PORT`, by default 127.0.0.1:8000. Run the command in the root of the working tree.
    """
    engine, asked = winner.context.configuration, winner.serving.asked
    speculation = Speculation(engine.method, folder, engine.num_speculative_tokens)
    words = load_engine(asked["engine"]).serve_command(PYTHON, Path(winner.context.identity.hf_path), speculation, engine_settings(asked))
    first, *rest = ["SPEC_DECODE_TUNE=1", *words] if winner.context.stack.repairs else words
    lines = [first]
    for word in rest:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n    ".join(lines)


def _opening(winner: Winner, verdict: Verdict) -> Iterator[str]:
    method, target = winner.context.configuration.method, winner.context.identity
    yield from ("---", f"base_model: {json.dumps(target.hf_path)}", "library_name: vllm")
    yield from (f"tags: [speculative-decoding, {method}, spec-decode-tune]", "---")
    yield from (f"# {title_of(method)} draft head for {target.model}", "", _said(verdict), "", _whose(winner, verdict), "")
    yield from (
        "This head is the first of that configuration's fresh trainings. The choice was fixed before measuring, so unlike the champion's",
        "selection score its acceptance length has no selection bias.",
        "",
    )


def _said(verdict: Verdict) -> str:
    if verdict.rigor == "VERDICT":
        return f"**{verdict.summary}**"
    return (
        f"**DRAFT: {verdict.outcome}. The contest was not judged. Do not quote any number in this card as a result.** "
        f"Reason: {verdict.reason}."
    )


def _whose(winner: Winner, verdict: Verdict) -> str:
    if verdict.outcome == "improvement":
        return "This head was trained with the champion's configuration. Serve it instead of the standing configuration's head."
    if winner.side == "champion":
        return (
            "This head was trained with the champion's configuration, which is **not proven** better: no head of the standing "
            "configuration could be measured."
        )
    return (
        "This head is **no win**. No configuration of the search is proven better, so this is a fresh training of the standing "
        "configuration."
    )


def _serving(winner: Winner, folder: Path) -> Iterator[str]:
    yield from ("## Serve it", "", "```bash", serve_command(winner, folder), "```", "")
    yield f"Run this in the root of the working tree. Elsewhere, such as in a container with vLLM {winner.context.stack.vllm}, use `python`"
    yield f"instead of `{PYTHON}` and change the paths of the target and of `{folder}`."
    yield "The head holds no embedding. vLLM takes the target's. After loading the head with speculators 0.9, call its method"
    yield "`_load_verifier_weights(overwrite_embed_tokens=True)`."
    yield "The server listens on 127.0.0.1 unless `HOST` is set. Requests to `/v1` need the API key."
    repairs = winner.context.stack.repairs
    if repairs:
        yield f"`SPEC_DECODE_TUNE=1` enables the repairs of `vllm-plugin/` that the measurement used: {', '.join(repairs)}."
    yield ""


def _measured(winner: Winner, verdict: Verdict, prompts: Mapping[str, str]) -> Iterator[str]:
    serving, level = winner.serving, verdict.interval_level
    assert serving.repeats and serving.acceptance_length and serving.per_position_acceptance
    yield from ("## What was measured", "")
    yield "Acceptance length is 1 + accepted / drafts, from vLLM's counters before and after the workload. Read a server's counters with:"
    look = "curl -s http://localhost:${PORT:-8000}/metrics | grep -E 'spec_decode_num_(accepted_tokens|drafts)_total'"
    yield from ("", "```bash", look, "```")
    yield from ("", f"| | mean | {level:.0%} interval | n | |", "|---|---|---|---|---|")
    runs = len(serving.repeats)
    yield _row(
        "this head", f"{serving.acceptance_length:.4f}", "none", f"1 training, {runs} run{'s' * (runs > 1)} of the workload", "DRAFT"
    )
    for name, side in (("champion", verdict.champion), ("standing", verdict.standing)):
        yield _side(NAMES[name], side, level, verdict.rigor)
    if verdict.effect is not None and verdict.interval is not None:
        low, high = verdict.interval
        seeds = f"{verdict.champion.n} and {verdict.standing.n} trainings"
        marked = f"{verdict.rigor}: {verdict.outcome}"
        yield _row("champion minus standing", f"{verdict.effect:+.4f}", f"{low:+.4f} to {high:+.4f}", seeds, marked)
    rates = ", ".join(f"{rate:.3f}" for rate in serving.per_position_acceptance)
    counted = f"{serving.accepted} of {serving.draft_tokens} drafted tokens accepted in {serving.drafts} drafts"
    yield from ("", f"This head: {counted}; per position {rates}.")
    yield from ("", "| subset | acceptance length | drafts | tokens per answer | median | 90 % | 99 % |", "|---|---|---|---|---|---|---|")
    for name, subset in (serving.subsets or {}).items():
        first = serving.repeats[0].subsets[name]
        lengths = (first.mean_output_tokens, first.p50_output_tokens, first.p90_output_tokens, first.p99_output_tokens)
        yield _row(name, f"{subset.acceptance_length:.4f}", str(subset.drafts), *(f"{length:.4g}" for length in lengths))
    yield from ("", "The lengths of answers are those of the first run of the workload.")
    yield from ("", "Prompts and tokens as sent: " + ", ".join(f"`{path}` ({name})" for name, path in prompts.items()) + ".", "")


def _side(name: str, side: Contestant, level: float, mark: str) -> str:
    interval = mean_interval(side.acceptance_lengths, level=level)
    return _row(
        f"{name}: {side.point}",
        "not measured" if side.mean is None else f"{side.mean:.4f}",
        "none" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        f"{side.n} fresh trainings" + (f", {len(side.failed)} more failed" if side.failed else ""),
        mark,
    )


def _made(winner: Winner, verdict: Verdict, records: Sequence[str]) -> Iterator[str]:
    arm, training = winner.arm, winner.training
    trained = training.context.model_dump(mode="json")
    yield from ("## How it was trained", "")
    declared = {name: HYPERPARAMETERS[name] for name in arm.point.identity}
    yield from _table(
        {
            **{f"{one.label}, {one.description}": arm.point.identity[name] for name, one in declared.items()},
            **{"seed": arm.seed},
            **{"ranks": arm.layout.ranks, "micro-batch": arm.layout.micro_batch, "accumulation": arm.layout.accumulation},
            **{"samples consumed": training.samples, "optimizer steps": training.steps, "last lr": training.last_lr},
            **{"train loss": training.train_loss, "held-out accuracy, first drafted token (DRAFT)": training.acc0},
            **{"seconds of the last rung": round(training.wall_seconds, 1)},
        }
    )
    for title, keys in (
        ("Recipe", dict(read_recipe(arm.recipe["training"], arm.point)) | {"rungs": arm.recipe["rungs"]} | trained["configuration"]),
        ("Head", dict(read_draft(arm.recipe["draft"]))),
        ("Data", trained["workload"]),
        ("Hardware and stack of the training", trained["hardware"] | trained["stack"]),
    ):
        yield from (f"### {title}", "", *_table(keys))
    yield from ("## How it was served", "")
    for title, section in winner.context.model_dump(mode="json").items():
        yield from (f"### {title.capitalize()}", "", *_table(section))
    yield from ("## Provenance", "")
    yield from _table(
        {
            **{"verdict": verdict.id, "outcome": verdict.outcome, "search": verdict.search, "side": NAMES[winner.side], "arm": arm.id},
            **{"head, SHA-256 of its tensors": winner.serving.head_sha256, "target": trained["model"]["target_fingerprint"]},
            **{"measured at": [repeat.started_at for repeat in winner.serving.repeats or ()], "records": list(records)},
        }
    )
    yield "`manifest.json` in this folder holds the full records of this head and the SHA-256 of every file."


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for name, value in flat(dict(values)).items():
        yield _row(name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else "none" if value is None else str(value))
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
