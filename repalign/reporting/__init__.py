"""Reports: the rows of comparisons as JSON, CSV, a figure and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
import numbers
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repalign.reporting.figures import layer_profile, save_figure
from repalign.reporting.profiles import (
    ROW_FIELDS,
    Profile,
    Row,
    as_json,
    check_rows,
    gather_profiles,
    metric_labels,
)
from repalign.reporting.shell import (
    Section,
    code_html,
    definitions_html,
    figure_html,
    page,
    table_html,
    text_html,
)
from repalign.reporting.summary import best_layers_html, choose_names, figure_words, summary_text

__all__ = ["read_rows", "read_sources", "rows_as_csv", "write_report"]

RESULTS = "results.json"
SOURCES = "sources.json"  # beside it: the command, and what to cite

ALL_COLUMNS = {
    "dataset": "Dataset", "selection": "Selection", "species": "Species", "region": "Region",
    "subject": "Subject", "model": "Model", "layer": "Layer", "metric": "Metric",
    "value": "Value", "null_mean": "Null", "null_sd": "Null sd",
    "ci_low": "Interval low", "ci_high": "Interval high", "ceiling_low": "Ceiling low",
    "ceiling_high": "Ceiling high", "ceiling_error": "Ceiling error",
    "ceiling_kind": "Ceiling kind", "p": "p",
    "n_stimuli": "Stimuli", "n_neuroids": "Neuroids", "seed": "Seed", "version": "Version",
}  # fmt: skip
# Said once, above the table, where they are the same in all rows.
ONCE = (
    "dataset",
    "selection",
    "species",
    "region",
    "metric",
    "n_stimuli",
    "n_neuroids",
    "seed",
    "version",
)


def write_report(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    title: str,
    provenance: Mapping[str, Any] | None = None,
    summary: str | None = None,
    citations: Sequence[str] | None = None,
) -> Path:
    """Write results.json, results.csv, sources.json, profile.png and report.html, each atomically.

    Args:
        rows: comparisons, as dicts with the fields in `ROW_FIELDS`; those of a model in order of
            depth. NaN and infinity become null in the JSON and empty in the CSV.
        folder: made if absent; files of these names in it are replaced.
        title: of the page.
        provenance: what was run, with what; shown as a table. The entry "command" (text, or a list
            of words) is shown as the way to reproduce the report.
        summary: plain text (see `shell.text_html`); None writes one from the rows.
        citations: one text each.

    Returns:
        The path of report.html.

    Raises:
        ValueError: if there is no row, a field is missing, or two different rows claim one cell.
        TypeError: if a value cannot be written as JSON, or citations is a single string.

    Example:
        >>> write_report(read_rows("results/"), "out/", title="IT by depth")  # doctest: +SKIP
    """
    from repalign.store import write_file

    if isinstance(citations, str):
        raise TypeError("citations is a single string; give a list of strings, one a work")
    check_rows(rows)
    rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
    every = gather_profiles(rows)
    folder = Path(folder)
    fig = layer_profile(rows)
    figure = figure_html(fig, *figure_words(every))
    sections = _sections(rows, every, figure, provenance, summary, citations)
    html = page(title, sections, subtitle=_extent(rows))
    write_file(folder / RESULTS, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    command = (provenance or {}).get("command", "")
    sources = {
        "command": command if isinstance(command, str) else shlex.join(map(str, command)),
        "citations": list(citations or []),
    }
    write_file(folder / SOURCES, json.dumps(sources, indent=1) + "\n")
    write_file(folder / "results.csv", rows_as_csv(rows))
    save_figure(fig, folder / "profile.png")
    write_file(folder / "report.html", html)
    return folder / "report.html"


def read_rows(paths: str | Path | Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read the rows of results.json files, in the order of the paths.

    A folder stands for every results.json below it, sorted by path. A file reached twice is read
    once and a row met twice is kept once, so a report may be written into the folder it is read
    from.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no results.json.
        ValueError: if a file is no valid JSON, no list of rows, or a row lacks a field.

    Example:
        >>> rows = read_rows(["results/", "more/results.json"])  # doctest: +SKIP
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise ValueError(f"no path given; name a {RESULTS} or a folder that holds one")
    files = dict.fromkeys(file.resolve() for path in given for file in _result_files(Path(path)))
    rows: dict[str, dict[str, Any]] = {}
    for file in files:
        for row in _read_file(file):
            rows.setdefault(as_json(row), row)
    return list(rows.values())


def read_sources(paths: Iterable[str | Path]) -> tuple[list[str], list[str]]:
    """Read the commands and citations of earlier reports, each once, where they were kept."""
    commands: dict[str, None] = {}
    citations: dict[str, None] = {}
    for path in paths:
        for file in _result_files(Path(path)):
            try:
                sources = json.loads((file.parent / SOURCES).read_text("utf-8"))
                commands[str(sources["command"])] = None
                citations |= dict.fromkeys(map(str, sources["citations"]))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file.parent / SOURCES} is damaged: {error}") from None
    return list(commands), list(citations)


def _result_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a {RESULTS} or a folder of them")
    if not path.is_dir():
        return [path]
    if found := sorted(path.rglob(RESULTS)):
        return found
    raise FileNotFoundError(
        f"no {RESULTS} in {path} or below it; run a comparison with --out first"
    )


def _read_file(path: Path) -> list[dict[str, Any]]:
    try:
        # NaN and Infinity are no JSON, but Python writes them.
        rows = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}, not a list of rows")
    check_rows(rows, source=str(path))
    return rows


def _plain(value: Any) -> Any:
    """The strict-JSON form of a value: NaN and infinity are None, numpy scalars are numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be written as JSON; "
        "rows hold None, numbers, text, and lists and dicts of them"
    )


