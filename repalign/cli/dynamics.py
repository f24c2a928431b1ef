"""The verb that compares along time."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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

FEW_SUBJECTS = 6  # whose bootstrap gives intervals that are too narrow


class Over(StrEnum):
    """What the clusters are tested over."""

    subjects = "subjects"
    stimuli = "stimuli"
    none = "none"


def dynamics(
    dataset: Dataset,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Networks (NAME@random: the untrained twin), stores or arrays; none: the recording"
            " with itself, time by time.",
            autocompletion=complete_models,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="rsa or cka; parameters follow a colon: rsa:rdm=crossnobis,model_rdm=euclidean.",
            autocompletion=complete_metrics,
        ),
    ] = "rsa",
    layers: Layers = None,
    select: Select = None,
    by_layer: Annotated[
        bool,
        typer.Option(
            "--by-layer",
            help="Take the order of the layers (or of a network's steps, V4@t=*) for a second time"
            " axis, with clusters over both.",
        ),
    ] = False,
    over: Annotated[
        Over | None,
        typer.Option(
            help="Test clusters over subjects (sign flips), over stimuli (permutations), or not;"
            " by default over subjects where every region has two or more, else over stimuli."
        ),
    ] = None,
    permutations: Annotated[
        int, typer.Option(help="Permutations of the stimuli, for --over stimuli.")
    ] = 999,
    alpha: Annotated[float, typer.Option(help="Level of the clusters that are drawn.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of split halves, sign flips and permutations.")] = 0,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the figure (png), values.csv and clusters.csv."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a recording with models in every time bin, or one time with another."""
    from repalign.choices import as_metric
    from repalign.dynamics import (
        cluster_table,
        cross_temporal,
        latency_table,
        time_clusters,
        time_resolved,
    )
    from repalign.inputs import named_layers, open_inputs, split_words
    from repalign.tables import print_records

    if by_layer and not models:
        raise ValueError("--by-layer takes the layers of models for time; name a model")
    chosen = as_metric(metric)
    recording, opened = open_inputs(
        dataset,
        models or [],
        conditions=select,
        layers=split_words(layers),
        device=device,
        visual_degrees=visual_degrees,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    seconds = named_layers(opened)
    alone = _has_a_lone_subject(recording)
    how = over or (Over.stimuli if alone else Over.subjects)
    settings: dict[str, Any] = {
        "n_permutations": permutations if how == Over.stimuli else 0,
        "seed": seed,
        "device": device,
        "progress": True,
    }
    if seconds and not by_layer:
        result = time_resolved(recording, seconds, chosen, **settings)
    else:
        result = cross_temporal(recording, seconds or None, chosen, **settings)
    clusters = None
    if how != Over.none:
        over_subjects = how == Over.subjects
        clusters = time_clusters(result, over="subjects" if over_subjects else "stimuli", seed=seed)
    if seconds and not by_layer and not as_json:
        latencies = latency_table(result)
        print_records(
            _records(_rounded(latencies)),
            ("region", "layer", "peak", "peak_ms", "onset_ms", "onset_low", "onset_high"),
            as_json=False,
        )
        if 1 < latencies["n_subjects"].min() < FEW_SUBJECTS:
            print(
                "intervals of onsets are over subjects, and too narrow with so few of them",
                file=sys.stderr,
            )
    table = None if clusters is None else cluster_table(clusters)
    if table is not None and clusters is not None:
        shown = [c for c in table.columns if c not in ("smallest_p", "kind")]
        print_records(
            _records(table.round(4) if as_json else _rounded(table)), shown, as_json=as_json
        )
        least = clusters.attrs["smallest_p"]
        print(f"{clusters.attrs['kind']}; smallest possible p: {least:.3g}", file=sys.stderr)
        if least > alpha:
            print(
                f"nothing can be significant at {alpha:g}: there are too few subjects; add"
                " --over stimuli, which tests whether there is a relation in these subjects",
                file=sys.stderr,
            )
    elif as_json:
        print_records(_records(result["value"].to_dataframe().reset_index()), (), as_json=True)
    if out is not None:
        _write(out, result, clusters, table, alpha=alpha, by_time=by_layer or not seconds)


def _rounded(table: Any) -> Any:
    """Times to a tenth of a millisecond, all else to four digits."""
    times = ("_ms", "_ms_", "_low", "_high")
    return table.round({c: 1 if str(c).endswith(times) else 4 for c in table.columns})


def _records(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_dict("records")
    return rows


def _has_a_lone_subject(recording: Any) -> bool:
    """Whether a region was recorded in one subject only, or has no time bins."""
    from repalign.recording import targets

    if "region" not in recording.coords:
        return True
    regions = [target[:2] for target, _ in targets(recording)]
    return any(regions.count(region) < 2 for region in regions)


def _write(
    out: Path, result: Any, clusters: Any, table: Any, *, alpha: float, by_time: bool
) -> None:
    from repalign.reporting.figures import save_figure
    from repalign.reporting.time_courses import plot_time_course
    from repalign.reporting.time_maps import plot_time_by_time
    from repalign.store import write_file

    out.mkdir(parents=True, exist_ok=True)
    draw = plot_time_by_time if by_time else plot_time_course
    name = "time_by_time.png" if by_time else "time_course.png"
    path = save_figure(draw(result, clusters, alpha=alpha), out / name)
    values = result.drop_vars("null", errors="ignore").to_dataframe().reset_index()
    write_file(out / "values.csv", values.to_csv(index=False).encode())
    if table is not None:
        write_file(out / "clusters.csv", table.to_csv(index=False).encode())
    print(f"figure: {path}", file=sys.stderr)
