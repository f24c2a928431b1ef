"""The verb that learns sparse features of a recorded layer, and matches them to a recording."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from repalign.cli.options import Device, Json, Mirror, Offline, Select, complete_datasets


class Kind(StrEnum):
    """How features are kept sparse."""

    topk = "topk"
    l1 = "l1"
    pca = "pca"


class Samples(StrEnum):
    """What of a layer is one sample."""

    flat = "flat"
    positions = "positions"
    mean = "mean"


class Pool(StrEnum):
    """How features at many positions become one."""

    max = "max"
    mean = "mean"


def autoencoder(
    layer: Annotated[
        str, typer.Argument(help="A recorded layer, STORE/LAYER, as `repalign record` names it.")
    ],
    to: Annotated[
        Path,
        typer.Option(
            help="Folder for autoencoder.safetensors, report.json, features.zarr and, with"
            " --recording, matches.json."
        ),
    ],
    features: Annotated[int, typer.Option(help="How many features to learn.")],
    kind: Annotated[
        Kind, typer.Option(help="topk, l1, or pca for principal components.")
    ] = Kind.topk,
    k: Annotated[int | None, typer.Option(help="Features a sample, of topk.")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Weight of the penalty, of l1; such as 1.0.")
    ] = None,
    samples: Annotated[
        Samples,
        typer.Option(
            help="The layer as a whole (flat), its channels at each of its positions, or their"
            " mean over positions."
        ),
    ] = Samples.flat,
    channel_axis: Annotated[
        int | None, typer.Option(help="Axis of channels in the layer's shape.")
    ] = None,
    pool: Annotated[
        Pool | None, typer.Option(help="Of features over positions: max or mean.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of training; by default 3000.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step; by default 256.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam; by default 1e-3.")] = None,
    holdout: Annotated[
        float, typer.Option(help="Stimuli held out: a share below 1, or a number.")
    ] = 0.1,
    seed: Annotated[
        int | None, typer.Option(help="Of first weights and order; by default 0.")
    ] = None,
    recording: Annotated[
        str | None,
        typer.Option(
            help="Match the features to the neuroids of this dataset or store.",
            autocompletion=complete_datasets,
        ),
    ] = None,
    select: Select = None,
    permutations: Annotated[int, typer.Option(help="Of stimuli, for the match's null.")] = 1000,
    mirror: Mirror = None,
    offline: Offline = False,
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what stands in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn sparse features of a layer (topk, l1; pca: the control) and match them to neuroids."""
    from repalign.autoencoders.components import principal_components
    from repalign.autoencoders.files import autoencoder_features, save_autoencoder
    from repalign.autoencoders.training import train_autoencoder
    from repalign.inputs import open_selected
    from repalign.opening import open_recording
    from repalign.populations import shared_stimuli
    from repalign.store import write_file
    from repalign.tables import print_records

    if select and recording is None:
        raise ValueError("--select is of the recording: give --recording NAME too")
    files = [to / name for name in ("autoencoder.safetensors", "features.zarr")]
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists; pass --overwrite to replace it")
    brain = None
    if recording is not None:  # what cannot be read is said before training
        brain = open_selected(recording, select, mirror=mirror, offline=offline or None)
    activations = open_recording(layer)
    if brain is not None:
        shared_stimuli(brain, activations)  # an error, where there are none, comes before training
    trained_only: dict[str, Any] = {
        "k": k,
        "sparsity": sparsity,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    given = {name: value for name, value in trained_only.items() if value is not None}
    shared: dict[str, Any] = {
        "features": features,
        "samples": samples.value,
        "channel_axis": channel_axis,
        "holdout": holdout,
        "device": device,
    }
    if kind is Kind.pca:
        if given:
            name = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{name} does not apply to principal components; leave it out")
        found = principal_components(activations, **shared)
    else:
        found = train_autoencoder(activations, kind=kind.value, progress=True, **shared, **given)
    save_autoencoder(files[0], found)
    row = {"layer": found.source["called"], "name": found.settings.name, **found.report.row()}
    write_file(to / "report.json", json.dumps({**row, "history": found.history}, indent=1))
    own = autoencoder_features(
        found,
        activations,
        pool=None if pool is None else pool.value,
        to=files[1],
        overwrite=overwrite,
        device=device,
    )
    if brain is not None:
        from repalign.autoencoders.matching import match_features

        matches = match_features(
            own, brain, permutations=permutations, signed=kind is not Kind.pca, device=device
        )
        sides = {"features": matches.features.rows(), "neuroids": matches.neuroids.rows()}
        write_file(to / "matches.json", json.dumps(sides, indent=1))
        row |= {"n_stimuli": matches.n_stimuli, **matches.summary()}
    row["features_store"] = str(files[1])
    if as_json:
        print_records([row], (), as_json=True)
        return
    if brain is not None:
        best = sorted(sides["neuroids"], key=lambda one: -(one["held_out"] or -2))[:10]
        shown = [
            {key: round(v, 3) if isinstance(v, float) else v for key, v in one.items()}
            for one in best
        ]
        print(f"{matches.n_stimuli} stimuli; the neuroids that are matched best (held out):")
        print_records(shown, ("name", "partner", "held_out", "r", "p", "q"), as_json=False)
    for key, value in row.items():
        print(f"{key.replace('_', ' ')}: {round(value, 4) if isinstance(value, float) else value}")
