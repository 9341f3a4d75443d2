"""The report's figures, drawn from the story of a search. Shapes and dashes repeat what colours show, for print in grey."""

import json
import textwrap
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from lib.report import words
from lib.report.figures import INK, PALE, STANDING
from lib.report.story import FATES, Story
from lib.search.calibration import configurations
from lib.search.proxy import PROXIES
from lib.verdict.verdict import SubsetEffect, Verdict

Figure = alt.TopLevelMixin

RATES, LENGTHS = ["side", "position", "rate"], ["subset", "side", "length"]
MEASURED = "acceptance length (tokens per step)"
COLOURS = dict(zip(FATES, (INK, "#56b4e9", STANDING, PALE, "#5f5f5f"), strict=True))
SHAPES = dict(zip(FATES, ("diamond", "circle", "square", "cross", "triangle-up"), strict=True))
WIDTHS = dict(zip(FATES, (3, 2, 2, 1, 1), strict=True))
DASHES: dict[str, list[int]] = {fate: [6, 3] if fate == "standing" else [1, 0] for fate in FATES}


def svg(figure: Figure) -> str:
    """Return a figure as SVG with a white background, legible on a page of any colour.

    It leaves room for wider fonts, because the browser chooses the font.
    """
    padding = {"left": 36, "right": 36, "top": 12, "bottom": 12}
    drawn = figure.configure(background="white", padding=padding, font="sans-serif")
    drawn = drawn.configure_axis(labelColor="#222", titleColor="#222", titlePadding=10, labelOverlap="greedy", labelSeparation=10)
    return str(vl_convert.vegalite_to_svg(drawn.to_json()))


def learning_curves(story: Story) -> Figure:
    """Draw held-out accuracy of every arm along its rungs. A dropped arm ends in a cross."""
    curves = story.proxies.dropna(subset=["acc0"])[["arm", "samples", "acc0", "fate"]]
    title = "Learning curves: held-out accuracy of the first drafted token, acc0 (DRAFT)"
    failed = story.proxies[story.proxies["status"] != "ok"]["arm"].nunique()
    note = f" {failed} arm(s) diverged or ran out of memory and have no accuracy there." if failed else ""
    if curves.empty:
        return _nothing(title, words.trained(story) + note)
    ends = curves.sort_values("samples").groupby("arm", as_index=False).last()
    samples = alt.X(
        "samples:Q",
        title="samples trained on",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(values=sorted({*story.search.space.rungs.samples}), format=",d"),
    )
    base = alt.Chart(curves, width=620, height=340).encode(x=samples, y=alt.Y("acc0:Q", title="acc0 (DRAFT)", scale=alt.Scale(zero=False)))
    present = _present(curves)
    dashes = alt.StrokeDash("fate:N", scale=_scale(present, DASHES), legend=None)
    layers = [
        base.transform_filter(alt.FieldEqualPredicate(fate, "fate"))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=WIDTHS[fate])
        .encode(detail="arm:N", color=_colour(present), strokeDash=dashes)
        for fate in reversed(present)
    ]
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(color=_colour(present), shape=_shape(present))
    return alt.layer(*layers, marks.properties(data=ends)).properties(title=_title(title, words.trained(story) + note))


def search_map(story: Story) -> Figure:
    """Draw learning rate by global batch, coloured by the proxy at the highest rung reached. Finalists and standing have rings."""
    title = "Search space covered: acc0 at the highest rung reached (DRAFT)"
    points = story.last[["arm", "lr", "global_batch", "rung", "acc0", "fate", "status"]]
    if points.empty:
        return _nothing(title, words.trained(story))
    points = points.assign(rung=points["rung"].astype(int))
    base = alt.Chart(points, width=560, height=320).encode(
        x=alt.X("lr:Q", title="learning rate", scale=alt.Scale(type="log", nice=False, padding=24), axis=alt.Axis(format="~g")),
        y=alt.Y(
            "global_batch:Q",
            title="global batch",
            scale=alt.Scale(type="log", base=2, nice=False, padding=24),
            axis=alt.Axis(values=sorted(points["global_batch"].unique().tolist()), format="d"),
        ),
    )
    rungs = sorted(points["rung"].unique().tolist())
    sound = base.transform_filter("isValid(datum.acc0)").mark_circle(opacity=1, stroke="#444", strokeWidth=0.5)
    filled = sound.encode(
        color=alt.Color("acc0:Q", title="acc0 (DRAFT)", scale=alt.Scale(scheme="viridis")),
        size=alt.Size(
            "rung:O", title="rung reached", scale=alt.Scale(domain=rungs, range=[60 + 120 * place for place in range(len(rungs))])
        ),
    )
    failed = base.transform_filter("!isValid(datum.acc0)").mark_point(shape="cross", angle=45, size=90, color="black", filled=True)
    ringed = points[points["fate"].isin(["champion", "finalist", "standing"])]
    present = _present(ringed)
    rings = base.properties(data=ringed).mark_point(filled=False, size=700, strokeWidth=2.5, opacity=1)
    rings = rings.encode(stroke=alt.Stroke("fate:N", scale=_scale(present, COLOURS), legend=_legend()), shape=_shape(present))
    broken = int(points["acc0"].isna().sum())
    note = f" Black crosses: {broken} arm(s) that diverged or ran out of memory." if broken else ""
    said = f"{words.trained(story)} Compare colours only within one rung (size).{note}"
    return alt.layer(filled, failed, rings).properties(title=_title(title, said))


