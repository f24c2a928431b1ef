"""One shell for all self-contained HTML reports: a single file that loads nothing.

The file carries a content security policy that allows only its own style, its own script and
`data:` images, so that text which slipped through as markup could neither run nor fetch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1e21; --soft: #565c64; --paper: #ffffff; --shade: #f4f5f7; --line: #d5d9de;
  --accent: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8eb; --soft: #a9b0b9; --paper: #15181c; --shade: #1f242a; --line: #3a414a;
    --accent: #7db8f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 84rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.4rem 0 .7rem; overflow-wrap: anywhere; }
p, ul { max-width: 46rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
li { margin: 0 0 .25rem; }
a { color: var(--accent); }
.subtitle, footer { color: var(--soft); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
footer, figcaption, caption { font-size: .875rem; }
nav ul {
  list-style: none; padding: 0; max-width: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem;
}
nav { border-bottom: 1px solid var(--line); margin-top: 1rem; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--paper); padding: .4rem .8rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figure { margin: 0 0 1.2rem; }
.card {
  background: #ffffff; border: 1px solid var(--line); border-radius: .4rem; padding: .75rem;
  overflow-x: auto;
}
.card img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
figcaption { margin-top: .6rem; max-width: 52rem; color: var(--soft); }
.scroll {
  overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: .4rem;
  margin: 0 0 1.2rem;
}
table { border-collapse: collapse; width: 100%; font-size: .8125rem; line-height: 1.4; }
caption { text-align: left; padding: .6rem .5rem; color: var(--soft); }
caption span {
  position: sticky; left: .5rem; display: inline-block; max-width: min(52rem, 100vw - 4rem);
}
th, td { text-align: left; padding: .32rem .45rem; vertical-align: baseline; }
.sortable td { white-space: nowrap; }
.sortable td.long { white-space: normal; min-width: 10rem; }
td, tbody th { border-top: 1px solid var(--line); }
thead th {
  position: sticky; top: 0; background: var(--shade); vertical-align: bottom;
  box-shadow: 0 1px 0 var(--line);
}
tbody th { font-weight: 600; white-space: nowrap; }
tbody tr:hover { background: var(--shade); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.missing { color: var(--soft); }
th button { all: unset; cursor: pointer; font-weight: 600; border-radius: .2rem; }
th button:focus-visible { outline: 3px solid var(--accent); }
th button::after { content: "\\a0\\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; color: var(--accent); }
pre {
  background: var(--shade); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem .9rem; overflow-x: auto; font-size: .875rem;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (max-width: 44rem) { .card img { max-width: none; width: 46rem; } }
@media print {
  @page { margin: 14mm; }
  :root {
    color-scheme: light;
    --ink: #000000; --soft: #444444; --paper: #ffffff; --shade: #ffffff; --line: #bbbbbb;
    --accent: #000000;
  }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .scroll { max-height: none; overflow: visible; border: 0; }
  .card { border: 0; padding: 0; overflow: visible; }
  .card img { max-width: 100%; width: auto; max-height: 220mm; }
  table { font-size: 6.5pt; }
  th, td { padding: .1rem .25rem; }
  thead th, tbody th, .sortable td.long {
    min-width: 0; white-space: normal; overflow-wrap: break-word;
  }
  thead { display: table-header-group; break-inside: avoid; }
  thead th { position: static; box-shadow: none; border-bottom: 1px solid var(--line); }
  caption span { position: static; max-width: none; }
  tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
  th button { display: contents; }
  th button::after { content: none; }
  pre { white-space: pre-wrap; }
}
"""

