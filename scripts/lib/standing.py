"""Standing results: files that match this configuration and are therefore not made again."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.experiment import Experiment
from lib.files import read_json
from lib.records import layout
from lib.records.layout import VerdictFiles
from lib.records.measurement import read_record
from lib.verdict.champion import Champion
from lib.verdict.contest import Contest, make_contest

EVIDENCE = re.compile(r"resources/.+|results/gb[^/]+/.+|results/preflight/.+|results/search/[^/]+/(rung|plan-|contest-)[^/]+\.json")
"""Files named by a hash of their inputs. Champions and verdicts also are, but cost nothing to make again."""


@dataclass(frozen=True)
class Standing:
    """Tells `lib.dag.let_stand` whether the file at a path stands.

    `there` tells whether a file or a complete folder exists. `views` maps names that every configuration has to this one's files.
    `server` returns what serves, as in the record of a preflight, empty if it is not known.
    """

    experiment: Experiment
    filed: VerdictFiles
    views: dict[str, str]
    there: Callable[[str], bool]
    root: Path = field(default_factory=Path)
    server: Callable[[], dict[str, Any]] = dict

    def __call__(self, path: str) -> bool | None:
        """Return True if the file stands, False if it belongs to another configuration or head, otherwise None."""
        if not self.there(path):
            return None
        if path in self.views:
            return self._shown(path)
        if path == layout.PACKAGE:
            return self._handed_over()
        if path == self.filed.measurements:
            return self._contested()
        if path.endswith("/serving.json"):
            return self._measured(path)
        if path == layout.preflight(self.experiment.preflight) and not self.there(self.filed.measurements):
            record = self._read(path)
            return all(record.get(key) == value for key, value in self.server().items())
        return True if EVIDENCE.fullmatch(path) else None

    def trained_head(self, arm: str, rung: int) -> str | None:
        """Return the hash of an arm's head after a rung. None when it failed or has not trained that far."""
        return self._read(layout.acc(arm, rung)).get("head_sha256")

    def contest(self) -> Contest:
        """Return the fresh arms of the standing configuration and of the filed champion. Raises UserError without a champion."""
        search = self.experiment.search
        champion = read_record(self.root / self.filed.champion, Champion).as_arm()
        return make_contest(champion, search.standing, self.experiment.config.verdict.seeds, search.id)

    def _read(self, path: str) -> dict[str, Any]:
        try:
            return read_json(self.root / path, "")
        except UserError:  # missing or damaged
            return {}

    def _shown(self, view: str) -> bool:
        filed = self.root / self.views[view]
        return filed.exists() and filed.read_bytes() == (self.root / view).read_bytes()

    def _handed_over(self) -> bool:
        verdict, manifest = self._read(self.filed.verdict), self._read(f"{layout.PACKAGE}/manifest.json")
        try:
            whole = all(self.there(f"{layout.PACKAGE}/{name}") for name in manifest["files"])
            return whole and manifest["verdict"] == verdict["id"]
        except (KeyError, TypeError):
            return False

    def _measured(self, path: str) -> bool:
        record = self._read(path)
        head = self.trained_head(Path(path).parent.name, self.experiment.search.top_rung)
        try:
            return bool((record["asked"], record["head_sha256"]) == (self.experiment.asked, head))
        except (KeyError, TypeError):
            return False

    def _contested(self) -> bool | None:
        top = self.experiment.search.top_rung
        try:
            held = self.contest()
            measured = [(one["arm"], one["head_sha256"]) for one in self._read(self.filed.measurements)["servings"]]
        except UserError:
            return None  # no champion yet
        except (KeyError, TypeError):
            return False
        return measured == [(arm.id, self.trained_head(arm.id, top)) for _, arm in held.order()]
