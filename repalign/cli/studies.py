"""Verbs of a study: plan, run, status, collect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import Json

app = typer.Typer(
    help="Many comparisons from one file: plan, run (or go on), status, collect.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Study = Annotated[Path, typer.Argument(help="Configuration of the study, a TOML file.")]


@app.command()
def plan(study: Study, as_json: Json = False) -> None:
    """Print the grid, what is done, and what the rest takes; computes no result."""
    from repalign.studies import plan_study
    from repalign.tables import print_table

    planned = plan_study(study)
    if as_json:
        print(json.dumps(planned.to_dict(), indent=1))
        return
    columns = ("recording", "model", "metric", "layers", "targets", "cells", "done")
    print_table(planned.rows, columns)
    print("\n" + "\n".join(planned.notes()))


@app.command()
def run(
    study: Study,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes of this machine; by default those of [run], else none."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler whose workers see the stores, or jobs such as"
            " slurm:jobs=4,cores=8,memory=32GB."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute what has no result yet; a run that was stopped goes on where it was."""
    from repalign.studies import run_study

    done = run_study(study, workers=workers, scheduler=scheduler)
    print(json.dumps(done.to_dict(), indent=1) if as_json else done)
    if done.failed or done.ceilings_failed or done.models_not_recorded:
        raise typer.Exit(1)
    if not as_json:
        print(f"next: repalign study collect {study}", file=sys.stderr)


@app.command()
def status(study: Study, as_json: Json = False) -> None:
    """Count what is done, to do, failed and stale; also while the study runs."""
    from repalign.studies import study_status

    found = study_status(study)
    print(json.dumps(found.to_dict(), indent=1) if as_json else found)


@app.command()
def collect(
    study: Study,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="File to write: .csv, .parquet or .json. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the results, or write them to files; a stale result is never among them."""
    from repalign.studies import collect_study
    from repalign.tables import print_records, print_rows

    results = collect_study(study)
    if results.missing:
        print(f"{results.missing:,} cells are not computed yet", file=sys.stderr)
    failed = int(results.table["error"].notna().sum())
    if failed:
        print(f"{failed:,} cells failed; repalign study status {study}", file=sys.stderr)
    for path in out or ():
        print(f"{len(results.table):,} rows: {results.save(path)}", file=sys.stderr)
    if as_json:
        print_records(results.rows(), (), as_json=True)
    elif not out:
        print_rows([row for row in results.rows() if row["error"] is None], as_json=False)
