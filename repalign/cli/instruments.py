"""Verbs that show the metrics themselves: their cards, their calibration, their check by others."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from repalign.cli.options import Json, complete_metrics

MetricWords = Annotated[
    list[str] | None,
    typer.Argument(
        help="Metrics with their parameters, such as cka:debiased=false; by default all.",
        autocompletion=complete_metrics,
    ),
]


def metrics(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show the card of one metric, or alignment loss, in full.",
            autocompletion=complete_metrics,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every metric: formula, range, invariances, needs and reference."""
    from repalign.choices import as_metric
    from repalign.metrics import METRICS
    from repalign.metrics.catalogue import COLUMNS, card_of, markdown_of, metric_cards
    from repalign.regularize.loss_cards import loss_card
    from repalign.regularize.objectives import ALIGNMENT_LOSSES
    from repalign.tables import print_records

    kind = (name or "").partition(":")[0]
    if name is not None and kind in ALIGNMENT_LOSSES and kind not in METRICS:
        card = loss_card(name)
        if as_json:
            print_records([card], (), as_json=True)
        else:
            print("\n".join(f"{key}: {value}" for key, value in card.items()))
        return
    if name is None and not as_json:
        losses = ", ".join(ALIGNMENT_LOSSES)
        print(f"alignment losses, for training, have cards too: {losses}", file=sys.stderr)
    rows = metric_cards() if name is None else [card_of(as_metric(name))]
    if name is not None and not as_json:
        print(markdown_of(rows[0]))
    else:
        print_records(rows, COLUMNS, as_json=as_json)


def validity(
    names: MetricWords = None,
    draws: Annotated[int, typer.Option(help="Independent data sets a null.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    as_json: Json = False,
) -> None:
    """Put metrics through planted cases with known answers, and print a table a metric."""
    from repalign.choices import as_metric
    from repalign.metrics import METRICS
    from repalign.progress import track
    from repalign.tables import print_records
    from repalign.validity import check_validity as run

    words = names or sorted(METRICS)
    chosen = [as_metric(word) for word in words]
    found = []
    for word, metric in zip(words, track(chosen, "validity"), strict=True):
        rows = [dataclasses.asdict(row) for row in run(metric, draws=draws, seed=seed)]
        found += rows
        if not as_json:
            print(f"\n{word}")
            for row in rows:
                row["verdict"] = {None: "", True: "yes", False: "NO"}[row["passed"]]
            print_records(rows, ("case", "expected", "found", "verdict"), as_json=False)
    if as_json:
        print_records(found, (), as_json=True)


def verify(
    seed: Annotated[int, typer.Option(help="Of the data: another seed is another check.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare our metrics with the reference libraries that are installed, on seeded data."""
    from repalign.tables import print_records
    from repalign.verification import verify as run

    rows = [dataclasses.asdict(row) for row in run(seed=seed)]
    failed = [row for row in rows if row["agrees"] is False]
    if not as_json:
        for row in rows:
            row["agrees"] = {None: "", True: "yes", False: "NO"}[row["agrees"]]
            row["difference"] = "" if row["difference"] is None else f"{row['difference']:.0e}"
    columns = ("ours", "case", "reference", "version", "difference", "tolerance", "agrees")
    print_records(rows, columns, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def job_script(
    jobs: Annotated[
        str, typer.Argument(help="As --scheduler takes it, such as slurm:cores=8,memory=32GB.")
    ],
) -> None:
    """Print the job script that a batch system would be given, without submitting it."""
    from repalign.job_queues import JobQueue

    print(JobQueue.parse(jobs).script())