def rows_as_csv(rows: Sequence[Row]) -> str:
    """All rows as CSV; a mapping or list inside is JSON text, None is empty."""
    text = io.StringIO()
    names = dict.fromkeys([*ROW_FIELDS, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
        )
    return text.getvalue()


def _extent(rows: Sequence[Row]) -> str:
    """The number of rows, datasets, models and metrics, in words."""

    def counted(n: int, noun: str) -> str:
        return f"{n} {noun}{'' if n == 1 else 's'}"

    parts = [counted(len({row[k] for row in rows}), k) for k in ("dataset", "model", "metric")]
    return f"{counted(len(rows), 'comparison')}: {', '.join(parts)}"


def _sections(
    rows: Sequence[Row],
    every: Sequence[Profile],
    figure: str,
    provenance: Mapping[str, Any] | None,
    summary: str | None,
    citations: Sequence[str] | None,
) -> list[Section]:
    naming = choose_names(every)
    labels = map(naming.metrics.__getitem__, metric_labels(rows))
    everything = table_html(
        [{**row, "metric": label} for row, label in zip(rows, labels, strict=True)],
        ALL_COLUMNS,
        f"All {len(rows)} rows, in the order computed; {RESULTS} and results.csv hold every field.",
        once=ONCE,
    )
    words = summary_text(every, naming) if summary is None else summary
    sections = [
        Section("Summary", text_html(words)),
        Section("Score by depth", figure),
        Section("Best layers", best_layers_html(every, naming)),
        Section("All comparisons", everything),
    ]
    provenance = dict(provenance or {})
    command = provenance.pop("command", None)
    if provenance:
        sections.append(Section("Provenance", definitions_html(provenance, "What was run")))
    if citations:
        works = (" ".join(citation.split()) for citation in citations)
        sections.append(Section("Cite", text_html("\n".join(f"- {work}" for work in works))))
    return [*sections, Section("How to reproduce", _reproduce(rows, command))]


def _reproduce(rows: Sequence[Row], command: Any) -> str:
    versions, seeds = (
        ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in ("version", "seed")
    )
    known = text_html(
        f"Computed by repalign {versions} with seed {seeds}. Each row of {RESULTS} carries its "
        "metric parameters, seed and version."
    )
    sets = Counter((row["metric"], json.dumps(row["metric_parameters"])) for row in rows)
    table = table_html(
        [{"metric": metric, "rows": n, "set": text} for (metric, text), n in sets.items()],
        {"metric": "Metric", "rows": "Rows", "set": "Parameters"},
        "Parameters of the metrics, and the number of rows computed with them",
    )
    if isinstance(command, list | tuple):
        command = shlex.join(map(str, command))
    return (code_html(str(command)) if command else "") + known + table
