"""Verbs that compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from repalign.cli.options import (
    CeilingChoice,
    CorrectionChoice,
    Dataset,
    Degrees,
    Device,
    FitChoice,
    IntervalKind,
    Json,
    Layers,
    Mirror,
    Offline,
    OverChoice,
    Select,
    SubjectsChoice,
    To,
    complete_metrics,
    complete_models,
    complete_recipes,
)


def compare(
    dataset: Dataset,
    models: Annotated[
        list[str],
        typer.Argument(
            help="What to compare it with: model cards (NAME@random: the untrained twin), other"
            " datasets, stores, or arrays.",
            autocompletion=complete_models,
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="rsa, cka, ridge or another that `repalign metrics` lists; parameters follow a"
            " colon: rsa:rdm=euclidean,comparator=corr  cka:debiased=false  pls:components=10."
            " May be repeated; rsa by default.",
            autocompletion=complete_metrics,
        ),
    ] = None,
    layers: Layers = None,
    select: Select = None,
    ceiling: Annotated[
        CeilingChoice,
        typer.Option(
            help="Noise ceiling: over repetitions (split-half), over subjects (nili), or none."
        ),
    ] = CeilingChoice.auto,
    resamples: Annotated[
        int | None,
        typer.Option(
            help="Bootstrap samples of stimuli; 0: no intervals. By default 1000, and fewer (100 or"
            " more) where there are more than 630 stimuli."
        ),
    ] = None,
    null_draws: Annotated[
        int | None,
        typer.Option(
            help="Shuffles of the stimuli, for the value that unrelated responses have; 0: none. By"
            " default 20 up to 300 stimuli."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resamples, split halves and shuffles.")] = 0,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Coordinate of the presentations whose values folds keep together (object,"
            " session); episodes of a rollout are kept together anyway."
        ),
    ] = None,
    inference: Annotated[
        OverChoice | None,
        typer.Option(
            help="Say what the comparison can claim: over new stimuli, new subjects or both; with"
            " ceilings, intervals and p values from the same resamples, and pairs of models."
        ),
    ] = None,
    subjects: Annotated[
        SubjectsChoice | None,
        typer.Option(
            help="With --inference: one value a subject (random, the default), or the neuroids of"
            " all subjects as one population (pooled)."
        ),
    ] = None,
    fit: Annotated[
        FitChoice | None,
        typer.Option(
            help="With --inference: layers as they are (fixed, the default), or one value a model"
            " whose layers are weighted, selected or blended on other stimuli."
        ),
    ] = None,
    interval: Annotated[
        IntervalKind | None,
        typer.Option(help="With --inference: kind of confidence interval; t by default."),
    ] = None,
    correction: Annotated[
        CorrectionChoice | None,
        typer.Option(help="With --inference: of p values for many models; holm by default."),
    ] = None,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    on: Annotated[
        Path | None,
        typer.Option(
            help="The rollout whose observations are shown to the agents among the models: a folder"
            " that `repalign rollout` wrote."
        ),
    ] = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html, profile.png, results.csv and results.json; with"
            " --inference for its text, figure, tables (Parquet) and resamples (netCDF)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a recording with models, layer by layer; ingests and records what is missing."""
    from repalign.choices import as_metric
    from repalign.cli.inferences import check_options, print_inferences
    from repalign.comparison import compare as run
    from repalign.inputs import (
        is_model_card,
        named_layers,
        open_inputs,
        split_words,
        with_patterns,
    )
    from repalign.tables import print_rows

    asked = {"subjects": subjects, "fit": fit, "interval": interval, "correction": correction}
    settings: dict[str, Any] = {
        name: value.value for name, value in asked.items() if value is not None
    }
    others: dict[str, Any] = {"--null-draws": null_draws, "--groups": groups}
    if ceiling is not CeilingChoice.auto:
        others["--ceiling"] = ceiling.value
    check_options(inference, settings, others)
    chosen = [as_metric(text) for text in metric or ["rsa"]]
    first, opened = open_inputs(
        dataset,
        models,
        conditions=select,
        layers=split_words(layers),
        device=device,
        visual_degrees=visual_degrees,
        on=on,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    seconds = named_layers(opened)
    if inference is not None:
        settings |= {"over": inference.value, "seed": seed, "device": device}
        settings |= {} if resamples is None else {"n_resamples": resamples}
        print_inferences(first, seconds, chosen, settings, out=out, as_json=as_json)
        return
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}  # each once, in order
    failure: ValueError | None = None
    for one in chosen:
        try:
            results = run(
                first,
                with_patterns(seconds, one),
                one,
                ceiling=ceiling.value,
                n_resamples=resamples,
                null_draws=null_draws,
                seed=seed,
                groups=groups,
                device=device,
                progress=True,
            )
        except ValueError as error:  # what other metrics found is not lost
            if len(chosen) == 1:
                raise
            failure = ValueError(f"{one.name}: {error}")
            print(f"error: {failure}", file=sys.stderr)
            continue
        rows += results.rows()
        notes[f"{one.name}: {results.note}"] = None
    if failure is not None and not rows:
        raise failure
    print("\n".join(notes), file=sys.stderr)
    drawn = {row["metric_parameters"].get("interval", "").rpartition(", ")[2] for row in rows}
    fewer = sorted(words for words in drawn - {"1000 resamples"} if words.endswith("resamples"))
    if resamples is None and fewer:
        print(
            f"intervals from {', '.join(fewer)}, to stay quick; --resamples 1000 takes more",
            file=sys.stderr,
        )
    print_rows(rows, as_json=as_json)
    if out is not None:
        from repalign.reporting import write_report
        from repalign.reporting.sources import citations, software

        cards = [model for model in models if is_model_card(model)]
        report_path = write_report(
            rows,
            out,
            title=f"{Path(dataset).stem} and {', '.join(Path(m).stem for m in models)}",
            provenance={
                "command": ["repalign", *sys.argv[1:]],
                "recording": str(first.attrs.get("fingerprint", "an array")),
                "matching": " | ".join(notes),
                **software(),
            },
            citations=citations(first, cards),
        )
        print(f"report: {report_path}", file=sys.stderr)
    if failure is not None:
        raise failure


