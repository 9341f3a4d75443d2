"""The frontier: what to try next, ranked by what it may gain for what it costs, and what became of what was tried."""

import shlex
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lib.config import Config, Space
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment
from lib.files import read_whole_json
from lib.search.work import Pace, Work, upper_bound
from lib.verdict.context import Record
from lib.verdict.finding import Finding, Found, Proposal
from lib.verdict.levers import accumulation, draft_tokens, edge, method, proxy, training_length, warmup

FINDERS: dict[str, Callable[[Finding], Found]] = {
    "edges": edge.find,
    "training length": training_length.find,
    "drafted tokens": draft_tokens.find,
    "proxy": proxy.find,
    "method": method.find,
    "warmup": warmup.find,
    "accumulation": accumulation.find,
}
"""What is looked for, by the name under which it is passed over."""

NEAR_CEILING = 0.98
"""Share of k + 1 from which acceptance length counts as at its ceiling."""

NOT_CARRIED = {"space", "budget", "ack_publish"}
"""Keys of a configuration that a lever's command does not repeat: its space is its own, the others were another search's."""


class Origin(Record):
    """What a lever starts from: the champion of the search that proposed it."""

    target: str
    search: str
    arm: str
    acceptance_length: float
    measured_as: str
    draft_tokens: int


class Lever(Record):
    """`lever.json`: a lever as it was proposed. Gains are in acceptance length (tokens a step) and DRAFT, hours are at most."""

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
        """Expected gain per device-hour; None where either is not known."""
        return self.expected / self.device_hours if self.expected is not None and self.device_hours else None


@dataclass(frozen=True)
class Judged:
    """A lever and what became of it."""

    lever: Lever
    status: Literal["open", "proven", "refuted"]
    outcome: str


@dataclass(frozen=True)
class Frontier:
    """All levers, the open ones ranked first; why the others are none; the wall where none is open."""

    levers: list[Judged]
    passed: list[str]
    wall: str | None

    def of(self, status: str) -> list[Judged]:
        """Return the levers of one status, in order."""
        return [one for one in self.levers if one.status == status]


def propose(finding: Finding, default: Config, pace: Pace | None) -> tuple[list[tuple[Lever, Space]], list[str]]:
    """Return the levers that the finding suggests with the spaces they search, and why the others are none.

    Args:
        finding: a search with its ledger, champion and verdict.
        default: the configuration that a run without options has.
        pace: of the head at hand, None when no second is known. Levers that change the head are costed at it, too.
    """
    levers, passed = [], []
    for topic, find in FINDERS.items():
        found = find(finding)
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
    """Return levers by status and then by value: gain an hour, gains of unknown cost, unknown gains (cheapest first), none at all."""

    def key(one: Judged) -> tuple[Any, ...]:
        lever = one.lever
        kind = 1 if lever.expected is None else 0 if lever.expected > 0 else 2
        return ("open", "proven", "refuted").index(one.status), kind, -(lever.value or 0), -(lever.expected or 0), lever.samples, lever.id

    return sorted(levers, key=key)


def judge(lever: Lever, results: Path) -> Judged:
    """Return what became of a lever: open until its own search has a verdict, or a champion, under `results`/search/."""
    folder = results / f"search/finalists-{lever.search}"
    verdict, champion = (_newest(folder.glob(f"{name}-*.json")) for name in ("verdict", "champion"))
    side = verdict["champion"] if verdict else {}
    if side.get("mean") is not None:
        length, measured_as = float(side["mean"]), f"n = {side['n']} fresh seeds"
    elif champion:
        length, measured_as = float(champion["acceptance_length"]), "selection, one seed"
    else:
        return Judged(lever, "open", "")
    origin = lever.origin
    gain = length - origin.acceptance_length
    proven = gain >= lever.needs
    bar = f"{'at least' if proven else 'short of'} the {lever.needs:+g} asked for"
    other = (champion or {}).get("asked", {}).get("draft_tokens", origin.draft_tokens)
    compared = "" if other == origin.draft_tokens else f"; lengths at k = {other} and k = {origin.draft_tokens} are compared"
    return Judged(
        lever,
        "proven" if proven else "refuted",
        f"its champion's acceptance length is {length:.3f} ({measured_as}) against {origin.acceptance_length:.3f} "
        f"({origin.measured_as}): {gain:+.3f}, {bar}{compared}.",
    )


def overtaken(judged: Judged, finding: Finding) -> Judged:
    """Return an open lever as refuted when the champion at hand, measured at the same k, has reached what the lever promised at most."""
    lever, origin = judged.lever, judged.lever.origin
    promised = origin.acceptance_length + (lever.at_most if lever.expected is None else lever.expected)
    if judged.status != "open" or origin.draft_tokens != finding.draft_tokens or promised >= finding.length + finding.smallest_effect:
        return judged
    said = f"overtaken: it promised {promised:.3f} from {origin.acceptance_length:.3f} ({origin.measured_as}, DRAFT)"
    return Judged(lever, "refuted", f"{said}, and the champion of search {finding.experiment.search.id} has {finding.length:.3f}.")


