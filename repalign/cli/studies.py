"""Verbs of a study: plan, run, resume, status, collect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import Json

app = typer.Typer(
    help="Many comparisons from one file: plan, run, resume, status, collect.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Study = Annotated[Path, typer.Argument(help="Configuration of the study, a TOML file.")]


Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes of this machine; by default what [run] or [cluster] says, else none.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a Dask scheduler whose workers see the stores, or jobs such as"
        " slurm:jobs=4,cores=8,memory=32GB."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one key: SECTION.KEY=VALUE, such as cluster.jobs=8. May be repeated.",
    ),
]


@app.command()
def plan(study: Study, workers: Workers = None, as_json: Json = False) -> None:
    """Print the grid, what is done, and what the rest takes; computes no result."""
    from repalign.studies import plan_study
    from repalign.tables import print_table

    planned = plan_study(study, workers=workers)
    if as_json:
        print(json.dumps(planned.to_dict(), indent=1))
        return
    columns = ("recording", "model", "metrics", "layers", "targets", "cells", "done")
    print_table(planned.by_model(), columns)
    print("\n" + "\n".join(planned.notes()))


@app.command()
def run(
    study: Study,
    workers: Workers = None,
    scheduler: Scheduler = None,
    changes: Changes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job scripts; start nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute what has no result yet; a run that was stopped goes on where it was."""
    from repalign.studies import job_scripts, read_study, run_study

    config = read_study(study, changes=changes or ())
    if dry_run:
        for work, script in job_scripts(config, workers=workers, scheduler=scheduler).items():
            print(f"# {work}\n{script}")
        return
    done = run_study(config, workers=workers, scheduler=scheduler)
    print(json.dumps(done.to_dict(), indent=1) if as_json else done)
    if done.failed or done.ceilings_failed or done.models_not_recorded:
        raise typer.Exit(1)
    if not as_json:
        print(f"next: repalign study collect {study}", file=sys.stderr)


@app.command()
def resume(
    study: Study,
    workers: Workers = None,
    scheduler: Scheduler = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Run a study that was begun before; as run, but an error where there is nothing to go on."""
    from repalign.studies import read_study

    config = read_study(study, changes=changes or ())
    if not config.folder.is_dir():
        raise ValueError(
            f"study {config.name} was never begun: there is no {config.folder}; begin it with"
            f" repalign study run {study}, or correct its name or its folder ([run] to)"
        )
    run(study, workers, scheduler, changes, as_json=as_json)


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