def proxies_against_measured(story: Story) -> Figure:
    """Draw both proxies at the top rung against the acceptance length measured in vLLM, one point per configuration."""
    title = "How well the proxies predict acceptance length (DRAFT)"
    calibration = story.calibration
    if calibration is None:
        return _nothing(title, "results/calibration.json is missing or is about other arms; make report writes it again.")
    points = configurations(story.table, calibration["draft_tokens"], calibration["recipe"])
    if points.empty:
        return _nothing(title, "No configuration has been both trained in full and measured in vLLM yet.")
    said = {one["proxy"]: one["evidence"] for one in calibration["proxies"]}
    panels = [
        alt.Chart(points, width=320, height=280, title=_title(f"{proxy} at the top rung", said[proxy], 52))
        .mark_point(filled=True, size=80, color=INK, opacity=0.9)
        .encode(
            x=alt.X(f"{proxy}:Q", title=f"{proxy} (DRAFT)", scale=alt.Scale(zero=False, padding=12)),
            y=alt.Y("acceptance_length:Q", title=MEASURED, scale=alt.Scale(zero=False, padding=12)),
        )
        for proxy in PROXIES
    ]
    n = f" n = {len(points)} configurations, the means of their seeds."
    return alt.hconcat(*panels).properties(title=_title(title, words.served(words.serving_context(story)) + n))


