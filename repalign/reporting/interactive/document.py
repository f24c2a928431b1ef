"""The page of a study as one HTML document: its sections, and what its scripts are given."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from repalign.reporting.interactive.charts import chart_specs
from repalign.reporting.interactive.numbers import page_numbers
from repalign.reporting.interactive.sections import (
    all_html,
    filters_html,
    leaderboard_html,
    maps_html,
    models_html,
    profiles_html,
    subjects_html,
    viewer_html,
)
from repalign.reporting.profiles import Profile, Row, computed, gather_profiles
from repalign.reporting.references import Work, bibtex
from repalign.reporting.shell import (
    Section,
    code_html,
    definitions_html,
    number_text,
    page,
    read_part,
    table_html,
    text_html,
)
from repalign.reporting.summary import Naming, choose_names, summary_text
from repalign.results import similarity

SCRIPTS = ("tables.js", "charts.js", "rdms.js")
MOST_SENTENCES = 8  # of the summary
MOST_FAILURES = 200  # in their table


@dataclass(frozen=True)
class PageMaterial:
    """All that the page of a study is made of.

    Args:
        rows: comparisons, those that failed with their ``error``.
        title: of the page.
        provenance: what was run, with what.
        tables: of provenance: caption, columns (field to header) and rows.
        configuration: text of the study's file; empty where there is none.
        notes: what is missing or was left out, in sentences.
        missing: number of cells that are not computed yet.
        works: to cite.
        rdms: what the viewer shows, from `rdm_pictures`.
        no_rdms: what it cannot show, in sentences.
    """

    rows: Sequence[Row]
    title: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[tuple[str, Mapping[str, str], Sequence[Mapping[str, Any]]]] = ()
    configuration: str = ""
    notes: Sequence[str] = ()
    missing: int = 0
    works: Sequence[Work] = ()
    rdms: Sequence[Mapping[str, Any]] = ()
    no_rdms: Sequence[str] = ()


def interactive_page(material: PageMaterial) -> str:
    """The whole HTML document.

    Raises:
        ValueError: no comparison has a value, or rows contradict each other.
    """
    rows = computed(material.rows)
    if not rows:
        errors = "; ".join(dict.fromkeys(str(row["error"]) for row in material.rows))
        raise ValueError(f"every comparison failed, so that there is nothing to show: {errors}")
    every = gather_profiles(rows)
    naming = choose_names(every)
    numbers = page_numbers(rows, every, naming)
    data = {**numbers, "charts": chart_specs(numbers["models"]), "rdms": list(material.rdms)}
    sections = [
        Section("Summary", _facts(material, numbers) + _summary(numbers, every, naming)),
        Section("Leaderboard", filters_html(numbers) + leaderboard_html(numbers)),
        Section("Layer profiles", profiles_html()),
        Section("Layers by region", maps_html()),
        Section("Models by region", models_html()),
        Section("Subjects", subjects_html()),
        Section("Dissimilarities", viewer_html(material.rdms, material.no_rdms)),
        Section("All comparisons", all_html(len(rows))),
        Section("Provenance", _provenance(material)),
        Section("Cite", _cite(material.works)),
    ]
    style = _asset("study.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    return page(
        material.title,
        sections,
        subtitle=_subtitle(material, numbers),
        style=style,
        scripts=(vega_bundle(), script),
        data=data,
    )


def _asset(name: str) -> str:
    return read_part(f"interactive/{name}")


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that carries them."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return (
        "/* Vega, Vega-Lite and Vega-Embed, (c) University of Washington Interactive Data Lab"
        " and other contributors, BSD-3-Clause: https://vega.github.io */\n" + bundle
    )


def _subtitle(material: PageMaterial, numbers: Mapping[str, Any]) -> str:
    datasets = dict.fromkeys(target["dataset"] for target in numbers["targets"])
    version = ", ".join(dict.fromkeys(str(row["version"]) for row in material.rows))
    return f"{', '.join(datasets)} · repalign {version}"


def _facts(material: PageMaterial, numbers: Mapping[str, Any]) -> str:
    """Counts, in large letters."""
    failed = len(material.rows) - numbers["rows"]["total"]
    counts = {
        "models": len(numbers["models"]),
        "targets": len(numbers["targets"]),
        "metrics": len(numbers["metrics"]),
        "comparisons": numbers["rows"]["total"],
        **({"failed": failed} if failed else {}),
        **({"not computed yet": material.missing} if material.missing else {}),
    }
    items = "".join(f"<li><b>{n:,}</b> {_noun(n, name)}</li>" for name, n in counts.items())
    return f'<ul class="facts">{items}</ul>\n'


def _noun(n: int, plural: str) -> str:
    return plural.removesuffix("s") if n == 1 else plural


def _summary(numbers: Mapping[str, Any], every: Sequence[Profile], naming: Naming) -> str:
    """The most similar model for each target by the first metric, and what to bear in mind."""
    first, lines = numbers["metrics"][0], []
    models = [one["name"] for one in numbers["models"]]
    for place, target in enumerate(numbers["targets"]):
        rivals = [
            one
            for one in numbers["profiles"]
            if one["target"] == place and one["metric"] == 0 and one["best"] is not None
        ]
        if not rivals:
            continue
        best = max(rivals, key=lambda one: similarity(one["mean"][one["best"]], one["distance"]))
        ends = best["spread"] or best["intervals"][best["best"]]
        words = f"{models[best['model']]}, {number_text(best['mean'][best['best']])}"
        words += f" at {best['layers'][best['best']]}" if len(best["layers"]) > 1 else ""
        if ends and None not in ends:
            kind = "subjects" if best["spread"] else naming.interval
            words += f" ({kind} {' to '.join(map(number_text, ends))})"
        lines.append(f"- {target['name']}: {words}")
    _, _, notes = summary_text(every, naming).partition("\n\n")
    html = f"<p>Most similar by {escape(first['label'])}:</p>\n" if lines else ""
    html += text_html("\n".join(lines[:MOST_SENTENCES]))
    if rest := lines[MOST_SENTENCES:]:
        more = text_html("\n".join(rest))
        html += f"<details><summary>{len(rest)} more targets</summary>{more}</details>"
    return html + text_html(notes)


def _provenance(material: PageMaterial) -> str:
    html = definitions_html(material.provenance, "What was run") if material.provenance else ""
    for caption, columns, rows in material.tables:
        if rows:
            html += table_html(rows, columns, caption)
    sets = Counter(
        (row["metric"], json.dumps(row["metric_parameters"], sort_keys=True))
        for row in computed(material.rows)
    )
    html += table_html(
        [{"metric": metric, "rows": n, "set": text} for (metric, text), n in sets.items()],
        {"metric": "Metric", "rows": "Rows", "set": "Parameters"},
        "Parameters of the metrics, and the number of rows computed with them",
    )
    failed = [row for row in material.rows if row.get("error")]
    if failed:
        names = ("dataset", "selection", "species", "region", "subject", "model", "layer", "metric")
        columns = {name: name.capitalize() for name in names} | {"error": "Error"}
        cut = f"; the first {MOST_FAILURES} are shown" if len(failed) > MOST_FAILURES else ""
        caption = f"{len(failed):,} comparisons failed{cut}; a run tries them again"
        html += table_html(failed[:MOST_FAILURES], columns, caption)
    html += text_html("\n".join(f"- {note}" for note in material.notes))
    if material.configuration:
        html += f"<h3>Configuration</h3>\n{code_html(material.configuration)}"
    return html


def _cite(works: Sequence[Work]) -> str:
    if not works:
        return "<p>The cards of these datasets and models name nothing to cite.</p>"
    items = "".join(
        f"<li>{escape(' '.join(work.text.split()))}"
        + (f' <a href="{escape(work.link)}">{escape(work.link)}</a>' if work.link else "")
        + (f" <small>({escape(', '.join(work.used_by))})</small>" if work.used_by else "")
        + "</li>"
        for work in works
    )
    text = bibtex(works)
    link = f"data:application/x-bibtex;charset=utf-8,{quote(text)}"
    return (
        f"<ul>{items}</ul>\n"
        f'<p class="no-print"><a class="button" id="bibtex" download="citations.bib"'
        f' href="{link}">Download BibTeX ({len(works)})</a></p>\n'
        f"<details><summary>Show the BibTeX</summary>{code_html(text)}</details>\n"
    )
