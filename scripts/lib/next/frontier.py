"""The frontier lists what to try next, ranked by expected gain per cost, and the outcomes of earlier levers."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError
from typing_extensions import TypedDict

from lib.config import Config, Space
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment
from lib.invocation import command
from lib.next.finding import Finding, Found, Proposal
from lib.next.levers import common, draft_tokens, edge, method, ranking, training_length
from lib.publish.baseline import bench_of
from lib.records import layout
from lib.records.context import Record
from lib.records.measurement import Count, read_record
from lib.search.proxy import PROXIES
from lib.search.work import Pace, Work, upper_bound
from lib.verdict.gate import judge

FINDERS: dict[str, Callable[[Finding], Found]] = {
    "edges": edge.find,
    "training length": training_length.find,
    "drafted tokens": draft_tokens.find,
    "proxy": ranking.find,
    "method": method.find,
    "common values": common.find,
}
"""The lever finders by topic. The topic names a finder that proposes nothing."""

NEAR_CEILING = 0.98
"""Share of k + 1 above which acceptance length counts as at its ceiling."""

NOT_CARRIED = {"space", "budget", "baseline", "seed_from", "ack_publish"}
"""Configuration keys that a lever's command omits. Its space file holds the standing point."""


class Origin(Record):
    """The champion of the search that proposed a lever."""

    target: str
    search: str
    arm: str
    acceptance_length: float
    measured_as: str
    acceptance_lengths: list[list[float]]
    confidence: float
    asked: dict[str, Any]

    @property
    def draft_tokens(self) -> int:
        """Tokens drafted per step."""
        return int(self.asked["draft_tokens"])


class Lever(Record):
    """`lever.json`, a lever as proposed. Gains are in tokens per step and DRAFT, hours are upper bounds."""

    id: str
    title: str
    why: str
    expected: float | None
    at_most: float
    how: str
    needs: float
    device_hours: float | None
    samples: int
    work: str
    search: str
    command: str
    origin: Origin

    @property
    def value(self) -> float | None:
        """Expected gain per device-hour. None where either is not known."""
        return self.expected / self.device_hours if self.expected is not None and self.device_hours else None


@dataclass(frozen=True)
class Judged:
    """A lever and its outcome."""

    lever: Lever
    status: Literal["open", "proven", "refuted"]
    outcome: str


@dataclass(frozen=True)
class Frontier:
    """All levers with open ones first, the reasons why others were passed over, and the wall if none is open."""

    levers: list[Judged]
    passed: list[str]
    wall: str | None

    def of(self, status: str) -> list[Judged]:
        """Return the levers of one status, in order."""
        return [one for one in self.levers if one.status == status]


def propose(finding: Finding, default: Config, pace: Pace | None) -> tuple[list[tuple[Lever, Space]], list[str]]:
    """Return the levers that the finding suggests with their spaces, and the reasons why others were passed over.

    Args:
        finding: a search with its ledger, champion and verdict.
        default: the default configuration.
        pace: the pace of the present head, None when unknown. Levers that change the head are estimated with it too.
    """
    levers, passed = [], []
    for topic, find in FINDERS.items():
        try:
            found = find(finding)
        except ValidationError as error:
            found = f"the changed space would be out of bounds ({error.errors()[0]['msg']})"
        if isinstance(found, str):
            passed.append(f"{topic}: {found}")
            continue
        for proposal in found:
            most = proposal.at_most if proposal.expected is None else proposal.expected
            if proposal.needs > 0 and most < proposal.needs:
                passed.append(f"{topic}: {proposal.title!r} would gain {most:.3f} at most, below {proposal.needs:g} (DRAFT)")
                continue
            try:
                experiment = _experiment(finding.experiment.config, proposal.space)
            except UserError as error:
                passed.append(f"{topic}: {proposal.title!r} cannot be searched: {error}")
                continue
            levers.append((_lever(finding, proposal, experiment, default, pace), proposal.space))
    return levers, passed


