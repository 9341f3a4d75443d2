"""A search as far as it has come, read from the results tree alone: what the report tells."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lib.arm import reachable
from lib.errors import UserError
from lib.hyperparameters import HYPERPARAMETERS
from lib.records import layout
from lib.records.measurement import ProxyRecord, ServingRecord, read_record
from lib.report.plan import known_calibration, planned_search, read_plan
from lib.report.tables import ledger
from lib.search.decisions import Decision, Decisions, Place
from lib.search.search import Search
from lib.verdict.champion import Champion
from lib.verdict.contest import Contest, make_contest
from lib.verdict.verdict import Verdict

FATES = ("champion", "finalist", "standing", "dropped", "undecided")
"""What has become of an arm of the search so far; `undecided` ones have not lost yet."""

COLUMNS = (
    "arm",
    "kind",
    "taken_for",
    "seed",
    *(one.column for one in HYPERPARAMETERS.values()),
    "recipe",
    "chain_of_all_positions",
    *ProxyRecord.model_fields,
    *ServingRecord.model_fields,
)


@dataclass(frozen=True)
class Story:
    """What lies in the results tree of a search. `champion`, `verdict`, `calibration` and `handoff` are None until there is one."""

    plan: dict[str, Any]
    search: Search
    table: pd.DataFrame
    taken: dict[Place, Decision]
    champion: Champion | None
    verdict: Verdict | None
    calibration: dict[str, Any] | None
    handoff: str | None

    @cached_property
    def fates(self) -> dict[str, str]:
        """What has become of every arm of this search, the standing configuration among them."""
        fates: dict[str, str] = {}
        for (folder, _), decision in self.taken.items():
            fates |= dict.fromkeys(decision["arms"], "finalist" if folder == self.search.finalists_folder else "undecided")
            fates |= dict.fromkeys(decision.get("dropped", {}), "dropped")
        if self.champion:
            fates[self.champion.arm] = "champion"
        return fates | {self.search.standing.id: "standing"}

    @cached_property
    def contest(self) -> Contest | None:
        """The fresh trainings of the verdict, once there is a champion."""
        if self.champion is None:
            return None
        return make_contest(self.champion.as_arm(), self.search.standing, self.plan["fresh_seeds"], self.search.id)

    @cached_property
    def proxies(self) -> pd.DataFrame:
        """The training records of the search's own arms, each with its fate; the verdict's trainings are not among them."""
        return self._of_the_search("proxy")

    @cached_property
    def selected(self) -> pd.DataFrame:
        """What vLLM measured of finalists and standing configuration, to choose among them, each with its fate."""
        return self._of_the_search("serving").query("taken_for == 'selection'")

    @cached_property
    def retrained(self) -> pd.DataFrame:
        """The training records of the verdict's arms."""
        return self.table[(self.table["kind"] == "proxy") & self.table["arm"].isin(self.contest.arms if self.contest else ())]

    @cached_property
    def contested(self) -> pd.DataFrame:
        """What vLLM measured for the verdict."""
        contest = Path(self.plan["files"]["measurements"]).stem
        return self.table[self.table["taken_for"].astype(str).str.startswith(f"{contest}, ")]

    @property
    def last(self) -> pd.DataFrame:
        """The record of every arm of the search at the highest rung it has reached."""
        return self.proxies.sort_values("rung").groupby("arm", as_index=False).last()

    def in_full(self) -> int:
        """Return the samples of training every arm of the search in full; one that failed or is undecided counts as far as it has come."""
        last = self.last[self.last["fate"] != "standing"]
        counted = (last["status"] == "ok") & (last["fate"] != "undecided")
        top = self.search.space.rungs.samples[-1]
        in_full = sum(reachable(top, int(batch)) for batch in last[counted]["global_batch"])
        return in_full + int(last[~counted]["samples"].sum())

    def _of_the_search(self, kind: str) -> pd.DataFrame:
        rows = self.table[(self.table["kind"] == kind) & self.table["arm"].isin(self.fates)]
        return rows.assign(fate=rows["arm"].map(self.fates))


def read_story(root: Path) -> Story:
    """Return what lies under `root`/results/ of the search whose plan is there.

    Raises:
        UserError: no run has been started there, or a record is not whole.
    """
    plan = read_plan(root)
    search = planned_search(plan)
    try:
        files = plan["files"]
        champion, verdict, handoff = (root / files[name] for name in ("champion", "verdict", "handoff"))
    except (KeyError, TypeError):
        raise UserError(f"{layout.PLAN} is of another version; delete it, the next run writes it again") from None
    table = ledger(root)
    return Story(
        plan=plan,
        search=search,
        table=table.reindex(columns=list(dict.fromkeys([*COLUMNS, *table.columns]))),
        taken=Decisions(search, root).taken(),
        champion=read_record(champion, Champion) if champion.exists() else None,
        verdict=read_record(verdict, Verdict) if verdict.exists() else None,
        calibration=known_calibration(search, root),
        handoff=handoff.read_text() if handoff.exists() else None,
    )