def recipe(
    name: Annotated[
        str,
        typer.Argument(
            help="brainscore-majajhong2015-pls (:version=3 for the older ceiling), brainscore-rsa,"
            " nili2014 or kornblith2019.",
            autocompletion=complete_recipes,
        ),
    ],
    dataset: Dataset,
    models: Annotated[
        list[str],
        typer.Argument(
            help="Model cards, stores or arrays.",
            autocompletion=complete_models,
        ),
    ],
    layers: Layers = None,
    select: Select = None,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Score models by a published procedure, layer by layer, with its own ceiling."""
    from repalign.inputs import open_inputs, parse_recipe, split_words
    from repalign.tables import print_records

    run = parse_recipe(name)
    recording, opened = open_inputs(
        dataset,
        models,
        conditions=select,
        layers=split_words(layers),
        device=device,
        visual_degrees=visual_degrees,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    rows: list[dict[str, Any]] = []
    for model, found in opened.items():
        for layer, activations in found.items():
            score = run(recording, activations).row()
            rows.append({"model": model, "layer": layer, **score})
    if as_json:
        print_records(rows, (), as_json=True)
        return
    numbers = ("value", "raw", "error", "ceiling", "ceiling_high", "p")
    said = [name for name in numbers if any(row[name] is not None for row in rows)]
    for row in rows:
        row |= {name: None if row[name] is None else f"{row[name]:.3f}" for name in said}
    print_records(rows, ("model", "layer", *said), as_json=False)
    print("\n".join(dict.fromkeys(row["note"] for row in rows if row["note"])), file=sys.stderr)
