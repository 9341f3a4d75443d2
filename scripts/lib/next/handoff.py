"""`results/HANDOFF.md`: the verdict, what to try next and with which command, and the outcomes of earlier levers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.config import Config
from lib.errors import UserError
from lib.files import read_json, whole_file, write_json
from lib.next.finding import Finding
from lib.next.frontier import Frontier, Lever, frontier, propose, space_yaml
from lib.records import layout
from lib.search.work import Pace


def hand_off(finding: Finding, default: Config, pace: Pace | None, root: Path) -> Frontier:
    """Write the folder of every new lever under `root`/results/levers/, and return the frontier.

    Raises:
        UserError: a lever.json of an earlier run, or a verdict of its search, cannot be read.
    """
    kept = [_read_lever(path) for path in layout.find_levers(root)]
    proposed, passed = propose(finding, default, pace)
    found = frontier(finding, [lever for lever, _ in proposed], kept, passed, root)
    as_listed = {one.lever.id: one.lever for one in found.levers}
    for lever, space in proposed:
        if as_listed[lever.id] == lever:
            with whole_file(root / layout.lever_space(lever.id)) as path:
                path.write_text(space_yaml(space, lever))
            write_json(root / layout.lever(lever.id), lever.model_dump(mode="json"))
    return found


def format_handoff(finding: Finding, found: Frontier) -> str:
    """Return the hand-off as Markdown."""
    return "\n".join(_lines(finding, found)) + "\n"


def format_next(finding: Finding, found: Frontier, n: int = 3) -> str:
    """Return the first open levers with their commands as text for a terminal."""
    lines = list(_more_seeds(finding.verdict))
    ranked = [one.lever for one in found.of("open")]
    if not ranked:
        lines.append(f"Next: no lever is open; {layout.HANDOFF} says why.")
    else:
        how = f"gains are DRAFT estimates, levers with another k come last; see {layout.HANDOFF} for evidence and estimates"
        lines.append(f"Next ({how}):")
    for place, lever in enumerate(ranked[:n], 1):
        lines += [f"  {place}. {lever.title}: {_gain(lever)}, cost {_hours(lever)}", f"     {lever.command}"]
    return "\n".join(lines) + "\n"


def _more_seeds(verdict: dict[str, Any]) -> Iterator[str]:
    """Yield the advice for an effect that is large enough but hidden by the noise between trainings."""
    if verdict["seeds_to_tell"]:
        yield (
            f"The effect of {verdict['effect']:+.3f} is large enough to matter, but is hidden by the noise between trainings. If both stay "
            f"the same, verdict.seeds = {verdict['seeds_to_tell']} would show it. Fix the number of seeds in advance. Adding seeds until "
            "the test passes inflates false positives."
        )


def _lines(finding: Finding, found: Frontier) -> Iterator[str]:
    yield "# Hand-off"
    yield ""
    yield f"**{finding.verdict['summary']}**"
    yield ""
    for line in _more_seeds(finding.verdict):
        yield line
        yield ""
    yield _setting(finding)
    ranked = found.of("open")
    if ranked:
        yield ""
        yield "## Next levers"
        yield ""
        yield "Ranked by expected gain per device-hour. Gains are DRAFT estimates in tokens per step."
        yield "Levers with another number of drafted tokens come last, because their acceptance lengths are not directly comparable."
        yield "Add `--dry-run` to a command to see its plan without running anything."
        yield ""
        yield "| | lever | expected gain | device-hours (at most) | gain per hour |"
        yield "|---|---|---|---|---|"
        for place, one in enumerate(ranked, 1):
            hours, value = (f"{number:.2g}" if number is not None else "not known" for number in (one.lever.device_hours, one.lever.value))
            yield f"| {place} | {one.lever.title} | {_gain(one.lever)} | {hours} | {value} |"
        for place, one in enumerate(ranked, 1):
            yield from _paragraph(place, one.lever)
    for status, heading in (("proven", "Proven"), ("refuted", "Refuted")):
        if decided := found.of(status):
            yield ""
            yield f"## {heading}"
            yield ""
            yield from (f"- **{one.lever.title}** (`{one.lever.id}`): {one.outcome}" for one in decided)
    if found.wall:
        yield ""
        yield "## Wall"
        yield ""
        yield found.wall
    yield ""
    yield "## Not proposed"
    yield ""
    yield from (f"- {line}." for line in found.passed)


def _paragraph(place: int, lever: Lever) -> Iterator[str]:
    yield ""
    yield f"### {place}. {lever.title}"
    yield ""
    estimate = "" if lever.expected is None else f"{lever.expected:+.2f} tokens per step, at most {lever.at_most:+.2f}; "
    yield f"{lever.why} Gain (DRAFT): {estimate}{lever.how}."
    proven = f"a gain of at least {lever.needs:g}" if lever.needs > 0 else f"a loss of at most {-lever.needs:g}"
    origin = lever.origin
    yield f"Cost: {_hours(lever)} ({lever.work}). Proven by {proven} against {origin.acceptance_length:.3f} ({origin.measured_as})."
    yield ""
    yield "```bash"
    yield lever.command
    yield "```"


def _setting(finding: Finding) -> str:
    """Return the context of the numbers: champion, target, head, device, engine, workload."""
    context, search = finding.champion["context"], finding.experiment.search
    identity, workload = context["identity"], context["workload"]
    prompts = sum(subset["num_prompts"] for subset in workload["subsets"].values())
    most = "up to " if workload["stop"] == "eos" else ""
    device = f"{context['parallelism']['workers']} x {identity['device_name']}"
    return (
        f"Champion of search `{search.id}`: {finding.point} (`{finding.champion['arm']}`), {finding.space.draft.title} head for "
        f"target {identity['model']}. Measured at k = {finding.draft_tokens} on {device}, vLLM {context['stack']['vllm']}, {prompts} "
        f"prompts, {most}{workload['output_tokens']} output tokens each, temperature {workload['temperature']:g}."
    )


def _gain(lever: Lever) -> str:
    return f"unknown, at most {lever.at_most:+.2f}" if lever.expected is None else f"{lever.expected:+.2f}"


def _hours(lever: Lever) -> str:
    return "not known" if lever.device_hours is None else f"at most {lever.device_hours:.2g} device-hours"


def _read_lever(path: Path) -> Lever:
    cure = "delete its folder, and the next run proposes it again"
    try:
        return Lever.model_validate(read_json(path, cure))
    except ValueError:
        raise UserError(f"{path} was written by another version; {cure}") from None
