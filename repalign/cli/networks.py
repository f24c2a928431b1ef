"""Verbs for networks and their activations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from repalign.cli.options import (
    Degrees,
    Device,
    Json,
    Layers,
    Mirror,
    Offline,
    To,
    complete_datasets,
    complete_models,
)


def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model card or path of one (.toml).", autocompletion=complete_models
        ),
    ],
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """List the modules of a network: what each gives for one stimulus, and its size."""
    from repalign.layer_list import list_layers
    from repalign.memory import say_size
    from repalign.networks import load_network
    from repalign.tables import print_records

    network = load_network(model, to=to, mirror=mirror, offline=offline or None)
    rows = [dataclasses.asdict(layer) for layer in list_layers(network)]
    if not as_json:
        for row in rows:
            default = "default" if row["default"] else ""
            row["note"] = "; ".join(filter(None, (default, row["problem"])))
            row["shape"] = "×".join(map(str, row["shape"])) if row["shape"] else ""
            row["bytes"] = say_size(row["bytes"])
    shown = ("name", "kind", "shape", "units", "bytes", "parameters", "calls", "note")
    print_records(rows, shown, as_json=as_json)


def record(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model card or path of one (.toml); NAME@random is the untrained twin.",
            autocompletion=complete_models,
        ),
    ],
    stimuli: Annotated[
        str,
        typer.Option(
            help="Dataset whose images are shown: a card's name or path, or a store.",
            autocompletion=complete_datasets,
        ),
    ],
    layers: Layers = None,
    to: To = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Stimuli a forward pass; by default 32, or what fits.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Hard cap on what the process holds, such as 4GB.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the stored values: float32 or float16.")
    ] = "float32",
    autocast: Annotated[
        bool, typer.Option("--autocast", help="Compute in half precision on a GPU.")
    ] = False,
    rotate: Annotated[
        bool,
        typer.Option(
            "--rotate",
            help="For layers too large to keep: store each as one unit more than there are stimuli,"
            " with the same RDMs, CKA and predictions.",
        ),
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option(help="With --rotate: folder on a fast disk; by default where stores are."),
    ] = None,
    scratch_size: Annotated[
        str | None,
        typer.Option(help="With --rotate: what may lie there, such as 100GB; half of the free."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Share the stimuli out over so many processes, each with its own GPU."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Share them out over a Dask cluster: its address, tcp://HOST:PORT, or jobs such as"
            " slurm:jobs=4,cores=8,memory=32GB (pbs, lsf, sge, oar, htcondor)."
        ),
    ] = None,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show the stimuli of a dataset to a network and keep its activations; resumes."""
    from repalign.activations import record as run
    from repalign.inputs import split_words
    from repalign.opening import open_recording
    from repalign.tables import print_records

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = open_recording(stimuli, **where)
    how: dict[str, Any] = {
        "stimuli": recording,
        "layers": split_words(layers),
        "batch_size": batch_size,
        "device": device,
    }
    if rotate:
        from repalign.networks import load_network
        from repalign.rotations import rotated_layers

        if dtype != "float32" or autocast:
            raise ValueError("--dtype and --autocast do not apply to --rotate")
        if workers is not None or scheduler is not None:
            raise ValueError("--workers and --scheduler do not apply to --rotate")
        network = load_network(model, visual_degrees=visual_degrees, **where)
        how |= {"memory": memory or "4GB", "scratch": scratch, "scratch_size": scratch_size}
        found = rotated_layers(network, to=to, **how)
    elif scratch is not None or scratch_size is not None:
        raise ValueError("--scratch and --scratch-size go with --rotate")
    else:
        how |= {"memory": memory, "dtype": dtype, "autocast": autocast}
        how |= {"workers": workers, "scheduler": scheduler}
        found = run(model, visual_degrees=visual_degrees, **how, **where)
    rows: list[dict[str, Any]] = [
        {
            "layer": name,
            "stimuli": ds.sizes["presentation"],
            "units": ds.sizes["neuroid"],
            "shape": "×".join(map(str, ds.attrs["shape"])),
            "store": str(ds.attrs.get("store", "")),
        }
        for name, ds in found.items()
    ]
    print_records(rows, ("layer", "stimuli", "units", "shape"), as_json=as_json)
    if not as_json:
        print(f"store: {Path(rows[0]['store']).parent}")
