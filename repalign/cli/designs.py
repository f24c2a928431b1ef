"""Verbs that choose layers of regions, and plan how many stimuli and subjects it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import (
    Dataset,
    Degrees,
    Device,
    Json,
    Layers,
    Mirror,
    Offline,
    Select,
    To,
    complete_metrics,
    complete_models,
)

Model = Annotated[
    str,
    typer.Argument(
        help="A model card, a store, or a file of features.", autocompletion=complete_models
    ),
]


def map_layers(
    dataset: Dataset,
    model: Model,
    regions: Annotated[
        str | None, typer.Option(help="Regions, separated by commas; all by default.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="As `repalign compare` takes it, such as cka or rsa:comparator=corr.",
            autocompletion=complete_metrics,
        ),
    ] = "rsa",
    disjoint: Annotated[
        str,
        typer.Option(
            help="What the choice must not share with the score: stimuli, subjects, both."
        ),
    ] = "stimuli",
    folds: Annotated[int, typer.Option(help="Folds of the stimuli.")] = 5,
    groups: Annotated[
        str | None,
        typer.Option(help="Coordinate whose values a fold holds whole (object, session)."),
    ] = None,
    permutations: Annotated[
        int | None,
        typer.Option(
            help="Permutations of the stimuli for the p value; 0: none. By default 1000 where they"
            " are quick (rsa, cka)."
        ),
    ] = None,
    commitment: Annotated[
        Path | None,
        typer.Option(
            help="Choose nothing: score the layers of this commitment file on these data."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the choice to this .toml file, to publish and reuse it."),
    ] = None,
    layers: Layers = None,
    select: Select = None,
    seed: Annotated[int, typer.Option(help="Of folds and permutations.")] = 0,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Find the layer of each region on one part of the data, and score it on another."""
    from repalign.choices import as_metric
    from repalign.inputs import open_inputs, open_part, split_words
    from repalign.layer_regions import (
        committed_regions,
        read_commitment,
        score_commitment,
        write_commitment,
    )
    from repalign.layer_regions import (
        map_layers as run,
    )
    from repalign.tables import print_records, print_rows

    if commitment is not None and out is not None:
        raise ValueError("--commitment scores a choice and --out writes one; give one of them")
    chosen = None if commitment is None else read_commitment(commitment)
    chosen_metric = as_metric(metric)
    wanted = split_words(layers)
    if chosen is not None:  # before a network is shown anything
        where = {"to": to, "mirror": mirror, "offline": offline or None}
        committed_regions(chosen, open_part(dataset, select, where))
    if chosen is not None and wanted is None:
        wanted = list(dict.fromkeys(chosen.layers.values()))
    recording, opened = open_inputs(
        dataset,
        [model],
        conditions=select,
        layers=wanted,
        device=device,
        visual_degrees=visual_degrees,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    found = opened[model]
    if chosen is not None:
        results = score_commitment(chosen, recording, found, seed=seed, device=device)
        print(results.note, file=sys.stderr)
        print_rows(results.rows(), as_json=as_json)
        return
    mapping = run(
        recording,
        found,
        chosen_metric,
        regions=split_words(regions),
        disjoint=disjoint,  # type: ignore[arg-type]  # checked there, with the choices
        folds=folds,
        groups=groups,
        n_permutations=permutations,
        seed=seed,
        device=device,
        progress=True,
    )
    rows = mapping.rows()
    if as_json:
        print_records(rows, (), as_json=True)
    else:
        print(mapping)
    if out is not None:
        print(f"commitment: {write_commitment(mapping, out)}", file=sys.stderr)


def power(
    dataset: Dataset,
    model: Model,
    layers: Annotated[
        str, typer.Option(help="The two layers to tell apart, with a comma between.")
    ],
    stimuli: Annotated[str, typer.Option(help="Numbers of stimuli, with commas: 20,40,80.")],
    subjects: Annotated[str, typer.Option(help="Numbers of subjects, with commas.")],
    repetitions: Annotated[
        str, typer.Option(help="Numbers of sessions a subject, with commas.")
    ] = "1",
    test: Annotated[
        str, typer.Option(help="two-factor (new stimuli and subjects), stimuli, or subjects.")
    ] = "two-factor",
    rdm: Annotated[str, typer.Option(help="correlation or euclidean.")] = "correlation",
    comparator: Annotated[str, typer.Option(help="Of RDMs, such as corr or spearman.")] = "corr",
    alpha: Annotated[float, typer.Option(help="Level of the test.")] = 0.05,
    simulations: Annotated[int, typer.Option(help="Simulated data sets a design.")] = 200,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of each.")] = 200,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    select: Select = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the power curves to this .png, .pdf or .svg file.")
    ] = None,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Simulate how many stimuli, subjects and sessions tell two layers apart, from a pilot."""
    from repalign.designs import power as run
    from repalign.inputs import open_inputs, split_words
    from repalign.pilots import pilot_rdms
    from repalign.tables import print_records

    sizes = {
        "n_stimuli": _numbers(stimuli, "--stimuli"),
        "n_subjects": _numbers(subjects, "--subjects"),
        "repetitions": _numbers(repetitions, "--repetitions"),
    }
    recording, opened = open_inputs(
        dataset,
        [model],
        conditions=select,
        layers=split_words(layers),
        device=device,
        visual_degrees=visual_degrees,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    found = opened[model]
    pilot, of_layers = pilot_rdms(recording, found, method=rdm)
    result = run(
        pilot,
        of_layers,
        **sizes,
        test=test,
        comparator=comparator,
        alpha=alpha,
        n_simulations=simulations,
        n_resamples=resamples,
        seed=seed,
        progress=True,
    )
    rows = [{**row, "layers": list(found)} for row in result.rows()]
    if not as_json:
        print(
            f"{' less '.join(found)}: {result.pilot_difference:.3f} ± {result.pilot_reach:.3f}"
            f" (95 %, over stimuli and subjects) in the pilot by {comparator}, all its sessions"
            f" averaged; below, what a design finds on average. {result.claim}",
            file=sys.stderr,
        )
        for row in rows:
            row["interval"] = f"{row['low']:.2f} to {row['high']:.2f}"
            row["smallest_p"] = f"{row['smallest_p']:.2g}" if row["smallest_p"] else "none"
            row["difference"] = f"{row['mean_difference']:.3f}"
    columns = (
        "n_stimuli",
        "n_subjects",
        "repetitions",
        "power",
        "interval",
        "difference",
        "smallest_p",
    )
    print_records(rows, columns, as_json=as_json)
    least = result.least(0.8)
    if least is not None and not as_json:
        print(
            f"fewest presentations with a power of .8: {least.n_stimuli} stimuli,"
            f" {least.n_subjects} subjects, {least.repetitions} sessions each",
            file=sys.stderr,
        )
    if out is not None:
        from repalign.reporting.figures import save_figure
        from repalign.reporting.power_figure import power_curves

        print(f"figure: {save_figure(power_curves(result), out)}", file=sys.stderr)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}; expected whole numbers such as 20,40") from error
