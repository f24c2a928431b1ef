"""Tables on a terminal, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WRAPPED = ("title", "model", "path", "store")


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table: numbers are never cut, long names wrap on a narrow terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    rows = list(rows)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        wraps = column in WRAPPED
        longest = max(len(str(row.get(column, ""))) for row in rows) if rows else 0
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric and rows else "left",
            no_wrap=not wraps,
            overflow="fold",
            min_width=None if wraps else max(longest, len(column)),
        )
    for row in rows:
        cells = ["" if row.get(column) is None else str(row[column]) for column in columns]
        table.add_row(*cells, style=row.get("_style"))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)
    console.print(table)


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, only_best: bool = False
) -> None:
    """The result table; the best layer of each model and target is bold and marked."""
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
        return
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("dataset", "species", "region", "subject", "metric", "model"))
        groups.setdefault(key, []).append(row)
    shown = []
    for group in groups.values():
        best = max(group, key=lambda row: -9.0 if row["value"] is None else row["value"])
        for row in group:
            if only_best and row is not best:
                continue
            marked = row is best and len(group) > 1 and not only_best
            shown.append(
                {
                    "dataset": row["dataset"],
                    "species": row["species"],
                    "region": row["region"],
                    "subject": row["subject"],
                    "model": row["model"],
                    "best layer" if only_best else "layer": row["layer"],
                    "metric": row["metric"],
                    "value": _number(row["value"]) + (" *" if marked else "  "),
                    "95 % interval": _range(row["ci_low"], row["ci_high"]),
                    "noise ceiling": _range(row["ceiling_low"], row["ceiling_high"]),
                    "stimuli": row["n_stimuli"],
                    "neuroids": row["n_neuroids"],
                    "_style": "bold" if marked else None,
                }
            )
    # what all rows share is said once, above the table
    shared = {
        column: shown[0][column]
        for column in ("dataset", "species", "region", "subject", "stimuli", "neuroids")
        if len({row[column] for row in shown}) == 1
    }
    said = [str(value) for value in list(shared.values()) if isinstance(value, str)]
    said += [f"{n} {what}" for what, n in shared.items() if isinstance(n, int)]
    if said:
        print(", ".join(said))
    columns = [c for c in shown[0] if c != "_style" and c not in shared]
    print_table(shown, [c for c in columns if any(row.get(c) for row in shown)])
    if any(row["_style"] for row in shown):
        print("* best layer of its model, chosen on the stimuli that its value is reported for")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
