"""The state of a search as the report shows it, read from the results tree only."""

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
"""States of an arm of the search. An `undecided` arm has not been dropped yet."""

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
    """The results tree of a search. `champion`, `verdict`, `calibration` and `handoff` are None until they exist."""

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
        """The fate of every arm of this search, including the standing configuration."""
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
        """The training records of the search's arms, each with its fate. The verdict's trainings are excluded."""
        return self._of_the_search("proxy")

    @cached_property
    def selected(self) -> pd.DataFrame:
        """The selection's measurements of finalists and standing configuration in vLLM, each with its fate."""
        return self._of_the_search("serving").query("taken_for == 'selection'")

    @cached_property
    def retrained(self) -> pd.DataFrame:
        """The training records of the verdict's arms."""
        return self.table[(self.table["kind"] == "proxy") & self.table["arm"].isin(self.contest.arms if self.contest else ())]

    @cached_property
    def contested(self) -> pd.DataFrame:
        """The verdict's measurements in vLLM."""
        contest = Path(self.plan["files"]["measurements"]).stem
        return self.table[self.table["taken_for"].astype(str).str.startswith(f"{contest}, ")]

    @property
    def last(self) -> pd.DataFrame:
        """The record of every arm of the search at the highest rung it has reached."""
        return self.proxies.sort_values("rung").groupby("arm", as_index=False).last()

    def in_full(self) -> int:
        """Return the samples of training every arm in full. Failed and undecided arms count the samples they have trained."""
        last = self.last[self.last["fate"] != "standing"]
        counted = (last["status"] == "ok") & (last["fate"] != "undecided")
        top = self.search.space.rungs.samples[-1]
        in_full = sum(reachable(top, int(batch)) for batch in last[counted]["global_batch"])
        return in_full + int(last[~counted]["samples"].sum())

    def _of_the_search(self, kind: str) -> pd.DataFrame:
        rows = self.table[(self.table["kind"] == kind) & self.table["arm"].isin(self.fates)]
        return rows.assign(fate=rows["arm"].map(self.fates))


def read_story(root: Path) -> Story:
    """Return the state of the search whose plan is under `root`/results/.

    Raises:
        UserError: no run has been started there, or a record cannot be read.
    """
    plan = read_plan(root)
    search = planned_search(plan)
    try:
        files = plan["files"]
        champion, verdict, handoff = (root / files[name] for name in ("champion", "verdict", "handoff"))
    except (KeyError, TypeError):
        raise UserError(f"{layout.PLAN} was written by another version; delete it, and the next run writes it again") from None
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