def acceptance(story: Story) -> Figure:
    """Draw champion against standing configuration, as acceptance rate per position and acceptance length per workload subset."""
    verdict, context = story.verdict, words.served(words.serving_context(story))
    rates, lengths = _judged(verdict) if verdict else _selected(story)
    if verdict:
        n = f" n = {verdict.champion.n} and {verdict.standing.n} fresh training seeds, measured in turn on one node."
    else:
        n = " n = 1 training seed per side, measured for selection."
    mark = verdict.rigor if verdict else "DRAFT"
    title = f"Acceptance per position and per subset, champion against standing ({mark})"
    if rates.empty:
        return _nothing(title, context)
    sides = [side for side in ("champion", "standing") if side in set(rates["side"])]
    left = (
        alt.Chart(rates, width=260, height=260, title="drafts accepted up to a position")
        .mark_line(point=alt.OverlayMarkDef(size=90, filled=True))
        .encode(
            x=alt.X("position:O", title="position of the drafted token", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("rate:Q", title=f"share of drafts ({mark})", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=_colour(sides, "side"),
            shape=_shape(sides, "side"),
            strokeDash=alt.StrokeDash("side:N", scale=_scale(sides, DASHES), legend=None),
        )
    )
    bars = alt.Chart(lengths, width=240, title="acceptance length per subset").encode(
        y=alt.Y("subset:N", title=None, axis=alt.Axis(labelLimit=160)),
        yOffset=alt.YOffset("side:N", sort=sides),
        x=alt.X("length:Q", title=f"tokens per step ({mark})"),
    )
    labels = bars.mark_text(align="left", dx=4, color="#222").encode(text=alt.Text("length:Q", format=".3f"))
    panels = [left, bars.mark_bar().encode(color=_colour(sides, "side")) + labels] if len(lengths) else [left]
    if verdict and any(one.interval for one in verdict.subsets.values()):
        panels.append(_effects(verdict))
    return alt.hconcat(*panels).properties(title=_title(title, context + n))


def spending(story: Story) -> Figure:
    """Draw samples and device-hours per stage and rung."""
    title = "Where samples and device-hours went"
    caps = story.search.space.rungs.samples
    own = story.proxies
    stages = {
        **{
            f"search, rung {rung} ({cap:,} samples)": own[(own["rung"] == rung) & (own["fate"] != "standing")]
            for rung, cap in enumerate(caps)
        },
        "standing configuration, trained": own[own["fate"] == "standing"],
        "selection, measured in vLLM": story.selected,
        "verdict, trained with fresh seeds": story.retrained,
        "verdict, measured in vLLM": story.contested,
    }
    spent = pd.DataFrame(
        {
            "stage": name,
            "samples": float((rows["samples"] - rows["resumed_from_samples"]).sum()),
            "device-hours": float(rows["device_seconds"].sum()) / 3600,
            "jobs": len(rows),
        }
        for name, rows in stages.items()
    )
    order = list(stages)
    panels: list[alt.LayerChart] = []
    for quantity, form in (("samples", ",d"), ("device-hours", ".3g")):
        bars = alt.Chart(spent, width=300, height=26 * len(order), title=quantity).encode(
            y=alt.Y("stage:N", sort=order, title=None, axis=alt.Axis(labelLimit=260, labels=not panels, ticks=not panels)),
            x=alt.X(f"{quantity}:Q", title=quantity),
        )
        panels.append(
            bars.mark_bar(color=INK) + bars.mark_text(align="left", dx=4, color="#222").encode(text=alt.Text(f"{quantity}:Q", format=form))
        )
    total = (
        f"In total {spent['samples'].sum():,.0f} samples and {spent['device-hours'].sum():.3g} device-hours, {spent['jobs'].sum()} records."
    )
    return alt.hconcat(*panels).properties(title=_title(title, f"{words.saving(story)} {total} {words.trained(story)}"))


def _judged(verdict: Verdict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return acceptance rates by side and position and acceptance lengths by subset and side, over the verdict's fresh seeds."""
    sides = {"champion": verdict.champion, "standing": verdict.standing}
    rates = [(side, place, rate) for side, one in sides.items() for place, rate in enumerate(one.per_position_acceptance or (), 1)]
    lengths = [(subset, side, getattr(one, side)) for subset, one in _subsets(verdict).items() for side in sides]
    return pd.DataFrame(rates, columns=RATES), pd.DataFrame(lengths, columns=LENGTHS)


def _selected(story: Story) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the same as measured for selection."""
    measured = story.selected[(story.selected["status"] == "ok") & story.selected["fate"].isin(["champion", "standing"])]
    rates = [(row.fate, place, rate) for row in measured.itertuples() for place, rate in enumerate(row.per_position_acceptance, 1)]
    lengths = [(subset, row.fate, length) for row in measured.itertuples() for subset, length in json.loads(row.subsets).items()]
    return pd.DataFrame(rates, columns=RATES), pd.DataFrame(lengths, columns=LENGTHS)


def _subsets(verdict: Verdict) -> dict[str, SubsetEffect]:
    """Return the effect per subset and, with several subsets, the effect over all of them, which the verdict uses."""
    champion, standing, effect = verdict.champion.mean, verdict.standing.mean, verdict.effect
    if len(verdict.subsets) < 2 or champion is None or standing is None or effect is None:
        return verdict.subsets
    overall = SubsetEffect(champion=champion, standing=standing, effect=effect, interval=verdict.interval)
    return verdict.subsets | {"all (the verdict)": overall}


def _effects(verdict: Verdict) -> Figure:
    """Draw the effect per subset with its interval."""
    effects = [
        {"subset": subset, "effect": one.effect, "low": one.interval[0], "high": one.interval[1]}
        for subset, one in _subsets(verdict).items()
        if one.interval
    ]
    base = alt.Chart(pd.DataFrame(effects), width=200, title=f"effect, {verdict.interval_level:.0%} interval").encode(
        y=alt.Y("subset:N", title=None, axis=alt.Axis(labels=False, ticks=False))
    )
    lines = base.mark_rule(strokeWidth=2, color=INK).encode(x=alt.X("low:Q", title="tokens per step, champion minus standing"), x2="high:Q")
    points = base.mark_point(filled=True, size=80, color=INK, opacity=1).encode(x="effect:Q")
    zero = alt.Chart(pd.DataFrame([{"zero": 0}])).mark_rule(color="#222", strokeDash=[3, 3]).encode(x="zero:Q")
    return alt.layer(zero, lines, points)


def _nothing(title: str, why: str) -> Figure:
    """Return a figure that says why there is nothing to draw yet."""
    said: alt.Chart = alt.Chart(pd.DataFrame([{"text": "nothing to draw yet"}]), width=480, height=80).mark_text(size=14, color="#5f5f5f")
    return said.encode(text="text:N").properties(title=_title(title, why))


def _title(text: str, below: str, width: int = 112) -> alt.TitleParams:
    return alt.TitleParams(
        text, subtitle=textwrap.wrap(below, width), anchor="start", color="#222", subtitleColor="#444", subtitlePadding=6
    )


def _present(table: pd.DataFrame) -> list[str]:
    found = set(table["fate"])
    return [fate for fate in FATES if fate in found]


def _scale(domain: list[str], values: dict[str, Any]) -> alt.Scale:
    return alt.Scale(domain=domain, range=[values[name] for name in domain])


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", labelColor="#222")


def _colour(domain: list[str], name: str = "fate") -> alt.Color:
    return alt.Color(f"{name}:N", scale=_scale(domain, COLOURS), legend=_legend())


def _shape(domain: list[str], name: str = "fate") -> alt.Shape:
    return alt.Shape(f"{name}:N", scale=_scale(domain, SHAPES), legend=_legend())
