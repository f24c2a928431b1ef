"""A simulated neural population with known ground truth, read out of a network layer.

It is the fixture of tests and of `repalign demo`: which layer the population was read from is
known, so is its noise-free response, and so is the reliability of every neuroid.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from repalign.hooks import capture
from repalign.networks import load_network, preprocess
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png
from repalign.store import building, write_file

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Population:
    """Simulated responses with their ground truth.

    Args:
        responses: repetition × stimulus × neuroid.
        rates: noise-free responses, stimulus × neuroid.
        reliability: of the average over repetitions, a neuroid: the share of its variance over
            stimuli that is signal, var(rate) / (var(rate) + noise variance / repetitions).
    """

    responses: Float[np.ndarray, "repetition stimulus neuroid"]
    rates: Float[np.ndarray, "stimulus neuroid"]
    reliability: Float[np.ndarray, " neuroid"]


def _softplus(drive: Array) -> Array:
    return np.logaddexp(0.0, drive)


def _relu(drive: Array) -> Array:
    return np.maximum(drive, 0.0)


def _linear(drive: Array) -> Array:
    return drive


NONLINEARITIES: dict[str, Callable[[Array], Array]] = {
    "softplus": _softplus,
    "relu": _relu,
    "linear": _linear,
}


def simulate(
    features: Float[np.ndarray, "stimulus unit"],
    *,
    n_neuroids: int = 168,
    repetitions: int = 6,
    noise: Literal["poisson", "gaussian"] = "poisson",
    mean_count: float = 5.0,
    noise_sd: float = 1.0,
    nonlinearity: str = "softplus",
    seed: int = 0,
) -> Population:
    """Simulate neuroids that each read out a random mixture of a layer's units.

    With features F less each stimulus' mean over units, and standard normal weights W, the
    drive F·W is scaled to a mean variance of 1 over stimuli and passed through the nonlinearity
    f:

        rate = c · f(F·W),   count ~ Poisson(rate)    or    rate + noise_sd · sd(rate) · N(0, 1)

    where c sets the mean rate of the population to ``mean_count``. A dense random readout keeps
    the layer's distances, and the pattern that all stimuli share is kept too, so correlation
    distances (which it enters) as well as Euclidean ones are those of the layer.

    Args:
        features: activations of the layer that is planted.
        n_neuroids: size of the population.
        repetitions: presentations of each stimulus.
        noise: of single trials.
        mean_count: mean response; under Poisson noise the fewer, the noisier.
        noise_sd: for gaussian noise, in units of each neuroid's signal standard deviation.
        nonlinearity: ``softplus``, ``relu`` or ``linear`` (gaussian noise only).
        seed: of readout and noise.

    Raises:
        ValueError: fewer than 2 stimuli, an unknown choice, or a linear Poisson population.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(20, 50))
        >>> simulate(features, n_neuroids=10).responses.shape
        (6, 20, 10)
    """
    if len(features) < 2:
        raise ValueError(f"features has {len(features)} stimuli, expected 2 or more")
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity {nonlinearity!r}; expected {', '.join(NONLINEARITIES)}")
    if noise not in ("poisson", "gaussian"):
        raise ValueError(f"noise {noise!r}; expected poisson or gaussian")
    if noise == "poisson" and nonlinearity == "linear":
        raise ValueError("Poisson rates cannot be negative; use softplus or relu")
    random = np.random.default_rng(seed)
    centred = features - features.mean(axis=1, keepdims=True, dtype=np.float64)
    drive = centred @ random.standard_normal((features.shape[1], n_neuroids))
    spread = float(np.sqrt(drive.var(axis=0).mean()))
    if spread == 0:
        raise ValueError("the features are the same for all stimuli: there is nothing to read out")
    drive /= spread
    rates = NONLINEARITIES[nonlinearity](drive)
    rates = rates * mean_count / np.abs(rates).mean()
    signal = rates.var(axis=0)
    if noise == "poisson":
        responses = random.poisson(rates, size=(repetitions, *rates.shape)).astype(np.float64)
        trial_variance = rates.mean(axis=0)
    else:
        trial_sd = noise_sd * rates.std(axis=0)
        responses = rates + trial_sd * random.standard_normal((repetitions, *rates.shape))
        trial_variance = trial_sd**2
    reliability = signal / (signal + trial_variance / repetitions)
    return Population(responses, rates, reliability)


def layer_features(
    model: str, layer: str, images: Sequence[Array], *, batch_size: int = 32
) -> Float[np.ndarray, "stimulus unit"]:
    """Activations of one layer to images, kept in memory."""
    network = load_network(model)
    rows = []
    with torch.inference_mode(), capture(network.module, [layer]) as seen:
        for start in range(0, len(images), batch_size):
            batch = [
                preprocess(image, network.preprocessing)
                for image in images[start : start + batch_size]
            ]
            network.module(torch.stack(batch))
            rows.append(seen[layer].flatten(1).numpy())
    return np.concatenate(rows)


def write_simulated_dataset(
    folder: str | Path,
    *,
    name: str = "simulated_it",
    model: str = "efficientnet_lite0",
    layer: str = "blocks.5",
    n_stimuli: int = 96,
    seed: int = 0,
    **population: Any,
) -> Path:
    """Write a simulated recording as a lab would have it: npy, zip, csv and a dataset card.

    The folder also gets ``truth.json`` with the planted layer and the analytic reliability.

    Args:
        folder: where to write; it appears whole or not at all.
        name: of the dataset.
        model, layer: the network layer that is read out.
        n_stimuli, seed: of the procedural scenes.
        **population: arguments of `simulate`.

    Returns:
        The path of the card, ready for `repalign.ingest`.
    """
    pictures = make_scenes(n_stimuli, seed=seed)
    features = layer_features(model, layer, list(pictures.images))
    simulated = simulate(features, seed=seed, **population)
    truth = {"model": model, "layer": layer, "seed": seed, **population}
    truth["reliability"] = simulated.reliability.tolist()
    with building(Path(folder)) as raw:
        write_raw_files(
            raw,
            responses=simulated.responses,
            images=pictures.images,
            stimuli={"stimulus_id": list(pictures.stimulus_id), **pictures.table},
            truth=truth,
        )
        write_file(raw / f"{name}.toml", _card(name, model, layer))
    return Path(folder) / f"{name}.toml"


def write_raw_files(
    folder: Path,
    *,
    responses: Float[np.ndarray, "repetition stimulus neuroid"],
    images: Iterable[UInt8[np.ndarray, "height width channel"]],
    stimuli: Mapping[str, Iterable[Any]],
    truth: Mapping[str, Any],
) -> None:
    """Write ``responses.npy``, ``images.zip``, ``stimuli.csv`` and ``truth.json``.

    The same content gives the same bytes.

    Args:
        folder: where to write; it exists.
        responses: float32 in the file.
        images: one a stimulus, in order.
        stimuli: columns of the table, ``stimulus_id`` among them.
        truth: what was planted.
    """
    np.save(folder / "responses.npy", responses.astype(np.float32))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for stimulus, image in zip(stimuli["stimulus_id"], images, strict=True):
            archive.writestr(zipfile.ZipInfo(f"{stimulus}.png"), encode_png(image))  # a fixed date
    write_table(folder / "stimuli.csv", stimuli)
    write_file(folder / "truth.json", json.dumps(truth, indent=1))


def write_table(path: Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write columns, whose values hold no commas, as CSV."""
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    write_file(path, "\n".join(lines) + "\n")


def _card(name: str, model: str, layer: str) -> str:
    return f"""\
name = "{name}"
title = "Simulated IT population, read out of {layer} of {model}"
description = "Spike counts read out of {layer} of {model}, over procedural scenes: not a brain."
citation = "Simulated by repalign."
licence = "CC0-1.0"
species = "simulated"
regions = "IT"
modality = "simulation"
units = "spikes per presentation"
loader = "arrays"

[files]
responses = "responses.npy"
images = "images.zip"
stimuli = "stimuli.csv"

[options]
dims = ["repetition", "stimulus", "neuroid"]
subject = "simulated"
"""
