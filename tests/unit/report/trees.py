"""Results trees of searches at chosen stages, filled by a function in place of training and vLLM."""

from pathlib import Path
from typing import Any, Literal, get_args

from lib.arm import Arm, reachable
from lib.config import VerdictOptions
from lib.files import write_json
from lib.records import layout
from lib.records.measurement import write_record
from lib.report.tables import write_ledger
from lib.search.promotion import Score
from lib.search.replay import replay
from lib.search.search import Search
from lib.verdict.champion import choose_champion
from lib.verdict.contest import Measurements, make_contest
from lib.verdict.verdict import give_verdict

from tests.unit.made_records import ASKED, failed, proxy, serving
from tests.unit.search.searches import measured

Stage = Literal["planned", "begun", "chosen", "judged"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FILES: dict[str, Any] = {
    **{name: f"results/search/{name}.json" for name in ("champion", "verdict", "publication")},
    **{"servings": "results/search/finalists/servings-1-{engine}", "engines": 1},
}
SEEDS = 2


def make_tree(root: Path, search: Search, stage: Stage = "judged", **lengths: float | None) -> None:
    """File a search under `root`/results/ up to a stage, `begun` within its first bracket.

    `lengths` are those of the verdict's sides, None for one whose trainings diverge.
    """
    files = FILES | {"id": "v1", "measurements": "results/search/finalists/contest-1.json", "handoff": "results/search/handoff.md"}
    plan = {"search": search.describe(), "id": search.id, "fresh_seeds": SEEDS, "files": files, "pace": None, "budget": {"samples": None}}
    write_json(root / "results/plan.json", plan | {"upper_bound": {"samples": 10**6, "device_hours": None}})
    reached = STAGES.index(stage)
    if reached >= STAGES.index("begun"):
        _search(root, search, whole=reached > STAGES.index("begun"))
    if reached >= STAGES.index("chosen"):
        champion = _choose(root, search)
        if reached >= STAGES.index("judged"):
            _judge(root, search, champion, {"champion": 2.5, "standing": 2.0} | lengths)
    write_ledger(root)


def train(root: Path, search: Search, arm: Arm, score: Score) -> None:
    """File what an arm stands for and its record at a rung."""
    caps = search.space.rungs.samples
    samples = [reachable(cap, arm.point.global_batch) for cap in caps]
    record = proxy(arm, score.status, (score.value or 0.0, 0.5, 0.4))
    changes: dict[str, Any] = {
        "rung": score.rung,
        "cap_samples": caps[score.rung],
        "samples": samples[score.rung],
        "resumed_from_samples": samples[score.rung - 1] if score.rung else 0,
    }
    write_record(root / f"results/{arm.id}/rung{score.rung}.acc", record.model_copy(update=changes))


def _search(root: Path, search: Search, *, whole: bool) -> None:
    trained: dict[tuple[str, int], Arm] = {}

    def trainer(arm: Arm, rung: int) -> Score:
        trained[arm.id, rung] = arm
        return measured(arm, rung)

    done = replay(search, trainer)
    for place in list(done.decisions)[: None if whole else 2]:
        write_json(root / layout.decision(*place), done.decisions[place])
        for name in done.decisions[place]["arms"] if place[0] != search.finalists_folder else ():
            train(root, search, trained[name, place[1]], done.scores[name, place[1]])
    train(root, search, search.standing, measured(search.standing, search.top_rung))


def _choose(root: Path, search: Search) -> Arm:
    finalists = list(replay(search, measured).finalists)
    servings = [serving(arm.id, 2.0 + measured(arm, search.top_rung).value) for arm in (*finalists, search.standing)]
    for one in servings:
        write_record(root / one.file, one)
    champion = choose_champion(servings, finalists, search.standing.id, search.id, ASKED)
    write_record(root / FILES["champion"], champion)
    return champion.as_arm()


def _judge(root: Path, search: Search, champion: Arm, lengths: dict[str, float | None]) -> None:
    contest = make_contest(champion, search.standing, SEEDS, search.id)
    order = list(contest.order())
    for _, arm in order:
        train(root, search, arm, measured(arm, search.top_rung))
    servings = [
        failed(arm.id) if (length := lengths[side]) is None else serving(arm.id, length + 0.01 * place)
        for place, (side, arm) in enumerate(order)
    ]
    sides = [side for side, _ in order]
    measurements = Measurements(champion=champion.id, standing=search.standing.id, order=sides, servings=servings)
    write_record(root / "results/search/finalists/contest-1.json", measurements)
    proxies = [proxy(arm.id, "ok" if lengths[side] else "diverged") for side, arm in order]
    verdict = give_verdict(contest, measurements, proxies, VerdictOptions(seeds=SEEDS), search=search.id)
    write_record(root / FILES["verdict"], verdict)
    handoff = root / "results/search/handoff.md"
    handoff.write_text(
        "# Hand-off\n\n| | lever |\n|---|---|\n| 1 | Widen `lr` |\n\n```bash\nsnakemake --dry-run\n```\n\n<script>no</script>\n"
    )
