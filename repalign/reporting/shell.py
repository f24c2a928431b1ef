"""One shell for all self-contained HTML reports: a single file that loads nothing.

The file carries a content security policy that allows only its own style, its own scripts and
`data:` images, so that text which slipped through as markup could neither run nor fetch.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 32  # letters; a cell with more may break into lines
THEME = (  # shown by the script, without which it does nothing
    '<p class="theme" hidden><label>Colours <select>'
    '<option value="light dark">as the system</option>'
    '<option value="light">light</option><option value="dark">dark</option></select></label></p>\n'
)


@dataclass(frozen=True)
class Section:
    """One part of a page: a heading (plain text) and its HTML, made by the helpers below."""

    heading: str
    html: str


@functools.cache
def read_part(name: str) -> str:
    """The text of a style sheet or script that lies beside this module."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    style: str = "",
    scripts: Sequence[str] = (),
    data: Any = None,
) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        title: plain text, for the tab and the first heading.
        sections: in order; the HTML inside is taken as it is.
        subtitle: plain text below the title; "" leaves it out.
        style: CSS after that of all pages.
        scripts: JavaScript modules after the script of all pages, in order.
        data: anything JSON can hold, for those scripts; in the element with the id "data".

    Example:
        >>> page("A", [Section("B", text_html("c"))]).startswith("<!doctype html>")
        True
    """
    css, script = read_part("shell.css") + style, read_part("shell.js")
    allowed = " ".join(f"'{_digest(text)}'" for text in (script, *scripts))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(css)}'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
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
    carried = "" if data is None else json_html(data, "data")
    modules = "".join(f'<script type="module">{text}</script>\n' for text in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n{below}{THEME}</header>\n{contents}"
        f'<main id="content" tabindex="-1">\n{body}\n</main>\n'
        "<footer>Made by repalign. This file is self-contained and loads nothing.</footer>\n"
        f"{carried}<script>{script}</script>\n{modules}</body>\n</html>\n"
    )


def json_html(data: Any, name: str) -> str:
    """Data for a page's scripts; no text inside can end the element.

    Example:
        >>> json_html({"a": "</script>"}, "b")
        '<script type="application/json" id="b">{"a":"\\\\u003c/script>"}</script>\\n'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # neither "</script" nor "<!--" is left
    return f'<script type="application/json" id="{escape(name)}">{text}</script>\n'


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
