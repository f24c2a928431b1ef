"""The charts of the page as Vega-Lite, each for one panel; scripts fill in what is chosen.

Colours are variables of the page's style, so that light, dark and print need no second drawing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import altair as alt

    Chart: TypeAlias = alt.LayerChart | alt.FacetChart

POINTS, BAND, LINES = "points", "band", "lines"  # names of data that scripts fill
SCORE = ".3f"
SCHEME: Final = "viridis"  # readable on light and dark, and without colour vision
INK, SOFT, LINE, BAND_COLOUR = "var(--ink)", "var(--soft)", "var(--line)", "var(--band)"


def chart_specs(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The charts by name.

    Args:
        models: each with its name, colour and twin (see `page_numbers`).
    """
    return {
        "profile": _finished(_profile(models)),
        "subjects": _finished(_subjects(models)),
        "map": _finished(_map()),
    }


def _finished(chart: Chart) -> dict[str, Any]:
    """As JSON, with the page's own colours and letters, and no colours of Vega's."""
    import altair as alt

    axis = {
        "domainColor": LINE, "tickColor": LINE, "gridColor": LINE, "gridOpacity": 0.6,
        "labelColor": SOFT, "titleColor": SOFT, "titleFontWeight": "normal", "labelLimit": 200,
        "labelFontSize": 11, "titleFontSize": 11,
    }  # fmt: skip
    sized = chart.properties(
        width="container", autosize=alt.AutoSizeParams(contains="padding")
    ).configure(
        background="transparent",
        font="system-ui, sans-serif",
        padding=4,
        aria=False,
        axis=axis,
        view={"stroke": None},
    )
    spec: dict[str, Any] = sized.to_dict()
    return spec


def _model(models: list[dict[str, Any]]) -> alt.Color:
    import altair as alt

    scale = alt.Scale(
        domain=[one["name"] for one in models],
        range=[f"var(--c{one['colour']})" for one in models],
    )
    return alt.Color("model:N", scale=scale, legend=None)


def _faded(opacity: float) -> Any:
    """Full where its model, or none, is highlighted."""
    import altair as alt

    return alt.condition(
        "chosen === '' || datum.model === chosen", alt.value(opacity), alt.value(0.1)
    )


def _profile(models: list[dict[str, Any]]) -> Chart:
    import altair as alt

    points, band, lines = (alt.NamedData(name) for name in (POINTS, BAND, LINES))
    chosen = alt.param(name="chosen", value="")
    names = alt.param(name="names", value=[])
    x = alt.X(
        "place:Q",
        axis=alt.Axis(title="layer", grid=False, labelAngle=0, labelOverlap=True),
        scale=alt.Scale(zero=False, padding=14),
    )
    y = alt.Y("value:Q", title="score", axis=alt.Axis(tickCount=5))
    colour = _model(models)
    dash = alt.StrokeDash(
        "model:N",
        legend=None,
        scale=alt.Scale(
            domain=[one["name"] for one in models],
            range=[_dash(one["twin"]) for one in models],
        ),
    )
    tooltip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("layer:N"),
        alt.Tooltip("value:Q", title="score", format=SCORE),
        alt.Tooltip("interval:N"),
        alt.Tooltip("ceiling:N"),
    ]
    return (
        alt.layer(
            alt.Chart(band)
            .mark_rect(color=BAND_COLOUR, opacity=1, tooltip=True)
            .encode(
                y=alt.Y("low:Q"), y2="high:Q", tooltip=[alt.Tooltip("said:N", title="ceiling")]
            ),
            alt.Chart(band).mark_rule(color=SOFT, strokeDash=[2, 2]).encode(y="low:Q"),
            alt.Chart(band).mark_rule(color=SOFT, strokeDash=[2, 2]).encode(y="high:Q"),
            alt.Chart(lines)
            .mark_rule(strokeWidth=1.6)
            .encode(y=y, color=colour, strokeDash=dash, opacity=_faded(0.9), tooltip=tooltip),
            alt.Chart(points)
            .mark_rule(strokeWidth=1)
            .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour, opacity=_faded(0.45)),
            alt.Chart(points)
            .mark_line(strokeWidth=2)
            .encode(x=x, y=y, color=colour, strokeDash=dash, opacity=_faded(1)),
            alt.Chart(points)
            .mark_circle(size=44)
            .encode(x=x, y=y, color=colour, opacity=_faded(1), tooltip=tooltip),
        )
        .properties(height=230)
        .add_params(chosen, names)
    )


def _dash(twin: int) -> list[int]:
    """The line of a model, and of its first, second and third twin."""
    return [[1, 0], [5, 3], [2, 2], [8, 3, 2, 3]][twin % 4]


def _subjects(models: list[dict[str, Any]]) -> Chart:
    import altair as alt

    points, band, means = (alt.NamedData(name) for name in (POINTS, BAND, LINES))
    chosen = alt.param(name="chosen", value="")
    x = alt.X("value:Q", title="score at the best layer", axis=alt.Axis(tickCount=5))
    y = alt.Y("model:N", title=None, sort=[one["name"] for one in models])
    colour = _model(models)
    tooltip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("subject:N"),
        alt.Tooltip("layer:N"),
        alt.Tooltip("value:Q", title="score", format=SCORE),
    ]
    return (
        alt.layer(
            alt.Chart(band)
            .mark_rect(color=BAND_COLOUR)
            .encode(
                x=alt.X("low:Q"), x2="high:Q", tooltip=[alt.Tooltip("said:N", title="ceiling")]
            ),
            alt.Chart(means)
            .mark_tick(thickness=2, size=20)
            .encode(x=x, y=y, color=colour, opacity=_faded(1), tooltip=tooltip),
            alt.Chart(points)
            .mark_point(size=48, filled=False, strokeWidth=1.6)
            .encode(x=x, y=y, color=colour, opacity=_faded(0.9), tooltip=tooltip),
        )
        .properties(height=200)
        .add_params(chosen)
    )


def _map() -> Chart:
    import altair as alt

    cells = alt.NamedData(POINTS)
    middle = alt.param(name="middle", value=0.5)
    x = alt.X(
        "column:N", title=None, sort=None,
        axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
    )  # fmt: skip
    y = alt.Y("row:N", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False))
    colour = alt.Color("value:Q", scale=alt.Scale(scheme=SCHEME), legend=None)
    base = alt.Chart(cells).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("layer:N"),
        alt.Tooltip("target:N"),
        alt.Tooltip("metric:N"),
        alt.Tooltip("value:Q", title="score", format=SCORE),
    ]
    number = alt.condition("datum.value > middle", alt.value("#000000"), alt.value("#ffffff"))
    return (
        alt.layer(
            base.mark_rect(stroke="var(--paper)", strokeWidth=1).encode(
                color=colour, tooltip=tooltip
            ),
            base.mark_text(fontSize=11, tooltip=False).encode(
                text=alt.Text("value:Q", format=".2f"), color=number
            ),
        )
        .properties(height=200)
        .add_params(middle)
    )
