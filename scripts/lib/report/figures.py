"""Figures of the results tree."""

import altair as alt
import pandas as pd

from lib.config import FIRST_FRESH_SEED

INK, PALE, STANDING = "#0b6fa4", "#b5b5b5", "#d55e00"  # apart for colour-blind eyes and in grey


def search_figure(table: pd.DataFrame, standing: str) -> alt.HConcatChart:
    """Return a figure of the held-out accuracy of every arm along its rungs, and of the acceptance lengths measured in vLLM.

    `table` is the ledger of one search, `standing` the arm id of the standing configuration. The verdict's trainings are excluded.
    """
    table = table[table["seed"] < FIRST_FRESH_SEED]
    served = table[table["kind"] == "serving"].set_index("arm")["acceptance_length"]
    fate = {arm: "standing" if arm == standing else "finalist" if arm in served.index else "dropped" for arm in table["arm"].unique()}
    curves = table[table["kind"] == "proxy"][["arm", "samples", "acc0"]].dropna()
    curves = curves.assign(fate=curves["arm"].map(fate))
    measured = served.dropna().rename("acceptance_length").reset_index()
    measured = measured.assign(fate=measured["arm"].map(fate))

    colour = alt.Color(
        "fate:N",
        scale=alt.Scale(domain=["finalist", "standing", "dropped"], range=[INK, STANDING, PALE]),
        legend=alt.Legend(title=None, orient="top"),
    )
    lines = (
        alt.Chart(curves, title="proxy: held-out accuracy of the first drafted token (DRAFT)", width=360, height=240)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "samples:Q",
                title="samples trained on",
                scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=sorted(curves["samples"].unique().tolist())),
            ),
            y=alt.Y("acc0:Q", title="acc0", scale=alt.Scale(zero=False)),
            detail="arm:N",
            color=colour,
        )
    )
    bars = alt.Chart(measured, title="acceptance length measured in vLLM (DRAFT)", width=300, height=240).encode(
        y=alt.Y(
            "arm:N",
            title=None,
            sort=measured.sort_values("acceptance_length", ascending=False)["arm"].tolist(),
            axis=alt.Axis(labelLimit=220),
        ),
        x=alt.X("acceptance_length:Q", title="acceptance length (tokens per step)"),
    )
    labels = bars.mark_text(align="left", dx=4).encode(text=alt.Text("acceptance_length:Q", format=".3f"))
    return alt.hconcat(lines, bars.mark_bar(height=16).encode(color=colour) + labels)