def frontier(finding: Finding, fresh: list[Lever], kept: list[Lever], passed: list[str], results: Path) -> Frontier:
    """Return fresh levers and those kept from earlier runs for the same target, judged and ranked.

    One that is decided stays as it was proposed. An open one that promised less than the champion at hand has is refuted by that.
    """
    ours = [judge(lever, results) for lever in kept if lever.origin.target == finding.recipe["target"]]
    decided = {one.lever.id: one for one in ours if one.status != "open"}
    judged = {one.lever.id: overtaken(one, finding) for one in ours} | {lever.id: judge(lever, results) for lever in fresh} | decided
    levers = rank(judged.values())
    wall = None if any(one.status == "open" for one in levers) else _wall(finding, bool(levers))
    return Frontier(levers, passed, wall)


def changed_words(config: Config, default: Config) -> list[str]:
    """Return the words after `--config` that make the default configuration this one, but for the keys `NOT_CARRIED`."""
    ours, theirs = (one.model_dump(mode="json", exclude=NOT_CARRIED) for one in (config, default))
    return [f"{key}={_flow(value)}" for key, value in _changes(ours, theirs).items()]


def space_yaml(space: Space, lever: Lever) -> str:
    """Return a space file that says where it comes from."""
    heading = f"# {lever.title}. Lever {lever.id}, proposed by search {lever.origin.search}; see results/HANDOFF.md.\n\n"
    return f"{heading}{yaml.safe_dump(space.model_dump(mode='json'), sort_keys=False, default_flow_style=None, width=120)}"


def space_file(lever: str) -> str:
    """Return where the space of a lever lies."""
    return f"results/levers/{lever}/space.yaml"


def _lever(finding: Finding, proposal: Proposal, experiment: Experiment, default: Config, pace: Pace | None) -> Lever:
    identity = f"{proposal.name}-{experiment.search.id}"
    work, said = _work(finding, experiment)
    words = [f"space={space_file(identity)}", *changed_words(finding.experiment.config, default)]
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
        command=shlex.join([".venv/bin/snakemake", "--config", *words]),
        origin=Origin(
            target=finding.recipe["target"],
            search=finding.experiment.search.id,
            arm=finding.champion["arm"],
            acceptance_length=finding.length,
            measured_as=finding.measured_as,
            draft_tokens=finding.draft_tokens,
        ),
    )


def _work(finding: Finding, experiment: Experiment) -> tuple[Work, str]:
    """Return the most that a lever's search uses. Where only k differs every arm of the search is trained already."""
    search, origin, seeds = experiment.search, finding.experiment.search, experiment.config.verdict.seeds
    work = upper_bound(search, seeds)
    only_k_differs = (
        search.space.model_copy(update={"objective": origin.space.objective}) == origin.space and search.recipe == origin.recipe
    )
    if only_k_differs and search.space.proxy == "acc0":
        work = replace(work, training_jobs=2 * seeds, samples=2 * seeds * search.space.rungs.samples[-1], retrained=0)
        said = f"{work.serving_jobs} servings, and {work.training_jobs} trainings of the verdict should another arm win"
        return work, f"{said}; the arms of the search are trained already"
    return work, f"{work.samples:,} samples in {work.training_jobs} training jobs, {work.serving_jobs} servings"


def _experiment(config: Config, space: Space) -> Experiment:
    """Return the experiment of a configuration with another space. Raises UserError when it cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(yaml.safe_dump(space.model_dump(mode="json")))
        try:
            return load_experiment(config.model_dump(mode="json", exclude=NOT_CARRIED) | {"space": str(path)})
        except UserError as error:
            raise UserError(str(error).replace(f"{path}: ", "")) from None


def _newest(paths: Iterable[Path]) -> dict[str, Any] | None:
    path = max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)
    return None if path is None else dict(read_whole_json(path, "delete it, the next run writes it again"))


def _wall(finding: Finding, tried: bool) -> str:
    k, length = finding.draft_tokens, f"{finding.length:.3f} ({finding.measured_as})"
    if finding.length >= NEAR_CEILING * (k + 1):
        return f"Acceptance length {length} is within 2 % of its ceiling of k + 1 = {k + 1}: at k = {k} there is nothing left to gain."
    decided = "every lever that was proposed is decided, and " if tried else ""
    return f"At {length} {decided}no other has evidence for it, see below. Another target, data or loss is outside this search."


def _changes(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in ours.items():
        if value != theirs[key]:
            nested = isinstance(value, dict) and isinstance(theirs[key], dict)
            changes[key] = _changes(value, theirs[key]) if nested else value
    return changes


def _flow(value: Any) -> str:
    """Write a value as the command line takes it: a section in braces, anything else as it is."""
    if isinstance(value, dict):
        return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)).strip()
    return "null" if value is None else str(value)
