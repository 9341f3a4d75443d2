"""The report's pages: standalone HTML without external resources, for light and dark screens and for print."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt

from lib.files import flat
from lib.hyperparameters import HYPERPARAMETERS, IDENTITY
from lib.report import words
from lib.report.status import headline, status
from lib.report.story import Story
from lib.verdict.verdict import Contestant, Verdict

STYLE = Path(__file__).with_name("page.css").read_text()
SORT_AND_FILTER = Path(__file__).with_name("table.js").read_text()

COLUMNS = {
    "fate": "fate",
    "kind": "measured",
    "rung": "rung",
    "samples": "samples",
    "acc0": "acc0 (DRAFT)",
    "chain_of_all_positions": "chain (DRAFT)",
    "acceptance_length": "acceptance length",
    **{HYPERPARAMETERS[name].column: HYPERPARAMETERS[name].label for name in IDENTITY},
    "seed": "seed",
    "status": "status",
    "device_seconds": "device-seconds",
    "rigor": "rigor",
    "taken_for": "taken for",
    "arm": "arm",
    "reason": "reason",
}
"""Columns of the ledger page and their headings."""


def page(title: str, body: str, script: str = "") -> str:
    """Return a whole HTML page."""
    scripts = f"<script>{script}</script>" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n{scripts}</body></html>\n"
    )


def verdict_card(story: Story, root: Path) -> str:
    """Return the first page: the verdict, else the champion as a DRAFT, else the progress of the search.

    Its `<section>` is the short answer, which `rules/captions/workflow.rst` shows first.
    """
    trained = f"<h2>Trained on</h2><p>{escape(words.trained(story))}</p>"
    if story.verdict:
        why = f"<p>Why: {escape(story.verdict.reason)}.</p>" if story.verdict.rigor == "VERDICT" else ""
        sides = _sides(story.verdict.champion, story.verdict.standing)
        return page("Verdict", _answer(_judged(story.verdict), story) + why + sides + trained)
    progress = f"<h2>How the search stands</h2><pre>{escape(status(root))}</pre>"
    stands = f"<p>{escape(headline(root))}</p>"
    if story.champion:
        chosen = f"<h1>No verdict yet: champion so far</h1><p>{escape(story.champion.summary)}</p>"
        return page("Champion (DRAFT)", _answer(_mark("DRAFT") + chosen + stands, story) + _selected(story) + progress + trained)
    none = "<h1>No champion yet</h1><p>The search has not measured its finalists yet.</p>"
    return page("No champion yet (DRAFT)", _answer(_mark("DRAFT") + none + stands, story) + progress + trained)


def ledger_page(story: Story) -> str:
    """Return every record of the results tree as a table that sorts and filters itself."""
    fates = dict(story.fates) | {arm: "verdict" for arm in (story.contest.arms if story.contest else ())}
    rows = story.table.assign(fate=[fates.get(arm, "other search") for arm in story.table["arm"]])
    absent = {one.column for one in HYPERPARAMETERS.values() if rows[one.column].isna().all()}
    columns = {name: said for name, said in COLUMNS.items() if name not in absent}
    rows = rows[list(columns)].astype(object)
    cells = [[_cell(value) for value in row] for row in rows.itertuples(index=False)]
    heads = [f'<button type="button">{name}</button>' for name in columns.values()]
    body = (
        "<h1>Ledger</h1><p>Every record under results/, including other searches. Proxies and selection measurements are DRAFT. All "
        "columns, with the full context of each number, are in results/ledger.csv and results/ledger.parquet.</p>"
        f'<p class="soft">Trained: {escape(words.trained(story))}</p>'
        f'<p class="soft">Measured: {escape(words.served(words.serving_context(story)))}</p>'
        '<p><label>Filter (every word must occur): <input type="search" placeholder="finalist serving"></label> '
        f"<output>{len(cells)} of {len(cells)} records</output></p>"
    )
    return page("Ledger", body + _table(heads, cells), SORT_AND_FILTER)


def provenance_page(story: Story, software: dict[str, str]) -> str:
    """Return the origin of the numbers: `software` that drew the report, versions in the records, seeds, configuration."""
    stacks = {
        name.removeprefix("context."): ", ".join(sorted({_cell(value) for value in story.table[name].dropna()}))
        for name in story.table.columns
        if name.startswith(("context.stack.", "context.hardware.", "context.identity.hardware", "context.identity.device"))
    }
    fresh = sorted({arm.seed for arm in story.contest.arms.values()}) if story.contest else []
    seeds = {
        "search": str(story.search.seed),
        "trainings of the search": ", ".join(str(int(seed)) for seed in sorted(story.proxies["seed"].unique())),
        "trainings of the verdict": ", ".join(map(str, fresh)),
    }
    chosen = story.verdict or story.champion
    asked = chosen.asked if chosen else {}
    sections = {
        "Repository and software that drew this": software,
        "Versions and devices in the records": stacks,
        "Seeds": seeds,
        "Search": flat(story.search.describe()),
        "Serving": flat(asked),
        "Budget": flat(story.plan["budget"]),
        "Files": flat(story.plan["files"]),
    }
    tables = (f"<h2>{title}</h2>" + _pairs(values) for title, values in sections.items() if values)
    return page("Provenance", "<h1>Provenance</h1>" + "".join(tables))


def levers_page(story: Story) -> str:
    """Return the hand-off as a page."""
    if story.handoff is None:
        return page("Next levers", "<h1>Next levers</h1><p>There is no hand-off yet. It is written after the verdict.</p>")
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(story.handoff)
    return page("Next levers", html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>"))


def _answer(said: str, story: Story) -> str:
    context = words.serving_context(story)
    measured = words.served(context) if context is None else f"Measured on: {words.served(context)}"
    return f'<section>{said}<p class="soft">{escape(measured)}</p></section>'


def _mark(said: str, beside: str = "") -> str:
    return f'<p><span class="mark{" draft" * (said == "DRAFT")}">{said}</span> <span class="soft">{escape(beside)}</span></p>'


def _judged(verdict: Verdict) -> str:
    mark = _mark(verdict.rigor, f"{verdict.id} of search {verdict.search}")
    head = f"{mark}<h1>{escape(verdict.outcome.capitalize())}</h1>"
    if verdict.effect is None or verdict.interval is None or verdict.rigor == "DRAFT":
        return f"{head}<p>Not judged: {escape(verdict.reason)}.</p>"
    low, high = verdict.interval
    return (
        f'{head}<p><span class="big">{verdict.effect:+.3f}</span> tokens per step, champion minus standing configuration; '
        f"{verdict.interval_level:.0%} interval <b>{low:+.3f} to {high:+.3f}</b>; smallest effect of interest "
        f"{verdict.smallest_effect:g}; n = {verdict.champion.n} and {verdict.standing.n} fresh training seeds.</p>"
        f"<p>{escape(verdict.summary)}</p>"
    )


def _sides(champion: Contestant, standing: Contestant) -> str:
    sides = {"champion": champion, "standing": standing}
    searched = [HYPERPARAMETERS[name] for name in IDENTITY if any(name in side.point.identity for side in sides.values())]
    heads = ["", "acceptance length", "n", *(one.label for one in searched), "per seed (its repeats)"]
    rows = [
        [
            name,
            "not measured" if side.mean is None else f"{side.mean:.3f}" + ("" if side.std is None else f" ± {side.std:.3f}"),
            str(side.n),
            *(one.text(side.point.identity[one.name]) if one.name in side.point.identity else "" for one in searched),
            "; ".join(", ".join(f"{length:.3f}" for length in seed) for seed in side.acceptance_lengths),
        ]
        for name, side in sides.items()
    ]
    failed = (
        f"<p>Failed: {escape(arm)} of the {name}, {escape(why)}.</p>" for name, side in sides.items() for arm, why in side.failed.items()
    )
    return _table(heads, rows) + "".join(failed)


def _selected(story: Story) -> str:
    lengths = story.selected.sort_values("acceptance_length", ascending=False)
    rows = [
        [
            row.fate,
            row.arm,
            f"{row.acceptance_length:.3f} (DRAFT)" if row.status == "ok" else f"{row.status}: {row.reason}",
            "1 training seed",
        ]
        for row in lengths.itertuples()
    ]
    return _table(["", "arm", "acceptance length", "n"], rows)


def _pairs(values: dict[str, Any]) -> str:
    return _table(["key", "value"], [[name, _cell(value)] for name, value in values.items()])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. Heads may be HTML, cells are text."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Any) -> str:
    """Return a value as text, a missing value as an empty string."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float | int):
        return "" if pd.isna(value) else f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
    return "" if value is None else str(value)
