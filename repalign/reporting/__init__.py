"""Reports: the rows of comparisons as JSON, CSV, a figure and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repalign.reporting.figures import (
    ROW_FIELDS,
    Ceiling,
    Profile,
    Row,
    check_rows,
    interval_name,
    layer_profile,
    metric_labels,
    number,
    profiles,
    save_figure,
    short_labels,
    subjects_name,
)
from repalign.reporting.page import (
    Section,
    code_html,
    definitions_html,
    figure_html,
    number_text,
    page,
    table_html,
    text_html,
)

__all__ = ["read_rows", "write_report"]

RESULTS = "results.json"
RIVALS = 4  # models named in a sentence of the summary beside the best one

BEST_COLUMNS = {
    "target": "Target", "subjects": "Subjects", "metric": "Metric", "model": "Model",
    "layer": "Best layer", "value": "Value", "interval": "Interval",
    "range": "Subject range", "ceiling": "Noise ceiling",
}  # fmt: skip
SHAREABLE = ("dataset", "species", "region", "n_stimuli", "n_neuroids", "seed", "version")
ALL_COLUMNS = {
    "dataset": "Dataset", "species": "Species", "region": "Region", "subject": "Subject",
    "model": "Model", "layer": "Layer", "metric": "Metric", "value": "Value",
    "ci_low": "Interval low", "ci_high": "Interval high", "ceiling_low": "Ceiling low",
    "ceiling_high": "Ceiling high", "ceiling_kind": "Ceiling kind", "p": "p",
    "n_stimuli": "Stimuli", "n_neuroids": "Neuroids", "seed": "Seed", "version": "Version",
}  # fmt: skip


def write_report(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    title: str,
    provenance: Mapping[str, Any] | None = None,
    summary: str | None = None,
    citations: Sequence[str] | None = None,
) -> Path:
    """Write results.json, results.csv, profile.png and report.html, each whole or not at all.

    Args:
        rows: comparisons, as dicts with the fields in `ROW_FIELDS`; those of a model in order of
            depth. NaN and infinity become null in the JSON and empty in the CSV.
        folder: made if absent; files of these names in it are replaced.
        title: of the page.
        provenance: what was run, with what; shown as a table. The entry "command" (text, or a list
            of words) is shown as the way to reproduce the report.
        summary: plain text (see `page.text_html`); None writes one from the rows.
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
    rows = [{name: _plain(value) for name, value in row.items()} for row in _checked(rows)]
    folder = Path(folder)
    fig = layer_profile(rows)
    html = page(
        title,
        _sections(rows, figure_html(fig, *_figure_words(rows)), provenance, summary, citations),
        subtitle=_extent(rows),
    )
    write_file(folder / RESULTS, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_file(folder / "results.csv", _csv(rows))
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
            rows.setdefault(json.dumps(row, sort_keys=True), row)
    return list(rows.values())


def _result_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a {RESULTS} or a folder of them")
    if not path.is_dir():
        return [path]
    if found := sorted(path.rglob(RESULTS)):
        return found
    raise FileNotFoundError(f"no {RESULTS} in {path} or below it; run a comparison with --to first")


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


def _checked(rows: Sequence[Row]) -> Sequence[Row]:
    check_rows(rows)
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


def _csv(rows: Sequence[Row]) -> str:
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


def _sections(
    rows: Sequence[Row],
    figure: str,
    provenance: Mapping[str, Any] | None,
    summary: str | None,
    citations: Sequence[str] | None,
) -> list[Section]:
    every = profiles(rows)
    naming = _Naming(every)
    best = [_best_row(profile, naming) for profile in every]
    labels = metric_labels(rows)
    labelled = [
        {**row, "metric": naming.metrics[label]} for row, label in zip(rows, labels, strict=True)
    ]
    sections = [
        Section("Summary", text_html(_summary(every, naming) if summary is None else summary)),
        Section("Score by depth", figure),
        Section(
            "Best layers",
            table_html(
                best,
                _filled(best, {**BEST_COLUMNS, "interval": naming.interval.capitalize()}),
                "The layer of the highest value for each target, metric and model. It was chosen "
                "by the very values shown, which are therefore optimistic.",
            ),
        ),
        Section(
            "All comparisons",
            table_html(labelled, *_all_columns(labelled)),
        ),
    ]
    provenance = dict(provenance or {})
    command = provenance.pop("command", None)
    if provenance:
        sections.append(Section("Provenance", definitions_html(provenance, "What was run")))
    if citations:
        sections.append(Section("Cite", text_html("\n".join(f"- {_line(c)}" for c in citations))))
    return [*sections, Section("How to reproduce", _reproduce(rows, command))]


def _line(text: str) -> str:
    return " ".join(text.split())


def _reproduce(rows: Sequence[Row], command: Any) -> str:
    import shlex

    versions = ", ".join(dict.fromkeys(str(row["version"]) for row in rows))
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
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
    if not command:
        return known + table
    words = shlex.join(map(str, command)) if isinstance(command, list | tuple) else str(command)
    return code_html(words) + known + table


def _all_columns(rows: Sequence[Row]) -> tuple[dict[str, str], str]:
    """Columns of the full table, and its caption, which says once what all rows share."""
    columns = _filled(rows, ALL_COLUMNS)
    shared = {
        name: columns.pop(name)
        for name in SHAREABLE
        if name in columns and len({row[name] for row in rows}) == 1 < len(rows)
    }
    caption = f"All {len(rows)} rows, in the order computed."
    if shared:
        words = (f"{text.lower()} {rows[0][name]}" for name, text in shared.items())
        caption += f" The same in all: {', '.join(words)}."
    return columns, caption + f" {RESULTS} and results.csv hold every field."


def _filled(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, str]:
    """Those columns in which any row has an entry."""
    return {k: v for k, v in columns.items() if any(r[k] not in (None, "", {}) for r in rows)}


class _Naming:
    """How targets, metrics and intervals are called in one report: as briefly as is unambiguous."""

    def __init__(self, every: Sequence[Profile]) -> None:
        self.metrics = short_labels(profile.metric for profile in every)
        self.interval = interval_name(row for p in every for row in p.cells.values())
        self._with_dataset = len({profile.target.dataset for profile in every}) > 1

    def target(self, profile: Profile) -> str:
        return profile.target.name + f" ({profile.target.dataset})" * self._with_dataset


def _who(profile: Profile) -> str:
    return subjects_name(profile.target, profile.subjects)


def _range(low: float, high: float) -> str:
    """A range with two decimals; "to" keeps a minus sign from meeting a dash.

    A small negative end stays "−0.00", which tells that the range holds zero.
    """
    ends = [f"{end:.2f}".replace("-", "−") for end in (low, high)]
    return (" to " if min(low, high) < 0 else "–").join(ends)


def _spread(profile: Profile, layer: str) -> tuple[float, float] | None:
    """Lowest and highest value over subjects; None with a single one."""
    at = profile.layers.index(layer)
    own = [v for s in profile.subjects if math.isfinite(v := profile.values(s)[at])]
    return (min(own), max(own)) if len(profile.subjects) > 1 and own else None


def _best_row(profile: Profile, naming: _Naming) -> dict[str, Any]:
    layer, ceiling = profile.best, profile.ceiling
    bar = profile.interval(layer) if layer else None
    spread = _spread(profile, layer) if layer else None
    return {
        "target": naming.target(profile),
        "subjects": _who(profile),
        "metric": naming.metrics[profile.metric],
        "model": profile.model,
        "layer": layer,
        "value": profile.mean[profile.layers.index(layer)] if layer else None,
        "interval": _range(*bar) if bar else None,
        "range": _range(*spread) if spread else None,
        "ceiling": f"{_ceiling_ends(ceiling)} ({ceiling.kind})" if ceiling else None,
    }


def _extent(rows: Sequence[Row]) -> str:
    def count(name: str, noun: str) -> str:
        n = len({row[name] for row in rows})
        return f"{n} {noun}{'' if n == 1 else 's'}"

    parts = [count("dataset", "dataset"), count("model", "model"), count("metric", "metric")]
    size = f"{len(rows)} comparison{'' if len(rows) == 1 else 's'}"
    return f"{size}: {', '.join(parts)}"


def _summary(every: Sequence[Profile], naming: _Naming) -> str:
    """The main results as sentences, for `text_html`: one item a target and metric."""
    lines = []
    for target, metric in dict.fromkeys((p.target, p.metric) for p in every):
        rivals = [p for p in every if (p.target, p.metric) == (target, metric)]
        first, *others = sorted(rivals, key=_best_value, reverse=True)
        line = _sentence(first, naming)
        if others:
            named = [_brief(p) for p in others[:RIVALS]]
            named += [f"{len(others) - RIVALS} more below these"] * (len(others) > RIVALS)
            line += f" Next: {'; '.join(named)}."
        lines.append(f"- {line}")
    rows = [row for profile in every for row in profile.cells.values()]
    undefined = sum(not math.isfinite(number(row["value"])) for row in rows)
    notes = ["Each best layer was chosen by the value given for it, which is therefore optimistic."]
    if undefined:
        notes.append(f"{undefined} of {len(rows)} comparisons have no defined value.")
    if all(row["p"] is None for row in rows):
        notes.append("No differences were tested.")
    if any(p.interval(layer) for p in every for layer in p.layers):
        notes.append(
            "Intervals hold for one layer at a time and are not corrected for the number of layers."
        )
    return "\n".join([*lines, "", " ".join(notes)])


def _best_value(profile: Profile) -> float:
    return max((v for v in profile.mean if math.isfinite(v)), default=-math.inf)


def _sentence(profile: Profile, naming: _Naming) -> str:
    """As in "Best layer of alexnet for macaque IT by RSA: conv5 (0.447, …; no ceiling)."."""
    who = f", {_who(profile)}," if len(profile.subjects) > 1 or profile.target.is_group else ""
    where = f"for {naming.target(profile)}{who} by {naming.metrics[profile.metric]}"
    layer = profile.best
    if layer is None:
        return f"No defined value of {profile.model} {where}."
    facts = f"{_facts(profile, layer, naming)}; {_ceiling_words(profile.ceiling)}"
    if len(profile.layers) == 1:
        return f"Value of {profile.model} {where}: {facts}."
    return f"Best layer of {profile.model} {where}: {layer} ({facts})."


def _brief(profile: Profile) -> str:
    """A model's best layer and value, where target and metric are known."""
    layer = profile.best
    if layer is None:
        return f"{profile.model}, no defined value"
    at = "" if len(profile.layers) == 1 else f" {layer}"
    extent = _spread(profile, layer) or profile.interval(layer)
    value = number_text(profile.mean[profile.layers.index(layer)])
    return f"{profile.model}{at} ({value}{f', {_range(*extent)}' if extent else ''})"


def _facts(profile: Profile, layer: str, naming: _Naming) -> str:
    value = number_text(profile.mean[profile.layers.index(layer)])
    if spread := _spread(profile, layer):
        return f"mean {value}, subjects {_range(*spread)}"
    if bar := profile.interval(layer):
        return f"{value}, {naming.interval} {_range(*bar)}"
    return value


def _ceiling_words(ceiling: Ceiling | None) -> str:
    if ceiling is None:
        return "no ceiling"
    return f"noise ceiling {_ceiling_ends(ceiling)}, {ceiling.kind}"


def _ceiling_ends(ceiling: Ceiling) -> str:
    low, high = (f"{end:.2f}" for end in (ceiling.low, ceiling.high))
    return low.replace("-", "−") if low == high else _range(ceiling.low, ceiling.high)


def _figure_words(rows: Sequence[Row]) -> tuple[str, str]:
    """Alt text and caption of the figure, naming only what it shows."""
    every = profiles(rows)
    names = ["; ".join(dict.fromkeys(n)) for n in (
        (", ".join(filter(None, (p.target.name, _who(p)))) for p in every),
        (p.metric for p in every),
        (p.model for p in every),
    )]  # fmt: skip
    alt = (
        f"Line charts of score against layer: a column for each of {names[0]}; a row for each of "
        f"{names[1]}; models {names[2]}. The tables below hold every value."
    )
    caption = ["Score of each layer in order of depth, for each target (column) and metric (row)."]
    several = {len(p.subjects) > 1 for p in every}
    if True in several:
        caption.append("Thin lines are single subjects and the strong line is their mean.")
    if any(p.interval(layer) for p in every for layer in p.layers):
        interval = interval_name(row for p in every for row in p.cells.values())
        made = dict.fromkeys(
            str(row["metric_parameters"]["interval"])
            for row in rows
            if row["metric_parameters"].get("interval")
        )
        how = f" ({'; '.join(made)})" if made else ""
        caption.append(f"Vertical bars: {interval}{how}.")
    if any(len(p.layers) == 1 for p in every) and any(len(p.layers) > 1 for p in every):
        caption.append("Dashed lines across are models of one layer.")
    if any(p.ceiling for p in every):
        caption.append(
            "Grey: noise ceiling, from the mean over subjects of its lower end to that of its "
            "upper end."
        )
    return alt, " ".join(caption)
