"""Tables on a terminal, and JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from repalign.results import similarity


def print_records(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool
) -> None:
    """Print rows as JSON with all their fields, or some of them as a table."""
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
    else:
        print_table(rows, columns)


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table; where stdout is no terminal its lines are as long as they need to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = list(rows)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric and rows else "left",
            overflow="fold",
            no_wrap=numeric,
        )
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)
    console.print(table)


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, only_best: bool = False
) -> None:
    """Print results in one block a target and metric, the best layer of each model marked.

    What all rows share is said once, above; a block's header names its target and ceiling, so
    that the lines stay short enough for a narrow terminal.
    """
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
        return
    targets = ("dataset", "species", "region", "subject")
    shared = [name for name in targets if len({row[name] for row in rows}) == 1]
    sizes = {name: {row[name] for row in rows} for name in ("n_stimuli", "n_neuroids")}
    said = [rows[0][name] for name in shared if rows[0][name]]
    said += [
        f"{found.pop()} {name[2:]}"
        for name, found in sizes.items()
        if len(found) == 1 and None not in found
    ]
    print(", ".join(said))
    blocks: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    rows = [{**row, "metric": label} for row, label in zip(rows, _labels(rows), strict=True)]
    groups = _grouped(rows, (*targets, "metric", "model")).values()
    best = {id(_best(group)) for group in groups}
    chosen = {id(_best(group)) for group in groups if len(group) > 1}
    for row in rows:
        if only_best and id(row) not in best:
            continue
        names = [str(row[name]) for name in targets if name not in shared and row[name]]
        ceiling = _range(row["ceiling_low"], row["ceiling_high"])
        header = [*names, row["metric"]]
        if ceiling:
            header.append(f"noise ceiling ({row['ceiling_kind']}) {ceiling}")
        mark = "*" if id(row) in chosen and not only_best else ""
        interval = _range(row["ci_low"], row["ci_high"])
        null = "" if row["null_mean"] is None else _number(row["null_mean"])
        if row["null_sd"] is not None:
            null += f" ± {row['null_sd']:.3f}"
        cells = (row["model"], row["layer"] or "", _number(row["value"]) + mark, interval, null)
        blocks.setdefault(tuple(header), []).append(cells)
    titles = ("model", "best layer" if only_best else "layer", "value", "95 % interval", "")
    if any(row["null_mean"] is not None for row in rows):
        titles = (*titles[:-1], "shuffled")
    lines: list[tuple[str, ...]] = [titles]
    lines += [line for block in blocks.values() for line in block]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for heading, block in blocks.items():
        print(f"\n{', '.join(heading)}")
        for number, line in enumerate([titles, *block]):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            marked = bold and (number == 0 or line[2].endswith("*"))
            print(f"\033[1m{text.rstrip()}\033[0m" if marked else text.rstrip())
    if chosen and not only_best:
        print("\n* best layer of its model, chosen on the stimuli that its value is reported for")


Rows = Sequence[Mapping[str, Any]]
NO_PARAMETERS = ("interval", "first")  # said of a result, not of its metric


def _labels(rows: Rows) -> list[str]:
    """The metric's name, with the parameters that are not usual or differ between rows."""
    values = _usual_values({row["metric"] for row in rows})
    for row in rows:
        for name, value in row["metric_parameters"].items():
            values.setdefault((row["metric"], name), set()).add(json.dumps(value))
    labels = []
    for row in rows:
        said = ", ".join(
            f"{name}={value}"
            for name, value in row["metric_parameters"].items()
            if name not in NO_PARAMETERS and len(values[row["metric"], name]) > 1
        )
        labels.append(f"{row['metric']}: {said}" if said else row["metric"])
    return labels


def _usual_values(metrics: set[str]) -> dict[tuple[str, str], set[str]]:
    """The default of each parameter of the metrics that are known, as JSON."""
    from repalign.metrics import METRICS

    return {
        (metric, name): {json.dumps(value)}
        for metric in metrics & METRICS.keys()
        for name, value in vars(METRICS[metric]()).items()
    }


def _grouped(rows: Rows, keys: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _best(rows: Rows) -> Mapping[str, Any]:
    return max(rows, key=lambda row: similarity(row["value"], row["is_distance"]))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
