"""Are a layer's sparse features stable, and does a brain share them more than controls' features?

The controls: other seeds, the untrained network's autoencoder, principal components, raw units.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from repalign.autoencoders.components import principal_components
from repalign.autoencoders.files import autoencoder_features
from repalign.autoencoders.layout import layout_of
from repalign.autoencoders.matches import FeatureMatches
from repalign.autoencoders.matching import match_features
from repalign.autoencoders.results import TrainedAutoencoder
from repalign.autoencoders.training import train_autoencoder
from repalign.populations import parts_of

CHANCE_DRAWS = 20


@dataclass(frozen=True)
class Overlap:
    """How alike the directions of two autoencoders of one layer are.

    Args:
        max_cosine: cosine of each direction of the first with its nearest in the second, averaged.
        matched_cosine: the same where each direction has a partner of its own (Hungarian).
        chance: ``max_cosine`` of random directions with the second moments of the first's.
    """

    max_cosine: float
    matched_cosine: float
    chance: float


def direction_overlap(
    first: TrainedAutoencoder, second: TrainedAutoencoder, *, seed: int = 0
) -> Overlap:
    """Compare the directions of two autoencoders of one layer.

    ``mean over i of max over j of cos(dᵢ, eⱼ)``; |cos| where one of them holds principal
    components, whose sign says nothing. Dead features are left out.

    Args:
        first, second: of the same layer and layout.
        seed: of the random directions that say what chance gives.

    Raises:
        ValueError: different layers, or no living feature.

    Example:
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).numpy()
        >>> pca = principal_components(x, features=3, device="cpu")
        >>> round(direction_overlap(pca, pca).matched_cosine, 4)
        1.0

    Reference:
        Mean max cosine: Sharkey, Braun & Millidge 2022, Taking features out of superposition with
        sparse autoencoders (Alignment Forum, no DOI)
    """
    if first.layout != second.layout or any(
        first.source[key] != second.source[key] for key in ("model", "layer")
    ):
        raise ValueError(
            f"directions of {first.source['called']} {first.layout} and {second.source['called']}"
            f" {second.layout} are in different spaces; compare their features by match_features"
        )
    a, b = (_living(one) for one in (first, second))
    signed = "pca" not in (first.settings.kind, second.settings.kind)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(CHANCE_DRAWS):
        mixed = torch.randn(len(a), len(a), generator=generator) @ a
        mixed /= torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        draws.append(float(_cosines(mixed, b, signed=signed).amax(1).mean()))
    cosines = _cosines(a, b, signed=signed)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return Overlap(
        float(cosines.amax(1).mean()),
        float(cosines[rows, columns].mean()),
        sum(draws) / len(draws),
    )


def _living(trained: TrainedAutoencoder) -> Float[Tensor, "feature input"]:
    alive = torch.from_numpy(trained.report.train.density > 0)
    if not bool(alive.any()):
        raise ValueError(f"all features of {trained.settings.name} are dead: train it longer")
    return trained.network.directions.detach()[alive]


def _cosines(a: Tensor, b: Tensor, *, signed: bool) -> Float[Tensor, "first second"]:
    cosines = a @ b.mT
    return cosines if signed else cosines.abs()


@dataclass(frozen=True)
class FeatureStudy:
    """What `feature_study` found.

    Args:
        rows: one an area of the recording and population of features: network, kind, seed, how
            well it reconstructs, and how well it and the area match.
        overlaps: one a pair of autoencoders of one network.
        autoencoders: by network, kind and seed, such as ``trained topk-256 seed 0``.
        matches: by area and by the same names, and for raw units.
    """

    rows: tuple[dict[str, Any], ...]
    overlaps: tuple[dict[str, Any], ...]
    autoencoders: dict[str, TrainedAutoencoder]
    matches: dict[tuple[str, str], FeatureMatches]


def feature_study(
    trained: xr.Dataset,
    untrained: xr.Dataset,
    recording: xr.Dataset,
    *,
    features: int,
    seeds: Sequence[int] = (0, 1, 2),
    pool: str | None = None,
    permutations: int = 1000,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    **training: Any,
) -> FeatureStudy:
    """Ask which features a recording shares with a network, beside all controls.

    For a layer of a trained network and of its untrained twin: autoencoders of several seeds, as
    many principal components (or all that there are), and the raw units. Each is matched to the
    recording by |r|, so that components, whose sign says nothing, are on a par.

    Args:
        trained, untrained: the same layer of both networks.
        recording: each (species, region, subject) of it is an area, matched on its own.
        features: how many an autoencoder has.
        seeds: of the autoencoders, which all hold out the same stimuli.
        pool: of features over positions, where each is a sample.
        permutations: of the matching's null.
        checkpoints: folder of the trainings' checkpoints (`checkpoint_of` names them), so that a
            study that was killed goes on; remove it once the study is done.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show progress bars on stderr.
        **training: what else `train_autoencoder` takes, such as ``k``.

    Raises:
        ValueError: fewer than 2 seeds, or what training and matching raise.

    Example:
        >>> found = feature_study(acts, twin, it, features=512, k=16)   # doctest: +SKIP
        >>> [row["neuroids_held_out"] for row in found.rows]            # doctest: +SKIP
    """
    if len(set(seeds)) < 2:
        raise ValueError(f"seeds are {tuple(seeds)}; overlap between seeds needs 2 or more")
    for name, many in (("seed", "seeds"), ("checkpoint", "checkpoints")):
        if name in training:
            raise ValueError(f"{name} is of one training; give all of them by {many}=")
    shared = ("samples", "channel_axis", "holdout", "split_seed")
    same = {name: training[name] for name in shared if name in training}
    rows: list[dict[str, Any]] = []
    overlaps: list[dict[str, Any]] = []
    autoencoders: dict[str, TrainedAutoencoder] = {}
    matches: dict[tuple[str, str], FeatureMatches] = {}
    areas = {" ".join(filter(None, target)): part for target, part in parts_of(recording)}

    def add(name: str, row: dict[str, Any], layer: xr.Dataset) -> None:
        for area, part in areas.items():
            found = match_features(
                layer, part, signed=False, permutations=permutations, device=device
            )
            matches[area, name] = found
            rows.append({"area": area, **row, **found.summary()})

    for network, layer in (("trained", trained), ("untrained", untrained)):
        own: dict[str, TrainedAutoencoder] = {}
        for seed in seeds:
            found = train_autoencoder(
                layer,
                features=features,
                seed=seed,
                checkpoint=checkpoints and checkpoint_of(checkpoints, network, seed),
                device=device,
                progress=progress,
                **training,
            )
            own[f"{network} {found.settings.name} seed {seed}"] = found
        first = next(iter(own.values()))
        most = min(features, first.layout.n_inputs, first.report.train.n_samples - 1)
        pca = principal_components(layer, features=most, device=device, **same)
        own[f"{network} {pca.settings.name}"] = pca
        for name, one in own.items():
            add(name, _row(network, one), autoencoder_features(one, layer, pool=pool))
        if layout_of(layer, "flat", None) == first.layout:
            units = {"network": network, "kind": "units", "features": first.layout.n_inputs}
            add(f"{network} units", {**_row(network, None), **units}, layer)
        for left, right in itertools.combinations(own, 2):
            alike = direction_overlap(own[left], own[right])
            overlaps.append({"first": left, "second": right, **vars(alike)})
        autoencoders |= own
    return FeatureStudy(tuple(rows), tuple(overlaps), autoencoders, matches)


def checkpoint_of(folder: str | Path, network: str, seed: int) -> Path:
    """The checkpoint of one training of a study."""
    return Path(folder) / f"{network}-seed-{seed}.safetensors"


def _row(network: str, found: TrainedAutoencoder | None) -> dict[str, Any]:
    """What a row says of the autoencoder itself; raw units have none."""
    if found is None:
        names = ("kind", "seed", "features", "explained_variance", "l0", "dead_fraction")
        return {"network": network, **dict.fromkeys(names)}
    report = found.report
    part = report.held_out or report.train
    return {
        "network": network,
        "kind": found.settings.kind,
        "seed": None if found.settings.kind == "pca" else found.settings.seed,
        "features": found.settings.features,
        "explained_variance": part.explained_variance,
        "l0": part.l0,
        "dead_fraction": report.dead_fraction,
    }