# Missing values stay last in both directions; Array.sort is stable, so sorting twice nests.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column]);
      const gone = x.classList.contains("missing") - y.classList.contains("missing");
      if (gone) return gone;
      const [u, v] = [x, y].map((cell) => parseFloat(cell.dataset.value));
      if (!isNaN(u) && !isNaN(v)) return sign * (u - v);
      return sign * x.textContent.localeCompare(y.textContent, "en", { numeric: true });
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
}
"""


LONG = 32  # letters; a cell with more may break into lines


@dataclass(frozen=True)
class Section:
    """One part of a page: a heading (plain text) and its HTML, made by the helpers below."""

    heading: str
    html: str


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        title: plain text, for the tab and the first heading.
        sections: in order; the HTML inside is taken as it is.
        subtitle: plain text below the title; "" leaves it out.

    Example:
        >>> page("A", [Section("B", text_html("c"))]).startswith("<!doctype html>")
        True
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(STYLE)}'; "
        f"script-src '{_digest(SCRIPT)}'; base-uri 'none'; form-action 'none'"
    )
    below = f'<p class="subtitle">{escape(subtitle)}</p>\n' if subtitle else ""
    links = "".join(
        f'<li><a href="#section-{i}">{escape(section.heading)}</a></li>'
        for i, section in enumerate(sections, 1)
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if len(sections) > 1 else ""
    body = "\n".join(
        f'<section aria-labelledby="section-{i}">\n'
        f'<h2 id="section-{i}">{escape(section.heading)}</h2>\n{section.html}\n</section>'
        for i, section in enumerate(sections, 1)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n{below}</header>\n{contents}"
        f'<main id="content" tabindex="-1">\n{body}\n</main>\n'
        "<footer>Made by repalign. This file is self-contained and loads nothing.</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def text_html(text: str) -> str:
    """Plain text as paragraphs (a blank line parts them) and lists (lines that begin with "- ").

    Example:
        >>> text_html("a < b")
        '<p>a &lt; b</p>'
    """

    def kind(line: str) -> str:
        return "li" if line.startswith("- ") else "p" if line else ""

    html = ""
    for name, group in groupby(map(str.strip, text.splitlines()), kind):
        if name == "li":
            html += f"<ul>{''.join(f'<li>{escape(line[2:])}</li>' for line in group)}</ul>"
        elif name:
            html += f"<p>{escape(' '.join(group))}</p>"
    return html


def code_html(text: str) -> str:
    """Text in fixed width, its lines kept, as for a command."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def number_text(value: Any) -> str:
    """A number with three decimals, or two digits where three decimals would read as zero.

    Example:
        >>> number_text(0.44721), number_text(-2.0), number_text(4e-7)
        ('0.447', '−2.000', '4.0e−07')
    """
    if isinstance(value, numbers.Integral):
        text = str(int(value))
    elif 0 < abs(value) < 0.0005 or 1e6 <= abs(value) < math.inf:
        text = f"{value:.1e}"
    else:
        text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def table_html(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    caption: str,
    *,
    once: Sequence[str] = (),
) -> str:
    """A table that a click, or Enter, on a header sorts.

    Numbers stand right with three decimals; None, NaN and absent fields are a dash and sort last;
    a mapping or list is shown as JSON. A column without any entry is left out.

    Args:
        rows: one mapping a row.
        columns: field to header text, in order.
        caption: plain text, above the table.
        once: fields that the caption names, in place of a column, where all of several rows agree.

    Example:
        >>> "<td>V4</td>" in table_html([{"region": "V4"}], {"region": "Region"}, "Regions")
        True
    """
    entries = {name: [row.get(name) for row in rows] for name in columns}
    shown = {k: v for k, v in columns.items() if any(e not in (None, "", {}) for e in entries[k])}
    same = [k for k in once if k in shown and all(e == entries[k][0] for e in entries[k][1:])]
    if same and len(rows) > 1:
        words = (f"{shown.pop(name).lower()} {_shown(entries[name][0])}" for name in same)
        caption += f" The same in all: {', '.join(words)}."
    right = {
        name: any(map(_is_number, entries[name]))
        and all(_is_number(e) or _is_missing(e) for e in entries[name])
        for name in shown
    }
    head = "".join(
        f'<th scope="col"{" class=number" if right[name] else ""}>'
        f'<button type="button">{escape(text)}</button></th>'
        for name, text in shown.items()
    )
    body = "\n".join(
        f"<tr>{''.join(_cell(row.get(name), right[name]) for name in shown)}</tr>" for row in rows
    )
    return _framed(
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>", caption, "sortable"
    )


def _framed(content: str, caption: str, kind: str) -> str:
    """A table in a frame that scrolls."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
        f'<table class="{kind}">\n<caption><span>{escape(caption)}</span></caption>\n'
        f"{content}\n</table>\n</div>"
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, numbers.Real) and math.isnan(value))


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and not _is_missing(value)


def _cell(value: Any, right: bool) -> str:
    if _is_missing(value):
        return f'<td class="{"number " if right else ""}missing">–</td>'
    if _is_number(value):
        name = ' class="number"' if right else ""
        return f'<td{name} data-value="{escape(str(float(value)))}">{number_text(value)}</td>'
    text = _shown(value)
    return f"<td{' class=long' if len(text) > LONG else ''}>{escape(text)}</td>"


def _shown(value: Any) -> str:
    """Text of anything: JSON for a mapping or list, else str()."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def definitions_html(entries: Mapping[str, Any], caption: str) -> str:
    """A two-column table of names and what they stand for."""
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(_shown(value))}</td></tr>'
        for name, value in entries.items()
    )
    return _framed(f"<tbody>\n{body}\n</tbody>", caption, "names")


def figure_html(fig: Figure, alt: str, caption: str) -> str:
    """A matplotlib figure on a white card, as PNG inside the page.

    Args:
        fig: any figure.
        alt: what it shows, for those who cannot see it.
        caption: plain text below it.

    Raises:
        ValueError: if alt is blank.
    """
    from repalign.reporting.figures import figure_bytes

    if not alt.strip():
        raise ValueError("a figure needs an alt text that says what it shows; got a blank one")
    data = base64.b64encode(figure_bytes(fig, "png", dpi=220)).decode()
    width, height = (round(inches * 132) for inches in fig.get_size_inches())
    return (
        f'<figure>\n<div class="card" tabindex="0" role="group" aria-label="Figure">'
        f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}"></div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )
