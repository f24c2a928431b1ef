"""Empty sections of the page, which its scripts fill: controls, tables, panels and matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from repalign.reporting.interactive.numbers import MOST_ROWS
from repalign.reporting.shell import text_html


def _options(names: Sequence[str], *, every: str = "") -> str:
    first = f'<option value="">{escape(every)}</option>' if every else ""
    return first + "".join(
        f'<option value="{escape(name)}">{escape(name)}</option>' for name in names
    )


def _select(label: str, name: str, options: str) -> str:
    return f'<label>{escape(label)} <select name="{name}">{options}</select></label>\n'


def filters_html(numbers: Mapping[str, Any]) -> str:
    """The form that says what the leaderboard, the charts and the table show."""
    targets, metrics = numbers["targets"], [one["label"] for one in numbers["metrics"]]
    datasets = list(dict.fromkeys(one["dataset"] for one in targets))
    regions = list(dict.fromkeys(one["region"] for one in targets))
    chosen = _options(metrics[:1]).replace("<option", "<option selected", 1)
    return (
        '<form id="filters" class="filters main" role="search" aria-label="What is shown">\n'
        '<label>Model <input type="search" name="text" placeholder="part of a name"'
        ' autocomplete="off"></label>\n'
        + _select("Dataset", "dataset", _options(datasets, every="all"))
        + _select("Region", "region", _options(regions, every="all"))
        + _select("Metric", "metric", '<option value="">all</option>' + chosen
                  + _options(metrics[1:]))
        + '<button type="reset" class="plain">Reset</button>\n'
        '<p id="count" role="status" aria-live="polite"></p>\n</form>\n'
    )  # fmt: skip


def _table(name: str, kind: str, caption: str) -> str:
    """An empty table in a frame that scrolls, which a script fills."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">\n'
        f'<table class="{kind}" id="{kind.split()[0]}">\n'
        f"<caption><span>{escape(caption)}</span></caption>\n"
        "<thead></thead>\n<tbody></tbody>\n</table>\n</div>\n"
    )


def leaderboard_html(numbers: Mapping[str, Any]) -> str:
    """One row a model; a script fills it."""
    caption = (
        "One row a model. Where a model has several layers, the score is that of its best layer,"
        " chosen by the very values shown, and therefore optimistic."
    )
    several = any(one["subjects"] for one in numbers["profiles"])
    if any(one["crossed"] is not None for one in numbers["profiles"]):
        caption += (
            " “At the layer of other subjects” is not: each subject is scored at the layer that is"
            " best for the others."
        )
    caption += f" Line: {numbers['interval']}{', or range of subjects' if several else ''}."
    if any(one["ceiling"] for one in numbers["profiles"]):
        caption += (
            " Grey: noise ceiling. The percentage is of its upper end, given where zero means"
            " unrelated and the ceiling is clearly above it."
        )
    return (
        _no_script()
        + _table("Scores", "board live", caption)
        + '<p id="board-note" class="hint"></p>\n'
    )


def _no_script() -> str:
    return (
        "<noscript><p>This page draws its tables and charts by scripts that it carries itself;"
        " where scripts are off, results.csv beside it has every number.</p></noscript>\n"
    )


def _panels(name: str, kind: str = "") -> str:
    return f'<div id="{name}" class="panels {kind}"></div>\n<p id="{name}-note" class="hint"></p>\n'


def _as_table(name: str) -> str:
    return f'<details id="{name}-table"><summary>These values as a table</summary></details>\n'


def _hint(text: str) -> str:
    return f'<p class="hint">{escape(text)}</p>\n'


CHIPS = '<ul class="chips" aria-label="Models; press one to highlight it"></ul>\n'


def profiles_html() -> str:
    """Charts of score against layer, under buttons that highlight a model."""
    words = (
        "Score of each layer, from input to output. Dotted lines around grey: noise ceiling. Bars:"
        " intervals of a single subject or group. Lines across: models of one layer. Press a model"
        " to highlight it, point at a value to read it."
    )
    return _hint(words) + CHIPS + _panels("profiles") + _as_table("profiles")


def maps_html() -> str:
    """Heat maps of layers and targets, one a model."""
    ramp = '<p id="maps-ramp" class="ramp"></p>\n'
    words = "One map a model: layers down, targets across. The table of profiles has its values."
    return _hint(words) + ramp + _panels("maps")


def models_html() -> str:
    """Heat maps of models and targets, one a metric."""
    ramp = '<p id="models-ramp" class="ramp"></p>\n'
    words = "The best layer of each model, for every target."
    return _hint(words) + ramp + _panels("models", "wide") + _as_table("models")


def subjects_html() -> str:
    """Charts of the spread over subjects."""
    words = (
        "One circle a subject, at the layer that is best for their mean; the short line is the"
        " mean. Grey: noise ceiling."
    )
    return _hint(words) + CHIPS + _panels("subjects", "wide") + _as_table("subjects")


def viewer_html(rdms: Sequence[Mapping[str, Any]], no_rdms: Sequence[str]) -> str:
    """Two RDMs side by side, and what of them the page does not hold."""
    lacking = text_html("\n".join(f"- {one}" for one in no_rdms))
    if not rdms:
        return f"<p>No RDM is shown.</p>\n{lacking}"
    names = "".join(
        f'<option value="{place}">{escape(str(one["name"]))}</option>'
        for place, one in enumerate(rdms)
    )
    words = (
        "Correlation distances between the patterns of stimuli, as ranks: dark is the most similar"
        " pair, bright the least. Point at a pair, or move with the arrow keys, to see its stimuli."
    )
    controls = _select("Recording", "recording", names) + "".join(
        _select(label, name, "")
        for label, name in (
            ("Target", "target"), ("Model", "model"), ("Layer", "layer"), ("Order", "labels"),
        )
    )  # fmt: skip
    matrices = "".join(
        f'<figure><figcaption><h3 id="rdm-{side}-name"></h3></figcaption>\n'
        f'<canvas id="rdm-{side}" tabindex="0" role="application"'
        ' aria-roledescription="dissimilarity matrix" aria-describedby="rdm-pair"></canvas>'
        "</figure>\n"
        for side in ("brain", "layer")
    )
    thumbnails = "".join(
        f'<canvas id="rdm-{which}" width="144" height="144" aria-hidden="true"></canvas>\n'
        for which in ("first", "second")
    )
    bounded = f"<details><summary>What is not shown here</summary>{lacking}</details>\n"
    return (
        f'{_hint(words)}<form id="viewer" class="filters" aria-label="Which matrices">\n{controls}'
        f'</form>\n<div class="matrices">\n{matrices}</div>\n'
        f'<div class="pair">\n{thumbnails}<p id="rdm-pair" role="status" aria-live="polite"></p>\n'
        '</div>\n<ul class="groups" id="rdm-groups" aria-label="Groups of stimuli"></ul>\n'
        '<p id="rdm-words" class="hint"></p>\n'
        f"{_as_table('rdm')}{bounded if lacking else ''}"
    )


def all_html(total: int) -> str:
    """The table of every comparison, drawn as far as it is asked for."""
    caption = "Every layer, target and metric, as filtered above, in the order computed."
    if total > MOST_ROWS:
        caption += f" This page holds the first {MOST_ROWS:,} of {total:,}; results.csv has all."
    return (
        _table("Rows", "all live", caption)
        + '<div class="more"><p id="all-count" role="status" aria-live="polite"></p>'
        '<button type="button" class="plain" id="all-more">Show all</button></div>\n'
    )