def rank(levers: Iterable[Judged]) -> list[Judged]:
    """Return levers by status, then by gain per hour, then gains at another k, then unknown gains (cheapest first), then no gain."""

    def key(one: Judged) -> tuple[Any, ...]:
        lever = one.lever
        other_k = lever.id.startswith("draft-")  # lengths at another k are not comparable
        kind = 2 if lever.expected is None else 3 if lever.expected <= 0 else 1 if other_k else 0
        return ("open", "proven", "refuted").index(one.status), kind, -(lever.value or 0), -(lever.expected or 0), lever.samples, lever.id

    return sorted(levers, key=key)


class _Side(TypedDict):
    mean: float | None
    n: Count
    acceptance_lengths: list[list[float]]


class _Verdict(TypedDict):
    """The keys read from the verdict of another search."""

    asked: dict[str, Any]
    champion: _Side


def decide(lever: Lever, root: Path) -> Judged:
    """Return a lever with its outcome. It is open until its search has a verdict under `root` with the origin's serving settings.

    It is proven when its champion is an improvement over the origin's. With fewer drafted tokens, the loss must not exceed the estimate.
    """
    origin = lever.origin
    verdicts = [read_record(path, _Verdict) for path in layout.find_verdicts(root, f"finalists-{lever.search}")]
    alike = [one for one in verdicts if _but_k(bench_of(one["asked"])) == _but_k(origin.asked) and one["champion"]["n"]]
    if not alike or not origin.acceptance_lengths:
        return Judged(lever, "open", "")
    found = max(alike, key=lambda verdict: verdict["champion"]["n"])
    side, k = found["champion"], found["asked"]["draft_tokens"]
    ruling = judge(
        side["acceptance_lengths"], origin.acceptance_lengths, confidence=origin.confidence, smallest_effect=max(lever.needs, 0.0)
    )
    assert ruling.effect is not None
    proven = ruling.outcome == "improvement" if lever.needs > 0 else ruling.effect >= lever.needs
    compared = "" if k == origin.draft_tokens else f"; this compares k = {k} with k = {origin.draft_tokens}, so check the throughput too"
    return Judged(
        lever,
        "proven" if proven else "refuted",
        f"its champion's acceptance length is {side['mean']:.3f} (n = {side['n']} fresh seeds) against {origin.acceptance_length:.3f} "
        f"({origin.measured_as}): {ruling.effect:+.3f}, {ruling.outcome}{compared}.",
    )


def _but_k(asked: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if key != "draft_tokens"}


def overtaken(judged: Judged, finding: Finding) -> Judged:
    """Return an open lever as refuted when the present champion, at the same k, has reached the most that the lever promised."""
    lever, origin = judged.lever, judged.lever.origin
    promised = origin.acceptance_length + (lever.at_most if lever.expected is None else lever.expected)
    if judged.status != "open" or origin.draft_tokens != finding.draft_tokens or promised >= finding.length + finding.smallest_effect:
        return judged
    said = f"overtaken: it promised {promised:.3f} from {origin.acceptance_length:.3f} ({origin.measured_as}, DRAFT)"
    return Judged(lever, "refuted", f"{said}, and the champion of search {finding.experiment.search.id} has {finding.length:.3f}.")


def frontier(finding: Finding, fresh: list[Lever], kept: list[Lever], passed: list[str], root: Path) -> Frontier:
    """Return fresh levers and those kept from earlier runs for the same target, judged and ranked.

    A decided lever stays as proposed. An open one that promised less than the present champion's length is refuted.
    """
    proposed = {_name(lever) for lever in fresh}
    ours = [overtaken(decide(lever, root), finding) for lever in kept if lever.origin.target == finding.recipe["target"]]
    settled = {one.lever.id: one for one in ours if one.status != "open"}
    # A lever of the present search replaces open ones of the same name.
    others = {one.lever.id: one for one in ours if one.status == "open" and _name(one.lever) not in proposed}
    judged = others | {lever.id: decide(lever, root) for lever in fresh} | settled
    levers = rank(judged.values())
    wall = None if any(one.status == "open" for one in levers) else _wall(finding, bool(levers))
    return Frontier(levers, passed, wall)


def changed_words(config: Config, default: Config) -> list[str]:
    """Return the words after `--config` that turn the default configuration into this one, without the keys `NOT_CARRIED`."""
    ours, theirs = (one.model_dump(mode="json", exclude=NOT_CARRIED) for one in (config, default))
    return [f"{key}={_flow(value)}" for key, value in _changes(ours, theirs).items()]


