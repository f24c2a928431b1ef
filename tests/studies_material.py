"""A small study: a recording of two regions, and two networks' activations, as stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import repalign as ra
from repalign.recording import make_activations, make_recording
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
from repalign.store import write_store

N_STIMULI = 16
IDS = [f"s{i:02}" for i in range(N_STIMULI)]
METRICS = ["rsa", "cka", "ridge:folds=4"]


def write_recording(folder: Path, *, seed: int = 0, images: bool = True) -> Path:
    """Three repetitions, four neuroids of V4 and six of IT."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=(N_STIMULI, 10))
    trials = np.concatenate([signal + random.normal(size=signal.shape) for _ in range(3)])
    recording = make_recording(
        trials, stimulus_id=IDS * 3, region=["V4"] * 4 + ["IT"] * 6, species="macaque"
    )
    scenes = make_scenes(N_STIMULI, size=32)
    stimuli = Stimuli(tuple(IDS), [encode_png(image) for image in scenes.images])
    path = folder / "lab.zarr"
    ra.save_recording(recording, path, stimuli=stimuli if images else None, overwrite=True)
    return path


def write_network(
    folder: Path, name: str, layers: int, *, seed: int, ids: list[str] | None = None
) -> Path:
    """A store of activations with some layers."""
    ids = IDS if ids is None else ids
    random = np.random.default_rng(seed)
    for number in range(layers):
        values = random.normal(size=(len(ids), 20)).astype(np.float32)
        write_layer(folder / f"{name}.zarr" / f"l{number}", values, ids=ids)
    return folder / f"{name}.zarr"


def write_layer(path: Path, values: np.ndarray, *, ids: list[str] | None = None) -> None:
    layer = make_activations(
        values, IDS if ids is None else ids, path.parent.stem, path.name, values.shape[1:]
    )
    write_store(path, {"": layer}, provenance={}, overwrite=True)


def make_study(folder: Path, **changes: Any) -> dict[str, Any]:
    """The stores, once, and a configuration that names them."""
    if not (folder / "lab.zarr").exists():
        write_recording(folder)
        write_network(folder, "one", 3, seed=1)
        write_network(folder, "two", 2, seed=2)
    return {
        "name": "small",
        "recordings": [str(folder / "lab.zarr")],
        "models": [str(folder / "one.zarr"), str(folder / "two.zarr")],
        "metrics": METRICS,
        "inference": {"n_resamples": 20, "null_draws": 3, "seed": 1},
        "run": {"to": str(folder / "to")},
        **changes,
    }


CHEAP_LAYERS = 12


def make_cheap_study(folder: Path, **changes: Any) -> dict[str, Any]:
    """Many layers, and metrics that take a millisecond: 48 cells in 12 tasks."""
    if not (folder / "many.zarr").exists():
        write_network(folder, "many", CHEAP_LAYERS, seed=4)
    return make_study(
        folder,
        **{
            "models": [str(folder / "many.zarr")],
            "metrics": ["rsa", "cka"],
            "inference": {"n_resamples": 0, "null_draws": 0, "ceiling": "none", "seed": 1},
            **changes,
        },
    )
