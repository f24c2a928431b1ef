"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class CeilingChoice(StrEnum):
    """Which noise ceiling."""

    auto = "auto"
    split_half = "split-half"
    nili = "nili"
    none = "none"


class OverChoice(StrEnum):
    """What an inference generalises over."""

    stimuli = "stimuli"
    subjects = "subjects"
    both = "both"


class SubjectsChoice(StrEnum):
    """Whether subjects have values of their own."""

    random = "random"
    pooled = "pooled"


class FitChoice(StrEnum):
    """What is fitted of a model's layers."""

    fixed = "fixed"
    weights = "weights"
    select = "select"
    interpolate = "interpolate"


class IntervalKind(StrEnum):
    """Which confidence interval."""

    t = "t"
    percentile = "percentile"
    bca = "bca"


class CorrectionChoice(StrEnum):
    """How p values are corrected for many models."""

    holm = "holm"
    benjamini_hochberg = "benjamini-hochberg"
    max_t = "max-t"
    none = "none"


def complete_datasets(incomplete: str) -> list[str]:
    """Return the names of dataset cards that begin so."""
    from repalign.cards import list_cards

    return [name for name in list_cards("dataset") if name.startswith(incomplete)]


def complete_models(incomplete: str) -> list[str]:
    """Return the names of model cards that begin so."""
    from repalign.cards import list_cards

    return [name for name in list_cards("model") if name.startswith(incomplete)]


def complete_metrics(incomplete: str) -> list[str]:
    """Return the names of metrics that begin so."""
    from repalign.metrics import METRICS

    return [name for name in METRICS if name.startswith(incomplete)]


def complete_recipes(incomplete: str) -> list[str]:
    """Return the names of recipes that begin so."""
    from repalign.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


Dataset = Annotated[
    str,
    typer.Argument(
        help="Name of a dataset card, path of a card (.toml), a store (.zarr, .zarr.zip or URL)"
        " or an array (.npy, .npz, .csv).",
        autocompletion=complete_datasets,
    ),
]
DatasetCardName = Annotated[
    str,
    typer.Argument(
        help="Name of a dataset card, or path of one (.toml).", autocompletion=complete_datasets
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        help="Folder of the stores; by default $REPALIGN_CACHE, else the user's cache folder."
        " Recordings may also go to a URL, such as s3://bucket/folder."
    ),
]
Mirror = Annotated[
    Path | None,
    typer.Option(help="Folder searched for files before the network; by default $REPALIGN_MIRROR."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network; also by $REPALIGN_OFFLINE=1.")
]
Layers = Annotated[
    str | None,
    typer.Option(help="Layers, separated by commas; * matches, 'all' is every leaf module."),
]
Select = Annotated[
    list[str] | None,
    typer.Option(help="Part of the recording, such as region=IT or subject=BE,KO."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Degrees = Annotated[
    float | None,
    typer.Option(help="Width of the network's input in degrees of visual angle."),
]