def _name(lever: Lever) -> str:
    return lever.id.rpartition("-")[0]


def space_yaml(space: Space, lever: Lever) -> str:
    """Return a space file whose heading names its origin."""
    heading = f"# {lever.title}. Lever {lever.id}, proposed by search {lever.origin.search}; see {layout.HANDOFF}.\n\n"
    return f"{heading}{yaml.safe_dump(space.model_dump(mode='json'), sort_keys=False, default_flow_style=None, width=120)}"


def _lever(finding: Finding, proposal: Proposal, experiment: Experiment, default: Config, pace: Pace | None) -> Lever:
    identity = f"{proposal.name}-{experiment.search.id}"
    work, said = _work(finding, experiment)
    words = [f"space={layout.lever_space(identity)}", *changed_words(finding.experiment.config, default)]
    return Lever(
        id=identity,
        title=proposal.title,
        why=proposal.why,
        expected=proposal.expected,
        at_most=proposal.at_most,
        how=proposal.how,
        needs=proposal.needs,
        device_hours=pace.device_hours(work) if pace else None,
        samples=work.samples,
        work=said,
        search=experiment.search.id,
        command=command(words),
        origin=Origin(
            target=finding.recipe["target"],
            search=finding.experiment.search.id,
            arm=finding.champion["arm"],
            acceptance_length=finding.length,
            measured_as=finding.measured_as,
            acceptance_lengths=finding.verdict["champion"]["acceptance_lengths"],
            confidence=finding.verdict["confidence"],
            asked=bench_of(finding.experiment.asked),
        ),
    )


def _work(finding: Finding, experiment: Experiment) -> tuple[Work, str]:
    """Return an upper bound of the work of a lever's search. If only k differs, every arm of the search is already trained."""
    search, origin, seeds = experiment.search, finding.experiment.search, experiment.config.verdict.seeds
    work = upper_bound(search, seeds, experiment.config.serving.engines)
    servings = work.serving_jobs + work.contest_jobs
    only_k_differs = (
        search.space.model_copy(update={"objective": origin.space.objective}) == origin.space and search.recipe == origin.recipe
    )
    reads = PROXIES[search.space.proxy].reads
    if only_k_differs and reads(search.space.objective.draft_tokens) == reads(origin.space.objective.draft_tokens):
        work = replace(work, training_jobs=2 * seeds, samples=2 * seeds * search.space.rungs.samples[-1], retrained=0)
        said = f"{servings} servings, and {work.training_jobs} trainings for the verdict if another arm wins"
        return work, f"{said}; the arms of the search are already trained"
    return work, f"{work.samples:,} samples in {work.training_jobs} training jobs, {servings} servings"


def _experiment(config: Config, space: Space) -> Experiment:
    """Return the experiment of a configuration with another space. Raises UserError when it cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(yaml.safe_dump(space.model_dump(mode="json")))
        try:
            return load_experiment(config.model_dump(mode="json", exclude=NOT_CARRIED) | {"space": str(path)})
        except UserError as error:
            raise UserError(str(error).replace(f"{path}: ", "")) from None


def _wall(finding: Finding, tried: bool) -> str:
    k, length = finding.draft_tokens, f"{finding.length:.3f} ({finding.measured_as})"
    if finding.length >= NEAR_CEILING * (k + 1):
        return f"Acceptance length {length} is within 2 % of its ceiling k + 1 = {k + 1}. Nothing is left to gain at k = {k}."
    decided = "every proposed lever is decided, and " if tried else ""
    return f"At {length} {decided}there is no evidence for another lever (see below). Other targets, data or losses are out of scope."


def _changes(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in ours.items():
        if value != theirs[key]:
            nested = isinstance(value, dict) and isinstance(theirs[key], dict)
            changes[key] = _changes(value, theirs[key]) if nested else value
    return changes


def _flow(value: Any) -> str:
    """Return a value as the command line takes it, a section in braces."""
    if isinstance(value, dict):
        return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)).strip()
    return "null" if value is None else str(value)
