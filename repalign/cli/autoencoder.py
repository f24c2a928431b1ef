"""The verb that learns sparse features of a recorded layer, and matches them to a recording."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repalign.cli.options import Device, Json, Mirror, Offline, Select, complete_datasets

if TYPE_CHECKING:
    import xarray as xr

    from repalign.autoencoders.matches import FeatureMatches
    from repalign.autoencoders.results import TrainedAutoencoder

CHECKPOINTS = "checkpoints"  # a folder in --to, until all is done
BEST = 10  # neuroids that are printed


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
            help="Folder for autoencoder.safetensors, features.zarr, report.html and .json and,"
            " with --recording, matches.json. The same command goes on after a stop."
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
    untrained: Annotated[
        str | None,
        typer.Option(
            help="The untrained network's layer, STORE/LAYER: judge the features beside other"
            " seeds, this network's features, principal components and units (study/report.html)."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="With --untrained: how many seeds.")] = 3,
    mirror: Mirror = None,
    offline: Offline = False,
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what stands in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn sparse features of a layer (topk, l1; pca: the control) and match them to neuroids."""
    from repalign.autoencoders.files import autoencoder_features, save_autoencoder
    from repalign.autoencoders.matching import match_features
    from repalign.inputs import open_selected
    from repalign.opening import open_recording
    from repalign.populations import shared_stimuli
    from repalign.reporting.autoencoder_page import best_matched, write_autoencoder_report
    from repalign.store import write_file
    from repalign.tables import print_records

    for option, value in (("--select", select), ("--untrained", untrained)):
        if value and recording is None:
            raise ValueError(f"{option} goes with a recording: give --recording NAME too")
    trained_only: dict[str, Any] = {
        "k": k,
        "sparsity": sparsity,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    given = {name: value for name, value in trained_only.items() if value is not None}
    if kind is Kind.pca and (given or untrained):
        name = next(iter(given), "untrained").replace("_", "-")
        raise ValueError(f"--{name} does not apply to principal components; leave it out")
    files = [to / name for name in ("autoencoder.safetensors", "features.zarr")]
    checkpoint = None
    if kind is not Kind.pca:
        checkpoint = to / CHECKPOINTS / f"trained-seed-{seed or 0}.safetensors"
    there = [str(file) for file in files if file.exists()]
    goes_on = checkpoint is not None and checkpoint.exists()
    if there and not overwrite and not goes_on:
        raise FileExistsError(f"{there[0]} exists; pass --overwrite to replace it")
    brain = None
    if recording is not None:  # what cannot be read is said before training
        brain = open_selected(recording, select, mirror=mirror, offline=offline or None)
    activations = open_recording(layer)
    twin = None if untrained is None else open_recording(untrained)
    if brain is not None:
        shared_stimuli(brain, activations)  # an error, where there are none, comes before training
    shared: dict[str, Any] = {
        "features": features,
        "samples": samples.value,
        "channel_axis": channel_axis,
        "holdout": holdout,
        "device": device,
    }
    options = {"kind": kind.value, **shared, **given}
    found = _learn(activations, options, checkpoint, overwrite=overwrite)
    save_autoencoder(files[0], found)
    row = {"layer": found.source["called"], "name": found.settings.name, **found.report.row()}
    write_file(to / "report.json", json.dumps({**row, "history": found.history}, indent=1))
    way = None if pool is None else pool.value
    own = autoencoder_features(
        found, activations, pool=way, to=files[1], overwrite=overwrite or goes_on, device=device
    )
    matches = None
    best: list[dict[str, Any]] = []
    if brain is not None:
        matches = match_features(
            own, brain, permutations=permutations, signed=kind is not Kind.pca, device=device
        )
        sides = {"features": matches.features.rows(), "neuroids": matches.neuroids.rows()}
        write_file(to / "matches.json", json.dumps(sides, indent=1))
        row |= {"n_stimuli": matches.n_stimuli, **matches.summary()}
        best = best_matched(matches.neuroids, BEST)
    command = shlex.join(["repalign", *sys.argv[1:]])
    page = write_autoencoder_report(
        found, to, matches=matches, recording=recording or "", command=command
    )
    row |= {"features_store": str(files[1]), "report": str(page)}
    judged = ""
    if twin is not None:
        assert brain is not None
        of_study = {name: value for name, value in options.items() if name != "seed"}
        run = range(seed or 0, (seed or 0) + seeds)
        page, judged = _judge(
            activations, twin, brain, to, command,
            seeds=run, pool=way, permutations=permutations, **of_study,
        )  # fmt: skip
        row["study"] = str(page)
    _remove_checkpoints(to)
    if as_json:
        print_records([{k: _plain(v) for k, v in row.items()}], (), as_json=True)
        return
    _say(found, matches, best, judged)
    print("\nfiles:", *(f"  {path}" for path in (*files, row["report"], row.get("study")) if path),
          sep="\n")  # fmt: skip


def _learn(
    activations: xr.Dataset, options: dict[str, Any], checkpoint: Path | None, *, overwrite: bool
) -> TrainedAutoencoder:
    """Train, or go on; a checkpoint of another training gives way where that was asked for."""
    from repalign.autoencoders.checkpoints import CheckpointError
    from repalign.autoencoders.components import principal_components
    from repalign.autoencoders.training import train_autoencoder

    if checkpoint is None:
        components = {name: value for name, value in options.items() if name != "kind"}
        return principal_components(activations, **components)
    try:
        return train_autoencoder(activations, checkpoint=checkpoint, progress=True, **options)
    except CheckpointError as error:
        if not overwrite:
            raise ValueError(f"{error}, or pass --overwrite") from error
        print(f"training begins anew: {error}", file=sys.stderr)
    _remove_checkpoints(checkpoint.parent.parent)
    return train_autoencoder(activations, checkpoint=checkpoint, progress=True, **options)


def _remove_checkpoints(to: Path) -> None:
    """Remove what training has left for a run that goes on."""
    folder = to / CHECKPOINTS
    if folder.is_dir():
        for file in folder.glob("*trained-seed-*.safetensors*"):  # and what a killed write left
            file.unlink()
        with contextlib.suppress(OSError):  # somebody else's file is left alone
            folder.rmdir()


def _judge(
    trained: xr.Dataset,
    untrained: xr.Dataset,
    brain: xr.Dataset,
    to: Path,
    command: str,
    **options: Any,
) -> tuple[Path, str]:
    """Run the study of all controls; its page, and what it says."""
    from repalign.autoencoders.study import feature_study
    from repalign.reporting.feature_study_page import study_summary, write_feature_study_report

    study = feature_study(
        trained, untrained, brain, checkpoints=to / CHECKPOINTS, progress=True, **options
    )
    return write_feature_study_report(study, to / "study", command=command), study_summary(study)


def _say(
    found: TrainedAutoencoder,
    matches: FeatureMatches | None,
    best: Sequence[Mapping[str, Any]],
    judged: str,
) -> None:
    """Print what was found in sentences, and the neuroids that are matched best."""
    from repalign.reporting.autoencoder_page import MATCHES, summary_text
    from repalign.tables import print_table

    print(f"{found.settings.name} of {found.source['called']}\n")
    if matches is not None and best:
        rows = [{head: _rounded(row[name]) for name, head in MATCHES.items()} for row in best]
        print_table(rows, list(MATCHES.values()))
        print()
    print(summary_text(found, matches))
    if judged:
        print(f"\n{judged}")


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    """What strict JSON can hold: NaN is null."""
    return None if isinstance(value, float) and math.isnan(value) else value
