"""Verbs that end in a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import (
    Device,
    Json,
    Mirror,
    Offline,
    To,
    complete_datasets,
)


def demo(
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Train networks toward a simulated robust population and toward controls, attack"
            " them, and report (some minutes).",
        ),
    ] = False,
    data: Annotated[
        str,
        typer.Option(
            help="'simulated' (offline, planted truth), or a dataset such as kriegeskorte2008.",
            autocompletion=complete_datasets,
        ),
    ] = "simulated",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; by default repalign-demo, with the data's name or -train."
        ),
    ] = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the whole path once: recording to Zarr, three models, metrics, figure and report.

    With --train: networks drawn to a robust population and to controls, attacked, and reported.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if train:
        if data != "simulated" or mirror is not None:
            raise ValueError("--train simulates its recording: leave out --data and --mirror")
        from repalign.tables import print_records
        from repalign.training_demonstration import demonstrate_training

        where = out or "repalign-demo-train"
        trained = demonstrate_training(out=where, to=to, device=device, say=say)
        print_records(trained.table, list(trained.table[0]), as_json=as_json)
        if not as_json:
            print(f"{trained.verdict}\nreport: {trained.report}   ({trained.seconds:.0f} s)")
        return
    from repalign.demonstration import demonstrate
    from repalign.tables import print_rows

    done = demonstrate(
        data,
        out=out or Path("repalign-demo" if data == "simulated" else f"repalign-demo-{data}"),
        to=to,
        mirror=mirror,
        offline=offline or None,
        device=device,
        say=say,
    )
    print_rows(done.rows, as_json=as_json, only_best=True)
    if not as_json:
        print(f"{done.verdict}\nreport: {done.report}   ({done.seconds:.0f} s)")


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="A study's TOML file or the folder it ran in; or results.json files, or folders"
            " that hold them."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("repalign-report"),
    title: Annotated[
        str | None,
        typer.Option(help="Title of the page; by default the study's or datasets' name."),
    ] = None,
) -> None:
    """Write one page with tables and charts, and its numbers, from a study or earlier results."""
    from repalign.studies import write_study_report

    command = ["repalign", *sys.argv[1:]]
    print(write_study_report(results, out, title=title, command=command))
