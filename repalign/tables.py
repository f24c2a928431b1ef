"""Tables on a terminal, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table; where stdout is no terminal its lines are as long as they need to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = list(rows)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        # names are never cut; only titles may wrap
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric and rows else "left",
            no_wrap=column != "title",
        )
    for row in rows:
        table.add_row(
            *("" if row.get(c) is None else str(row[c]) for c in columns), style=row.get("_style")
        )
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
    columns = [c for c in shown[0] if c != "_style" and any(row.get(c) for row in shown)]
    print_table(shown, columns)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
